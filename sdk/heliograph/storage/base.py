"""What every storage does with bundles: keys, references, and checks. Subclasses only put and get bytes.

Objects: `bundles/sha256/ab/<hex>/{bundle.tar,manifest.json}` and `launch/sha256/<hex>.json` below the location. They
are named by what they hold and never change, so storing the same content again stores nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from heliograph.config import config
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage.launch import LaunchSettings
from heliograph.storage.manifest import BundleFormat, MalformedManifestError, Manifest, digest_hex

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.storage.bundle import Bundle

__all__ = ["BundleRef", "Storage"]

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
_SALT_KEY = "launch/salt"
_MAX_SALT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class BundleRef:
    """Where a bundle is and which bytes it must have: what the control plane keeps of it.

    Attributes:
        storage: Kind of storage, `local` or `s3`.
        location: A folder, or `s3://bucket/prefix`. No credentials, no query.
        digest: Of the manifest.
        launch_digest: Of the launch settings beside it.
        format: What is loaded.
        python_version: `3.11.7`.
        host: The host that has the files; empty means any.
    """

    storage: str
    location: str
    digest: str
    launch_digest: str
    format: BundleFormat = BundleFormat.SOURCE
    python_version: str = ""
    host: str = ""


class Storage:
    """Where a flow's bundles are: in the user's own infrastructure.

    Args:
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file: for notebooks and flows that are built from data.
        flow_file: The file that has the flow; found when not given.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        *,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        flow_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.flow_file = Path(flow_file).expanduser().absolute() if flow_file is not None else None
        self.project_root = Path(project_root).expanduser().absolute() if project_root is not None else None
        self.pickle = pickle

    # --- by subclasses -----------------------------------------------------------------------------------------------

    @classmethod
    def at(cls, location: str, host: str = "") -> Storage:
        """Returns the storage that a location names, as `location` and `host` gave it, to fetch from.

        Raises:
            StorageError: If it is malformed.
        """
        raise StorageError(f"{cls.__name__} storage is named by no location: {location!r}, {host=}")

    @property
    def location(self) -> str:
        """Where the objects are, as a reference names it."""
        raise StorageError(f"{type(self).__name__} has no location")

    @property
    def host(self) -> str:
        """The host whose agents alone can fetch from here; empty means any."""
        return ""

    @property
    def reference_kind(self) -> str:
        """Kind that references name: another one where a storage leaves bundles to it."""
        return self.kind

    @property
    def image(self) -> str:
        """The image that the storage brings for flows that name none; empty means none."""
        return ""

    def prepare(self, flow: Flow, *, project_root: str | os.PathLike[str] | None, pickle: bool | None) -> Sequence[str]:
        """Does what must be there before a flow is described, such as its image. Returns what to tell the author.

        Args:
            flow: The flow.
            project_root: As for `make_bundle`.
            pickle: As for `make_bundle`.

        Raises:
            StorageError: If it cannot be done.
        """
        del flow, project_root, pickle
        return ()

    def written(self) -> Sequence[Path]:
        """Returns the folders and files of this machine that the storage writes: they go into no bundle."""
        return ()

    def ledger(self) -> Mapping[str, str]:
        """Returns where ledgers go when a flow's result does not say: at home on the machine of the run."""
        return {"kind": "local", "dir": ""}

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        """Stores an object unless these bytes, or without `replace` any, are there; True when this call stored it."""
        raise StorageError(f"{type(self).__name__} cannot store {key}, {len(data)} bytes, {replace=}")

    def _open(self, key: str) -> BinaryIO:
        """Opens an object. Raises StorageError when it is not there."""
        raise StorageError(f"{type(self).__name__} cannot fetch {key}")

    # --- storing -----------------------------------------------------------------------------------------------------

    def make_bundle(
        self, flow: Flow, *, project_root: str | os.PathLike[str] | None = None, pickle: bool | None = None
    ) -> Bundle:
        """Makes the bundle of a flow as this storage keeps it. Nothing is stored yet.

        Args:
            flow: The flow.
            project_root: Folder that goes into the bundle, instead of the storage's own.
            pickle: Whether a pickle is loaded, instead of what the storage says.

        Raises:
            StorageError: If it cannot be made.
        """
        from heliograph.storage.bundle import build_bundle

        return build_bundle(
            flow,
            project_root=project_root if project_root is not None else self.project_root,
            pickle=self.pickle if pickle is None else pickle,
            flow_file=self.flow_file,
            leave_out=self.written(),
        )

    def put_bundle(self, bundle: Bundle, launch: LaunchSettings | None = None) -> BundleRef:
        """Stores a bundle and its launch settings. The same content again stores nothing; what was damaged is replaced.

        Raises:
            StorageError: If it cannot be stored. What was stored so far is complete or unreachable.
        """
        settings = (launch or LaunchSettings()).with_salt(self._salt())
        manifest = bundle.manifest
        folder = bundle_key(manifest.digest)
        # The manifest comes last: where there is one, there is an archive.
        self._put(f"{folder}/bundle.tar", bundle.archive())
        if not self._has_manifest(manifest.digest):
            self._put(f"{folder}/manifest.json", manifest.to_json())
        self._put(_launch_key(settings.digest), settings.to_json())
        return BundleRef(
            storage=self.kind,
            location=self.location,
            digest=manifest.digest,
            launch_digest=settings.digest,
            format=manifest.format,
            python_version=manifest.info.get("python", manifest.python),
            host=self.host,
        )

    # --- fetching ----------------------------------------------------------------------------------------------------

    def fetch_manifest(self, ref: BundleRef) -> Manifest:
        """Returns the manifest, checked against the reference.

        Raises:
            StorageError: If it is not there or cannot be read.
            BundleChangedError: If it is not the one that was registered.
        """
        return self._manifest(ref.digest)

    def fetch_launch(self, ref: BundleRef) -> LaunchSettings:
        """Returns the launch settings, checked against the reference.

        Raises:
            StorageError: If they are not there or cannot be read.
            BundleChangedError: If they are not those that were registered.
        """
        return LaunchSettings.from_json(
            self._read(_launch_key(ref.launch_digest), MAX_MANIFEST_BYTES), ref.launch_digest
        )

    def fetch(self, ref: BundleRef, cache_dir: str | os.PathLike[str]) -> Path:
        """Returns a read-only folder with exactly the bundle's files, from the cache when it has them.

        Every file is compared with the manifest, and the manifest with the reference, at every call. Safe to call from
        several processes at once. `Manifest` of the folder: `heliograph.storage.cache.manifest_of(folder)`.

        Raises:
            StorageError: If the bundle is not there, too large, or cannot be written here.
            BundleChangedError: If it is not what was registered.
        """
        from heliograph.storage.cache import fetch_into

        return fetch_into(Path(cache_dir), ref.digest, lambda: self.fetch_manifest(ref), self._open_archive)

    def remarks(self) -> Sequence[str]:
        """Returns what whoever reads the run's output should know of the last fetch."""
        return ()

    def _open_archive(self, manifest: Manifest) -> BinaryIO:
        refuse_too_large(manifest)
        return self._open(f"{bundle_key(manifest.digest)}/bundle.tar")

    def _read(self, key: str, limit: int) -> bytes:
        with closing(self._open(key)) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise StorageError(f"{key} in {self.location} is larger than {limit} bytes")
        return data

    def _manifest(self, digest: str) -> Manifest:
        data = self._read(f"{bundle_key(digest)}/manifest.json", MAX_MANIFEST_BYTES)
        try:
            return Manifest.from_json(data, digest)
        except MalformedManifestError as error:  # nothing malformed is ever registered
            raise BundleChangedError(
                f"the bundle was registered with {digest}, but what is stored of it is damaged: {error}",
                hint="Somebody changed the storage after registration. Register the flow again, from its source.",
            ) from error

    def _has_manifest(self, digest: str) -> bool:
        """True when the manifest is there and right; its remarks may be those of an earlier registration."""
        try:
            self._manifest(digest)
        except (ObjectMissingError, BundleChangedError):
            return False
        return True

    def _salt(self) -> str:
        """One random text per storage, made once: see `LaunchSettings.salt`."""
        try:
            data = self._read(_SALT_KEY, _MAX_SALT_BYTES)
        except ObjectMissingError:
            self._put(_SALT_KEY, secrets.token_hex(16).encode(), replace=False)
            data = self._read(_SALT_KEY, _MAX_SALT_BYTES)  # another process may have been quicker
        return data.decode("ascii", "replace")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Storage) or type(self) is not type(other):
            return False
        return (*self._identity(), self.project_root, self.pickle) == (
            *other._identity(),
            other.project_root,
            other.pickle,
        )

    def __hash__(self) -> int:
        return hash((self.kind, *self._identity()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(part) for part in self._identity() if part)})"

    def _identity(self) -> tuple[object, ...]:
        """What tells this place from others, known without asking anybody."""
        return (self.location,)


class ObjectMissingError(StorageError):
    """The object is not there."""


def refuse_too_large(manifest: Manifest) -> None:
    """Refuses what is larger than a bundle may be here.

    Raises:
        StorageError: It is.
    """
    limit = config().storage.hard_limit_bytes
    if manifest.size_bytes > limit:
        raise StorageError(
            f"the bundle of {manifest.flow} has {manifest.size_bytes} bytes; the limit here is {limit}",
            hint="Raise the setting storage.hard_limit_bytes, or leave data files out of the bundle.",
        )


def bundle_key(digest: str) -> str:
    """Returns the key below which a bundle's objects are."""
    value = digest_hex(digest)
    return f"bundles/sha256/{value[:2]}/{value}"


def _launch_key(digest: str) -> str:
    return f"launch/sha256/{digest_hex(digest)}.json"
