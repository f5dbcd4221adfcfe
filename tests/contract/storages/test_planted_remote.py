"""Faults are found: each test plants one in OCI, HTTP or Docker storage and wants a test of the suite to fail."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages import test_holding, test_http, test_oci, test_storages
from tests.contract.storages.docker_ground import DockerGround
from tests.contract.storages.ground import Ground
from tests.contract.storages.http_ground import HttpGround
from tests.contract.storages.oci_ground import OciGround
from tests.contract.storages.test_planted import FAILED
from tests.support.dav import DavServer
from tests.support.token_registry import TokenRegistry, token_registry
from tests.unit.storage.conftest import project

from heliograph.exceptions import StorageError
from heliograph.storage import HTTP, BundleRef, Docker, Manifest, docker, http_client, oci
from heliograph.storage.base import bundle_key
from heliograph.storage.bundle import Bundle
from heliograph.storage.image_build import Context
from heliograph.storage.registry_client import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Repository

__all__ = ["project", "token_registry"]

FOUND = (*FAILED, StorageError)
_ticks = itertools.count()
Patch = pytest.MonkeyPatch


@pytest.fixture
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[type[Ground]], Ground]]:
    made: list[Ground] = []

    def make(kind: type[Ground]) -> Ground:
        made.append(kind(tmp_path, request))
        made[-1].open()
        return made[-1]

    yield make
    for one in made:
        one.close()


def _nothing(text: str) -> None:
    """Takes a figure."""


# --- faults in OCI storage -------------------------------------------------------------------------------------------


def takes_bytes_for_right(patch: Patch) -> None:
    """Compares nothing that the registry sends with the digest that was asked for."""

    def read(self: Repository, kind: str, what: str, limit: int) -> bytes:
        answer = self._send("GET", f"{kind}/{what}", headers={"Accept": MANIFEST_TYPE}, expect=(200, 404), limit=limit)
        if answer.status == 404:
            raise self._missing(what)
        return answer.body

    def blob(self: Repository, digest: str, limit: int) -> bytes:
        return read(self, "blobs", digest, limit)

    def manifest(self: Repository, reference: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(read(self, "manifests", reference, MAX_MANIFEST_BYTES))
        return found

    patch.setattr(Repository, "blob", blob)
    patch.setattr(Repository, "manifest", manifest)


def trusts_a_head(patch: Patch) -> None:
    """Takes a blob for whole when the registry says that it has one."""
    found = Repository.is_whole

    def is_whole(self: Repository, digest: str, size: int) -> bool | None:
        there = self._send("HEAD", f"blobs/{digest}", expect=(200, 404)).status == 200
        return True if there else found(self, digest, size)

    patch.setattr(Repository, "is_whole", is_whole)


def names_by_tag(patch: Patch) -> None:
    """Pushes again what is there, so that the tag is written anew each time."""
    patch.setattr(oci, "_present", lambda *_: "")


def new_salt_each_time(patch: Patch) -> None:
    """Stores a salt without looking whether there is one."""
    import secrets

    def salt(repository: Repository) -> str:
        oci.store_salt(repository, secrets.token_hex(16))
        return oci.stored_salt(repository)

    patch.setattr(oci, "_salt", salt)


# --- faults in HTTP storage ------------------------------------------------------------------------------------------


def trusts_what_is_there(patch: Patch) -> None:
    """Takes a file for right when there is one."""
    patch.setattr(HTTP, "_same", lambda *_: True)


def overwrites(patch: Patch) -> None:
    """Puts each file without looking, whoever has put one there."""
    sound = HTTP._put

    def put(self: HTTP, key: str, data: bytes, *, replace: bool = True) -> bool:
        send = self._send

        def blind(session: Any, method: str, key: str, **options: Any) -> Any:
            if method == "HEAD":
                return http_client.Answer(404, {})
            return send(session, method, key, **{**options, "headers": {}})

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self, "_send", blind)
            return sound(self, key, data, replace=replace)

    patch.setattr(HTTP, "_put", put)


def asks_without_a_login(patch: Patch) -> None:
    """Never sends its login."""
    patch.setattr(HTTP, "_login", lambda _: {})


# --- faults in Docker storage ----------------------------------------------------------------------------------------


def takes_the_image_for_right(patch: Patch) -> None:
    """Compares the manifest in an image with nothing."""

    def fetch_manifest(self: Docker, ref: BundleRef) -> Manifest:
        with self._open(f"{bundle_key(ref.digest)}/manifest.json") as stream:
            data = stream.read()
        return Manifest.from_json(data, f"sha256:{hashlib.sha256(data).hexdigest()}")

    patch.setattr(Docker, "fetch_manifest", fetch_manifest)


def has_times_in_its_layer(patch: Patch) -> None:
    """Makes another layer of the same code each time."""
    baked = docker._baked

    def timed(environment: str, bundle: Bundle) -> Context:
        made = baked(environment, bundle)
        return replace(made, files={name: (data + b" " * next(_ticks), x) for name, (data, x) in made.files.items()})

    patch.setattr(docker, "_baked", timed)


def tells_values(patch: Patch) -> None:
    """Takes launch settings into the location as they are."""
    patch.setattr(docker, "public_part", lambda settings, *_: settings)


def _damage(ground: Any) -> None:
    test_storages.test_what_is_not_as_registered_is_refused(ground, _nothing)


PLANTED: list[tuple[type[Ground], Callable[[Patch], None], Callable[[Any], None]]] = [
    (OciGround, takes_bytes_for_right, _damage),
    (OciGround, trusts_a_head, test_holding.test_registering_again_repairs_what_was_damaged),
    (OciGround, names_by_tag, test_storages.test_the_same_content_again_stores_nothing),
    (OciGround, new_salt_each_time, test_holding.test_a_salt_that_is_there_stays),
    (HttpGround, trusts_what_is_there, test_holding.test_registering_again_repairs_what_was_damaged),
    (HttpGround, overwrites, test_storages.test_the_same_content_again_stores_nothing),
    (HttpGround, overwrites, test_holding.test_a_salt_that_is_there_stays),
    (DockerGround, takes_the_image_for_right, _damage),
    (DockerGround, has_times_in_its_layer, test_storages.test_the_same_content_again_stores_nothing),
    (DockerGround, tells_values, test_storages.test_launch_settings_come_back_and_their_digest_tells_nothing),
    (HttpGround, asks_without_a_login, test_storages.test_what_is_registered_passes_an_agents_checks_and_runs),
]


@pytest.mark.parametrize(
    ("kind", "fault", "finds"),
    [
        pytest.param(
            *case, id=f"{case[0].kind}-{case[1].__name__}", marks=pytest.mark.xdist_group(f"storage-{case[0].kind}")
        )
        for case in PLANTED
    ],
)
def test_a_fault_is_found(
    ground: Callable[[type[Ground]], Ground],
    monkeypatch: Patch,
    kind: type[Ground],
    fault: Callable[[Patch], None],
    finds: Callable[[Any], None],
) -> None:
    place = ground(kind)
    fault(monkeypatch)
    with pytest.raises(FOUND):
        finds(place)


# --- a login that follows a redirection ------------------------------------------------------------------------------


@pytest.mark.xdist_group("storage-http")
def test_a_login_that_goes_to_another_host_is_found_in_http_storage(
    dav_server: DavServer, project: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(http_client, "_origin", lambda _: ("", "", 0))
    with pytest.raises(AssertionError):
        test_http.test_a_redirection_to_another_host_gets_no_login(dav_server, project, tmp_path, monkeypatch)


@pytest.mark.xdist_group("storage-oci")
def test_a_login_that_goes_to_another_host_is_found_in_oci_storage(
    token_registry: TokenRegistry, project: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(http_client, "_origin", lambda _: ("", "", 0))
    with pytest.raises(AssertionError, match="a credential left"):
        test_oci.test_a_token_servers_token_is_used_and_the_login_goes_nowhere_else(
            token_registry, project, tmp_path, monkeypatch
        )
