"""Bundles in a real OCI registry, open and with a user; what it cannot be made to show comes from a small server."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.registry import Registry, protected_registry, registry
from tests.support.token_registry import TokenRegistry, token_registry
from tests.unit.storage.conftest import project

from heliograph.config import set_temporary_config
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.run_configs import DockerRun
from heliograph.storage import OCI, S3, BundleRef, LaunchSettings, Local, from_reference, http_client, registry_client
from heliograph.storage.cache import manifest_of
from heliograph.storage.default import repository_of, storage_of
from heliograph.storage.load import load_flow
from heliograph.storage.registry_login import login_for

__all__ = ["project", "protected_registry", "registry", "token_registry"]

pytestmark = pytest.mark.xdist_group("storage-oci")

Project = Callable[..., tuple[Path, Any]]
SECRET_ENV = LaunchSettings(env={"API_KEY": "k-74"}, image="registry.internal/flows@sha256:" + "0" * 64)


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's logins are here: a folder that Docker's configuration may be written to."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "docker"


def _put(storage: OCI, flow: Any, launch: LaunchSettings = SECRET_ENV) -> BundleRef:
    return storage.put_bundle(storage.make_bundle(flow), launch)


def _tree(registry: Registry) -> dict[str, int]:
    """Returns every file that the registry has, with the time of its last change."""
    data = registry.folder / "data"
    return {str(path): path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}


def _get(registry: Registry, path: str, *, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(f"http://{registry.address}/v2/{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def test_a_flow_runs_from_a_registry_and_registering_it_again_uploads_nothing(
    registry: Registry, project: Project, tmp_path: Path
) -> None:
    _, flow = project({"data.txt": "inside"})
    storage = OCI(f"{registry.address}/team/flows-1")
    ref = _put(storage, flow)
    before = _tree(registry)
    again = _put(OCI(f"{registry.address}/team/flows-1"), flow)
    assert (again, _tree(registry)) == (ref, before)

    reader = from_reference(ref.storage, ref.location)
    assert reader.fetch_launch(ref).env == {"API_KEY": "k-74"}
    folder = reader.fetch(ref, tmp_path / "cache")
    assert (folder / "data.txt").read_text() == "inside"
    assert load_flow(folder, manifest_of(folder)).run().is_successful()
    registry_is_gone = from_reference(ref.storage, ref.location.replace(registry.address, "127.0.0.1:9"))
    assert registry_is_gone.fetch(ref, tmp_path / "cache") == folder, "the cache has it"


def test_the_location_names_an_artifact_by_its_digest_that_other_tools_can_read(
    registry: Registry, project: Project
) -> None:
    _, flow = project()
    ref = _put(OCI(f"{registry.address}/team/flows-2"), flow)
    digest = ref.location.rpartition("@")[2]
    data = _get(registry, f"team/flows-2/manifests/{digest}", accept=registry_client.MANIFEST_TYPE)
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    manifest = json.loads(data)
    assert manifest["artifactType"] == "application/vnd.heliograph.bundle.v1"
    assert [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]] == [
        "bundle.tar", "manifest.json", "launch.json",
    ]  # fmt: skip
    assert manifest["layers"][2]["digest"] == ref.launch_digest
    tags = json.loads(_get(registry, "team/flows-2/tags/list"))["tags"]
    assert len([tag for tag in tags if tag.startswith("bundle-")]) == 1, "a tag keeps it from being swept away"


def test_changed_code_or_settings_are_another_artifact_and_the_old_one_stays(
    registry: Registry, project: Project, tmp_path: Path
) -> None:
    storage = OCI(f"{registry.address}/team/flows-3")
    _, flow = project()
    first = _put(storage, flow)
    other_settings = _put(storage, flow, LaunchSettings(env={"API_KEY": "k-75"}))
    assert other_settings.digest == first.digest
    assert other_settings.location != first.location
    _, changed = project({"more.txt": "x"})
    second = _put(storage, changed)
    assert second.digest != first.digest
    for ref in (first, other_settings, second):
        from_reference("oci", ref.location).fetch(ref, tmp_path / ref.location[-8:])


def test_what_was_damaged_in_the_registry_is_refused(registry: Registry, project: Project, tmp_path: Path) -> None:
    _, flow = project()
    ref = _put(OCI(f"{registry.address}/team/flows-4"), flow)
    reader = OCI.at(ref.location)
    layers = json.loads(_get(registry, f"team/flows-4/manifests/{ref.location.rpartition('@')[2]}",
                             accept=registry_client.MANIFEST_TYPE))["layers"]  # fmt: skip
    blobs = registry.folder / "data" / "docker" / "registry" / "v2" / "blobs" / "sha256"
    for number, layer in enumerate(layers):
        value = layer["digest"].removeprefix("sha256:")
        path = blobs / value[:2] / value / "data"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        fetches = [lambda n=number: reader.fetch(ref, tmp_path / f"cache-{n}"), lambda: reader.fetch_launch(ref)]
        with pytest.raises(BundleChangedError, match="other bytes"):
            fetches[number == 2]()
        path.write_bytes(whole)
    reader.fetch(ref, tmp_path / "cache")


def test_a_reference_to_something_else_is_refused(registry: Registry, project: Project, tmp_path: Path) -> None:
    storage = OCI(f"{registry.address}/team/flows-5")
    _, flow = project()
    ref = _put(storage, flow)
    _, other = project({"more.txt": "x"})
    theirs = _put(storage, other)
    with pytest.raises(BundleChangedError, match="was registered with"):
        OCI.at(theirs.location).fetch(ref, tmp_path / "cache")
    salt = _get(registry, "team/flows-5/manifests/heliograph-salt", accept=registry_client.MANIFEST_TYPE)
    no_bundle = f"oci://{registry.address}/team/flows-5@sha256:{hashlib.sha256(salt).hexdigest()}"
    with pytest.raises(BundleChangedError, match="is no bundle"):
        OCI.at(no_bundle).fetch(ref, tmp_path / "cache")
    nothing = f"oci://{registry.address}/team/flows-5@sha256:{'0' * 64}"
    with pytest.raises(StorageError, match=r"sha256:0+ is not there"):
        OCI.at(nothing).fetch(ref, tmp_path / "cache")


@pytest.mark.parametrize(
    "location",
    ["oci://h", "oci://h/", "oci://H.example/x", "oci://h/X", "oci://h/a/../b", "oci://h/a?x=1", "oci://h/a#x",
     "oci://user:pw@h/a", "oci://h/a@sha256:12", "oci://h/a@sha512:" + "0" * 64, "https://h/a", "oci://h:99999999/a",
     "oci://h/a%2e", "oci://h/a\n"],
)  # fmt: skip
def test_a_malformed_location_is_refused(location: str) -> None:
    with pytest.raises(StorageError):
        from_reference("oci", location)


def test_logins_of_every_form(
    protected_registry: Registry, project: Project, no_logins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry with a user: without a login, a wrong one, `docker login`'s, a helper's, a secret, a bound secret."""
    address = protected_registry.address
    _, flow = project()
    with pytest.raises(StorageError, match="does not let this machine store in it") as caught:
        _put(OCI(f"{address}/team/flows"), flow)
    assert "docker login" in caught.value.hint

    monkeypatch.setenv(
        "HELIOGRAPH__SECRETS__REGISTRY_LOGIN", f"{protected_registry.user}:{protected_registry.password}"
    )
    ref = _put(OCI(f"{address}/team/flows", secret="REGISTRY_LOGIN"), flow)
    assert protected_registry.password not in repr(ref)
    with pytest.raises(StorageError, match="does not let this machine read it"):
        OCI.at(ref.location).fetch(ref, tmp_path / "none")
    with set_temporary_config({"storage.tokens": (f"{address}=REGISTRY_LOGIN",)}):
        OCI.at(ref.location).fetch(ref, tmp_path / "bound")

    monkeypatch.setenv("HELIOGRAPH__SECRETS__WRONG", "pusher:wr0ng")
    with set_temporary_config({"storage.tokens": (f"{address}/team=WRONG",)}):
        with pytest.raises(StorageError, match="does not let") as caught:
            OCI.at(ref.location).fetch(ref, tmp_path / "none")
        assert "wr0ng" not in f"{caught.value} {caught.value.hint}"

    protected_registry.login(no_logins)
    OCI.at(ref.location).fetch(ref, tmp_path / "config")

    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    told = json.dumps({"Username": protected_registry.user, "Secret": protected_registry.password})
    helper.write_text(f"#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {address}' ] && echo '{told}'\n")
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    (no_logins / "config.json").write_text(json.dumps({"credHelpers": {address: "test"}}))
    OCI.at(ref.location).fetch(ref, tmp_path / "helper")
    (no_logins / "config.json").write_text(json.dumps({"credsStore": "absent"}))
    with pytest.raises(StorageError, match="docker-credential-absent"):
        OCI.at(ref.location).fetch(ref, tmp_path / "none")


def test_logins_are_found_by_the_longest_path_and_by_hubs_old_names(no_logins: Path) -> None:
    no_logins.mkdir()

    def auth(user: str) -> dict[str, str]:
        return {"auth": base64.b64encode(f"{user}:p".encode()).decode()}

    (no_logins / "config.json").write_text(json.dumps({"auths": {
        "https://index.docker.io/v1/": auth("hub"), "r.example": auth("all"), "r.example/team": auth("team"),
        "https://old.example/v1/": auth("old"), "bad.example": {"auth": "!"},
        "acr.example": {"auth": base64.b64encode(b"0:").decode(), "identitytoken": "idt"},
    }}))  # fmt: skip
    found = {place: login_for(*place.split("/", 1)) for place in
             ("docker.io/a/b", "r.example/x", "r.example/team/flows", "r.example/teams", "old.example/x")}  # fmt: skip
    assert {place: login.user if login else "" for place, login in found.items()} == {
        "docker.io/a/b": "hub", "r.example/x": "all", "r.example/team/flows": "team", "r.example/teams": "all",
        "old.example/x": "old",
    }  # fmt: skip
    acr = login_for("acr.example", "x")
    assert acr is not None
    assert acr.identity_token == "idt"
    assert login_for("other.example", "x") is None
    with pytest.raises(StorageError, match=r"malformed login for bad\.example"):
        login_for("bad.example", "x")


def test_large_bundles_are_uploaded_in_pieces(
    registry: Registry, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_client, "PIECE_BYTES", 64 * 1024)
    content = os.urandom(150 * 1024).hex()
    _, flow = project({"data.txt": content})
    ref = _put(OCI(f"{registry.address}/team/flows-6"), flow)
    folder = OCI.at(ref.location).fetch(ref, tmp_path / "cache")
    assert (folder / "data.txt").read_text() == content


def test_plain_http_is_spoken_to_this_machine_only_unless_the_owner_says_so() -> None:
    assert registry_client.Repository("registry.internal:5000", "x")._base.startswith("https://")
    with pytest.raises(StorageError, match="not encrypted"):
        http_client.Session().send("GET", "http://registry.internal:5000/v2/")
    assert registry_client.Repository("127.0.0.1:5000", "x")._base.startswith("http://")
    with set_temporary_config({"storage.insecure_hosts": ("registry.internal:5000",)}):
        assert registry_client.Repository("registry.internal:5000", "x")._base.startswith("http://")


def test_a_flow_with_an_image_and_no_storage_is_kept_beside_the_image(registry: Registry, project: Project) -> None:
    _, flow = project()
    assert storage_of(flow) == (Local(), "")
    flow.run_config = DockerRun(image=f"{registry.address}/team/flows:1")
    storage, said = storage_of(flow)
    assert storage == OCI(f"{registry.address}/team/flows")
    assert f"oci://{registry.address}/team/flows" in said
    flow.storage = S3("bucket")
    assert storage_of(flow) == (S3("bucket"), "")
    assert [repository_of(image) for image in
            ("python:3.12", "me/flows:1", "r.example/a/b", f"r.example:5000/a@sha256:{'0' * 64}", "localhost/a:1", "")
            ] == ["", "", "r.example/a/b", "r.example:5000/a", "localhost/a", ""]  # fmt: skip


# --- what only a small server shows ----------------------------------------------------------------------------------


def test_a_token_servers_token_is_used_and_the_login_goes_nowhere_else(
    token_registry: TokenRegistry, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloads are redirected to another host, as clouds do, which must not see the login or the token."""
    monkeypatch.setenv("HELIOGRAPH__SECRETS__LOGIN", f"{token_registry.user}:{token_registry.password}")
    _, flow = project()
    with set_temporary_config({"storage.tokens": (f"{token_registry.address}=LOGIN",)}):
        ref = _put(OCI(f"{token_registry.address}/team/flows"), flow)
        assert token_registry.scopes == {"repository:team/flows:pull,push"}
        token_registry.scopes.clear()
        token_registry.expire_tokens()
        OCI.at(ref.location).fetch(ref, tmp_path / "cache")
    assert token_registry.scopes == {"repository:team/flows:pull"}
    assert token_registry.redirected > 0
    assert token_registry.seen_elsewhere == [], "a credential left for another host"


def test_what_was_damaged_is_replaced_where_the_registry_lets_it(
    token_registry: TokenRegistry, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HELIOGRAPH__SECRETS__LOGIN", f"{token_registry.user}:{token_registry.password}")
    _, flow = project()
    storage = OCI(f"{token_registry.address}/team/flows")
    bundle = storage.make_bundle(flow)
    with set_temporary_config({"storage.tokens": (f"{token_registry.address}=LOGIN",)}):
        ref = storage.put_bundle(bundle, SECRET_ENV)
        archive = f"sha256:{hashlib.sha256(bundle.archive()).hexdigest()}"
        for digest in (archive, ref.launch_digest):
            for changed in (b"other", token_registry.blobs[digest] + b"x"):
                token_registry.blobs[digest] = changed
                assert storage.put_bundle(bundle, SECRET_ENV) == ref
                assert f"sha256:{hashlib.sha256(token_registry.blobs[digest]).hexdigest()}" == digest
        OCI.at(ref.location).fetch(ref, tmp_path / "cache")
        assert OCI.at(ref.location).fetch_launch(ref).env == {"API_KEY": "k-74"}


def test_an_identity_token_is_exchanged(token_registry: TokenRegistry, project: Project, no_logins: Path) -> None:
    no_logins.mkdir()
    entry = {"auth": base64.b64encode(b"0:").decode(), "identitytoken": token_registry.identity_token}
    (no_logins / "config.json").write_text(json.dumps({"auths": {token_registry.address: entry}}))
    _, flow = project()
    _put(OCI(f"{token_registry.address}/team/flows"), flow)
    assert token_registry.refreshed == 1


def test_faults_that_pass_are_waited_for_and_others_said(
    token_registry: TokenRegistry, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HELIOGRAPH__SECRETS__LOGIN", f"{token_registry.user}:{token_registry.password}")
    _, flow = project()
    with set_temporary_config({"storage.tokens": (f"{token_registry.address}=LOGIN",)}):
        token_registry.faults = ["503", "429", "cut", "upload lost", "link empty", "link empty"]
        ref = _put(OCI(f"{token_registry.address}/team/flows"), flow)
        assert token_registry.faults == []
        token_registry.faults = ["link empty"] * 3
        with pytest.raises(StorageError, match="DIGEST_INVALID"):
            _put(OCI(f"{token_registry.address}/team/flows"), flow, LaunchSettings(image="flows:2"))
        token_registry.faults = ["short"]
        OCI.at(ref.location).fetch(ref, tmp_path / "cache")
        assert token_registry.faults == []
        token_registry.faults = ["403"]
        with pytest.raises(StorageError, match="does not let this machine read it"):
            OCI.at(ref.location).fetch_launch(ref)
        token_registry.faults = ["other digest"]
        with pytest.raises(BundleChangedError):
            OCI.at(ref.location).fetch_manifest(ref)
