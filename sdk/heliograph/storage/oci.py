"""Bundles as artifacts of an OCI registry, beside the images that run them.

One registration is one artifact: an image manifest with an `artifactType` whose layers are `bundle.tar`,
`manifest.json` and `launch.json`. The location names it by its digest; a tag keeps registries from sweeping it away.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, cast

from heliograph.config import config
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage.base import MAX_MANIFEST_BYTES, BundleRef, ObjectMissingError, Storage, refuse_too_large
from heliograph.storage.launch import LaunchSettings
from heliograph.storage.manifest import BundleFormat, MalformedManifestError, Manifest, digest_hex
from heliograph.storage.registry_client import MANIFEST_TYPE, Repository, digest_of, parse_repository

if TYPE_CHECKING:
    from heliograph.storage.bundle import Bundle

__all__ = ["OCI", "parse_location"]

ARTIFACT_TYPE = "application/vnd.heliograph.bundle.v1"
SALT_TYPE = "application/vnd.heliograph.salt.v1"
ARCHIVE_LAYER = "application/vnd.heliograph.bundle.v1.tar"
MANIFEST_LAYER = "application/vnd.heliograph.bundle.manifest.v1+json"
LAUNCH_LAYER = "application/vnd.heliograph.launch.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
SALT_TAG = "heliograph-salt"

_MAX_MEMORY_BYTES = 8 * 1024 * 1024
_MAX_OVERHEAD_BYTES = 64 * 1024 * 1024  # of an archive over its files: up to 20,000 headers with long names
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_location(location: str) -> tuple[str, str, str]:
    """Returns host, name and digest of `oci://host/name[@sha256:…]`.

    Raises:
        StorageError: It is malformed.
    """
    scheme, _, rest = location.partition("://")
    place, at, digest = rest.partition("@")
    if scheme != "oci" or (at and not _DIGEST.fullmatch(digest)):
        raise StorageError(f"{location!r} is no location of an artifact: oci://host/name@sha256:… is expected")
    return (*parse_repository(place), digest)


class OCI(Storage):
    """Bundles in a repository of a registry: that of the flow's image, or any other.

    Args:
        repository: `registry.example.org/team/flows`: host, perhaps a port, and a name in small letters.
        secret: Name of the secret, `user:password`, that is the login at registration. By default what `docker login`
            left, a credential helper, or for ECR AWS' credentials. Agents have their own: see `storage.tokens`.
        insecure: True to speak to the host without TLS at registration. Agents' owners say so by
            `storage.insecure_hosts`.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
    """

    kind: ClassVar[str] = "oci"

    def __init__(
        self,
        repository: str,
        *,
        secret: str | None = None,
        insecure: bool = False,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
    ) -> None:
        super().__init__(project_root=project_root, pickle=pickle)
        self.registry, self.name = parse_repository(repository.removeprefix("oci://"))
        self._secret = secret or ""
        self._insecure = insecure
        self._digest = ""

    @classmethod
    def at(cls, location: str, host: str = "") -> OCI:
        """Returns the storage that a location names, to fetch from."""
        del host  # of storage on one machine
        registry, name, digest = parse_location(location)
        made = cls(f"{registry}/{name}")
        made._digest = digest
        return made

    @property
    def location(self) -> str:
        """`oci://host/name`; a reference has the artifact's digest as well."""
        place = f"oci://{self.registry}/{self.name}"
        return f"{place}@{self._digest}" if self._digest else place

    def _repository(self, *, write: bool = False) -> Repository:
        return Repository(self.registry, self.name, write=write, secret=self._secret, plain=self._insecure)

    # --- storing -----------------------------------------------------------------------------------------------------

    def put_bundle(self, bundle: Bundle, launch: LaunchSettings | None = None) -> BundleRef:
        """Stores a bundle with its launch settings as one artifact. The same content again stores nothing.

        A registry has no conditional writes: authors whose registrations are the repository's first, at the same time,
        may each bring another salt. Each of their artifacts is whole, and later ones have the salt that stayed.

        Raises:
            StorageError: If it cannot be stored, or the registry keeps a damaged copy of it. What was stored so far is
                swept away by the registry.
        """
        repository = self._repository(write=True)
        settings = (launch or LaunchSettings()).with_salt(_salt(repository))
        manifest, archive = bundle.manifest, bundle.archive()
        tag = f"bundle-{digest_hex(manifest.digest)[:32]}-{digest_hex(settings.digest)[:32]}"
        digest = _present(repository, tag, manifest, archive, settings)
        if not digest:
            layers = [
                _layer(repository, ARCHIVE_LAYER, archive, "bundle.tar"),
                _layer(repository, MANIFEST_LAYER, manifest.to_json(), "manifest.json"),
                _layer(repository, LAUNCH_LAYER, settings.to_json(), "launch.json"),
            ]
            digest = repository.put_manifest(tag, _artifact(repository, ARTIFACT_TYPE, layers))
        return BundleRef(
            storage=OCI.kind,
            location=f"oci://{self.registry}/{self.name}@{digest}",
            digest=manifest.digest,
            launch_digest=settings.digest,
            format=BundleFormat(manifest.format),
            python_version=manifest.info.get("python", manifest.python),
        )

    # --- fetching ----------------------------------------------------------------------------------------------------

    def fetch_manifest(self, ref: BundleRef) -> Manifest:
        """Returns the manifest, checked against the reference."""
        repository = self._repository()
        return _read_manifest(repository, self._layers(repository, ref), ref.digest)

    def fetch_launch(self, ref: BundleRef) -> LaunchSettings:
        """Returns the launch settings, checked against the reference: their digest is their name in the registry."""
        digest_hex(ref.launch_digest)
        data = self._repository().blob(ref.launch_digest, MAX_MANIFEST_BYTES)
        return LaunchSettings.from_json(data, ref.launch_digest)

    def fetch(self, ref: BundleRef, cache_dir: str | os.PathLike[str]) -> Path:
        """Returns a read-only folder with exactly the bundle's files, from the cache when it has them."""
        from heliograph.storage.cache import fetch_into

        return fetch_into(
            Path(cache_dir), ref.digest, lambda: self.fetch_manifest(ref), lambda manifest: self._archive(ref, manifest)
        )

    def _archive(self, ref: BundleRef, manifest: Manifest) -> BinaryIO:
        refuse_too_large(manifest)
        repository = self._repository()
        digest = _one(self._layers(repository, ref), ARCHIVE_LAYER)
        spool = tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES)  # noqa: SIM115 (the caller closes it)
        try:
            repository.blob_into(digest, spool, config().storage.hard_limit_bytes + _MAX_OVERHEAD_BYTES)
        except BaseException:
            spool.close()
            raise
        return cast("BinaryIO", spool)

    def _layers(self, repository: Repository, ref: BundleRef) -> Mapping[str, str]:
        digest = self._digest or parse_location(ref.location)[2]
        if not digest:
            raise StorageError(f"{ref.location} names no artifact by its digest")
        return _layers_of(repository.manifest(digest))


def _layer(repository: Repository, media_type: str, data: bytes, title: str) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": repository.put_blob(data),
        "size": len(data),
        "annotations": {"org.opencontainers.image.title": title},
    }


def _artifact(repository: Repository, artifact_type: str, layers: list[dict[str, Any]]) -> dict[str, Any]:
    empty = b"{}"
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": {"mediaType": EMPTY_TYPE, "digest": repository.put_blob(empty), "size": len(empty)},
        "layers": layers,
    }


def _present(repository: Repository, tag: str, manifest: Manifest, archive: bytes, launch: LaunchSettings) -> str:
    """Returns the digest of the artifact when the registry has it whole; its remarks may be those of another day."""
    try:
        found, digest = repository.manifest_with_digest(tag)
        layers = _layers_of(found)
        if layers.get(ARCHIVE_LAYER) != digest_of(archive) or layers.get(LAUNCH_LAYER) != launch.digest:
            return ""
        repository.manifest(digest)  # a damaged one is found by its tag only
        _read_manifest(repository, layers, manifest.digest)
        sizes = {ARCHIVE_LAYER: len(archive), LAUNCH_LAYER: len(launch.to_json())}
        whole = all(repository.is_whole(layers[kind], size) for kind, size in sizes.items())
    except (ObjectMissingError, BundleChangedError, MalformedManifestError):
        return ""
    return digest if whole else ""


def _read_manifest(repository: Repository, layers: Mapping[str, str], digest: str) -> Manifest:
    return Manifest.from_json(repository.blob(_one(layers, MANIFEST_LAYER), MAX_MANIFEST_BYTES), digest)


def _layers_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns digests by media type."""
    found: dict[str, str] = {}
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and _DIGEST.fullmatch(str(layer.get("digest"))):
            found[str(layer.get("mediaType"))] = str(layer["digest"])
    return found


def _one(layers: Mapping[str, str], media_type: str) -> str:
    if media_type not in layers:
        raise BundleChangedError("what the location names is no bundle", hint="Register the flow again.")
    return layers[media_type]


def _salt(repository: Repository) -> str:
    """One random text per repository, made once: see `LaunchSettings.salt`."""
    try:
        return stored_salt(repository)
    except ObjectMissingError:
        store_salt(repository, secrets.token_hex(16))
    return stored_salt(repository)  # another process may have been quicker


def stored_salt(repository: Repository) -> str:
    """Returns the salt that stands in a repository.

    Raises:
        ObjectMissingError: There is none.
    """
    found = _layers_of(repository.manifest(SALT_TAG))
    return repository.blob(_one(found, SALT_TYPE), 1024).decode("ascii", "replace")


def store_salt(repository: Repository, text: str) -> None:
    """Stores a salt in a repository that had none a moment ago. The last one who does stays."""
    layer = _layer(repository, SALT_TYPE, text.encode(), "salt")
    repository.put_manifest(SALT_TAG, _artifact(repository, SALT_TYPE, [layer]))
