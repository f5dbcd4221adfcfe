"""Storage that keeps no bundles: the commit of a repository is the content, and nothing is uploaded.

At registration the branch or tag becomes a commit; the manifest is made of that commit's files, its digest is
registered, and the location says how an agent makes the same manifest again. What an agent loads is checked against
that digest like any other bundle.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Literal

from heliograph.config import config, home
from heliograph.exceptions import BundleChangedError, InvalidArgumentError, StorageError
from heliograph.storage.archive import pack
from heliograph.storage.base import BundleRef, Storage
from heliograph.storage.bundle import (
    Bundle,
    Source,
    find_source,
    module_name,
    not_in_a_file,
    remarks,
    report_sizes,
    search_path,
    unless_renamed,
)
from heliograph.storage.collect import BundleReport, imported_modules
from heliograph.storage.launch import LaunchSettings
from heliograph.storage.manifest import MAX_FILES, RESERVED, BundleFormat, FileEntry, Manifest, is_path
from heliograph.storage.own_launch import public_part
from heliograph.storage.pin import Pin, location_launch
from heliograph.storage.working_copy import checkout_of, compare

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

__all__ = ["CommitFiles", "Repository", "check_size", "sift"]

_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class CommitFiles:
    """The files of a commit: bytes by path, those that may be executed, and what was left out with the reason."""

    contents: dict[str, bytes] = field(repr=False)
    executable: frozenset[str] = frozenset()
    left: tuple[tuple[str, str], ...] = ()


class Repository(Storage):
    """A commit of a repository.

    Args:
        path: The flow's file in the repository; found from the flow's own file when not given.
        ref: Branch, tag or commit; by default the repository's default branch.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit that `ref` meant at registration. `branch`: each run uses the newest one.
        launch: `agent` when agents' own files (`launch/<project>/<flow>.toml`) give the values of variables and what
            else of the launch settings may not be told. By default a flow that has such values is refused.
    """

    def __init__(
        self,
        path: str | None,
        *,
        ref: str | None,
        subdir: str = "",
        pin: Literal["commit", "branch"] = "commit",
        launch: Literal["", "agent"] = "",
    ) -> None:
        super().__init__()
        if pin not in ("commit", "branch"):
            raise InvalidArgumentError(f"pin is 'commit' or 'branch', not {pin!r}")
        if launch not in ("", "agent"):
            raise InvalidArgumentError(f"launch is 'agent' or empty, not {launch!r}")
        self.flow_path = path.strip("/") if path else ""
        self.ref = ref or ""
        self.subdir = subdir.strip("/")
        self.pin = pin
        self.launch = launch
        self._pinned: Pin | None = None
        self._remarks: list[str] = []

    # --- by subclasses -----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """Address of the repository, without credentials."""

    @property
    def _user_name(self) -> str:
        """User name that the address needs, and may not have."""
        return ""

    @property
    def _root(self) -> str:
        """Path of the server's own in the address, where nothing else tells."""
        return ""

    @abstractmethod
    def _resolve(self, ref: str) -> tuple[str, str]:
        """Returns the commit that a name means, and the name."""

    @abstractmethod
    def _files(self, pin: Pin, cache: Path) -> CommitFiles:
        """Returns the files of a commit, or of its `subdir`."""

    # --- registering -------------------------------------------------------------------------------------------------

    @property
    def location(self) -> str:
        """The address, and after registration what of it is meant."""
        return self._pinned.location() if self._pinned is not None else self.url

    def make_bundle(
        self, flow: Flow, *, project_root: str | os.PathLike[str] | None = None, pickle: bool | None = None
    ) -> Bundle:
        """Finds the commit and makes the bundle of its files.

        Raises:
            StorageError: If the commit does not have what the flow was loaded from, or cannot be read.
        """
        from heliograph.engine.graph import compile_flow

        name = type(self).__name__
        if pickle:
            raise StorageError(f"{name} storage holds no pickles", hint="Use S3 or Local storage for pickle=True.")
        if project_root is not None:
            raise StorageError(f"{name} storage takes files of a commit", hint="Give subdir= instead of project_root.")
        compile_flow(flow).graph_hash()  # a cycle is said before anything is fetched
        unless_renamed(flow)
        source = find_source(flow, None)
        if source is None:
            raise not_in_a_file(flow)
        commit, ref = self._resolve(self.ref)
        pin = Pin(
            url=self.url,
            commit=commit,
            ref=ref,
            subdir=self.subdir,
            flow=flow.name,
            user=self._user_name,
            root=self._root,
        )
        files = self._files(pin, home() / "cache")
        pin = self._place(pin, files, source)
        if self.pin == "branch" and not ref:
            raise StorageError("pin='branch' needs a branch", hint="Give ref='main', or leave pin away.")
        self._pinned = pin
        manifest = _manifest(pin, files, f"{sys.version_info.major}.{sys.version_info.minor}", remarks(None))
        report = self._report(pin, files)
        report_sizes(report, manifest.files)
        return Bundle(manifest, files.contents, report)

    def put_bundle(self, bundle: Bundle, launch: LaunchSettings | None = None) -> BundleRef:
        """Stores nothing: the commit is there. Returns the reference.

        Raises:
            LaunchSettingsError: If the launch settings have values, which a location may not tell.
        """
        if self._pinned is None:
            raise StorageError("the bundle is not of this storage")
        public = public_part(launch or LaunchSettings(), type(self).__name__, self.launch)
        pin = replace(self._pinned, launch=public, commit="" if self.pin == "branch" else self._pinned.commit)
        return BundleRef(
            storage=self.kind,
            location=pin.location(),
            digest=bundle.manifest.digest,
            launch_digest=pin.launch.digest,
            format=BundleFormat.SOURCE,
            python_version=bundle.manifest.info["python"],
            host=self.host,
        )

    def _place(self, pin: Pin, files: CommitFiles, source: Source) -> Pin:
        """Finds the flow's file among the commit's, and says how it is imported there."""
        checkout = checkout_of(source.file)
        folder = checkout / pin.subdir if checkout is not None else None
        path = self.flow_path.removeprefix(f"{pin.subdir}/") if pin.subdir else self.flow_path
        if not path:
            if folder is None or not source.file.is_relative_to(folder):
                raise StorageError(
                    f"{source.file} is in no working copy of {self.url}"
                    + (f" below {pin.subdir}" if pin.subdir else ""),
                    hint="Register from a clone of the repository, or say which of its files has the flow.",
                )
            path = source.file.relative_to(folder).as_posix()
        what = f"commit {pin.commit[:12]} of {self.url}"
        if folder is not None and checkout is not None and (folder / path).resolve() == source.file:
            needed = [path, *(file.relative_to(folder).as_posix() for _, file in imported_modules(folder))]
            compare(checkout, files.contents, pin, list(dict.fromkeys(needed)))
            folders = search_path(folder.resolve(), source.file)
        else:
            if path in files.contents and files.contents[path] != source.file.read_bytes():
                raise StorageError(
                    f"{path} in {what} is not what {source.file} is",
                    hint="Commit and push it, or register from a clone of the repository.",
                )
            folders = tuple(dict.fromkeys((str(PurePosixPath(path).parent).replace(".", "", 1), "")))
        if path not in files.contents:
            raise StorageError(f"{what} has no file {path}", hint="Commit and push it, or correct the path.")
        return replace(pin, path=path, module=module_name(source.module, path, folders), sys_path=folders)

    def _report(self, pin: Pin, files: CommitFiles) -> BundleReport:
        where = f", folder {pin.subdir}" if pin.subdir else ""
        report = BundleReport(how=f"commit {pin.commit[:12]} of {pin.ref or 'no branch'}{where}")
        report.dropped.extend(files.left)
        pointers = sorted(path for path, data in files.contents.items() if data.startswith(_POINTER))
        if pointers:
            report.warnings.append(
                f"{pointers[0]} is a pointer of Git LFS: runs get the pointer, not the file"
                if len(pointers) == 1
                else f"{len(pointers)} files, such as {pointers[0]}, are pointers of Git LFS: runs get only these"
            )
        submodules = [path for path, why in files.left if why == "a submodule"]
        if submodules:
            report.warnings.append(f"submodules are not fetched: {', '.join(submodules)}")
        if self.pin == "branch":
            report.warnings.append(
                f"runs use the newest commit of {pin.ref}, not the one that was registered: whoever can push decides"
                " what agents execute, and no digest says otherwise"
            )
        report.notes.append("installed packages are not compared: a repository says itself what it needs")
        return report

    # --- fetching ----------------------------------------------------------------------------------------------------

    def remarks(self) -> Sequence[str]:
        """Returns which commit the last fetch took, where a branch is followed."""
        return self._remarks

    def probe(self) -> str:
        """Returns what is found in the repository now: its newest commit."""
        commit, ref = self._resolve("")
        return f"its branch {ref or 'HEAD'} is at {commit[:12]}"

    def fetch_launch(self, ref: BundleRef) -> LaunchSettings:
        """Returns the public part of the launch settings, which the location says."""
        return location_launch(ref.location, ref.launch_digest)

    def fetch_manifest(self, ref: BundleRef) -> Manifest:
        """Makes the manifest of the commit, and compares it with the reference."""
        pin, manifest, _ = self._fetched(ref, home() / "cache")
        del pin
        return manifest

    def fetch(self, ref: BundleRef, cache_dir: str | os.PathLike[str]) -> Path:
        """Returns a read-only folder with exactly the commit's files, from the cache when it has them."""
        from heliograph.storage.cache import fetch_into, prune_mirrors

        cache = Path(cache_dir)
        got: list[tuple[Pin, Manifest, CommitFiles]] = []

        def manifest() -> Manifest:
            if not got:
                got.append(self._fetched(ref, cache))
            return got[0][1]

        def archive(made: Manifest) -> BinaryIO:
            contents = got[0][2].contents
            return io.BytesIO(pack((entry, contents[entry.path]) for entry in made.files))

        self._remarks = []
        digest = ref.digest if Pin.parse(ref.location).commit else manifest().digest
        folder = fetch_into(cache, digest, manifest, archive)
        if got and not Pin.parse(ref.location).commit:
            self._remarks = [f"the code is commit {got[0][0].commit} of {got[0][0].ref}"]
        prune_mirrors(cache)
        return folder

    def _fetched(self, ref: BundleRef, cache: Path) -> tuple[Pin, Manifest, CommitFiles]:
        pin = Pin.parse(ref.location)
        follows = not pin.commit
        if follows:
            pin = pin.at(self._resolve(pin.ref)[0])
        files = self._files(pin, cache)
        manifest = _manifest(pin, files, ".".join(ref.python_version.split(".")[:2]), {"commit": pin.commit})
        if not follows and manifest.digest != ref.digest:
            raise BundleChangedError(
                f"the bundle of {pin.flow} was registered with {ref.digest}, but commit {pin.commit} of {pin.url}"
                f" makes {manifest.digest}",
                hint="The location was changed after registration. Register the flow again.",
            )
        return pin, manifest, files

    def _gone(self, pin: Pin) -> StorageError:
        """Returns the error for a commit that the server does not know, when the repository itself is there."""
        return StorageError(
            f"commit {pin.commit} is not in {pin.url} any more",
            hint="Its branch was rewritten and the server tidied up. Push the commit, or register the flow again.",
        )


def sift(entries: Sequence[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Divides the entries of a commit into what a bundle takes and what it leaves: the same everywhere, for ever.

    Args:
        entries: Mode and path of each.

    Returns:
        Paths, and left paths with the reason.
    """
    reasons = {"120000": "a symbolic link", "160000": "a submodule"}
    taken: list[str] = []
    left: list[tuple[str, str]] = []
    for mode, path in entries:
        if mode in reasons:
            left.append((path, reasons[mode]))
        elif path.split("/")[0] == RESERVED or not is_path(path):
            left.append((path, "a name that bundles cannot have"))
        else:
            taken.append(path)
    if len(taken) > MAX_FILES:
        raise StorageError(f"the commit has more than {MAX_FILES} files", hint="Give a folder of it: subdir=….")
    return taken, left


def check_size(total: int) -> None:
    """Refuses what is larger than a bundle may be.

    Raises:
        StorageError: It is.
    """
    limit = config().storage.hard_limit_bytes
    if total > limit:
        raise StorageError(
            f"the files of the commit are larger than {limit:,} bytes",
            hint="Give a folder of it: subdir=…, or raise the setting storage.hard_limit_bytes.",
        )


def _manifest(pin: Pin, files: CommitFiles, python: str, info: dict[str, str]) -> Manifest:
    entries = tuple(
        FileEntry(path, hashlib.sha256(data).hexdigest(), len(data), path in files.executable)
        for path, data in sorted(files.contents.items())
    )
    # The graph's hash is registered beside the location; what the author has installed is not told.
    return Manifest(
        flow=pin.flow, format=BundleFormat.SOURCE, entrypoint=pin.path, module=pin.module, sys_path=pin.sys_path,
        graph_hash="", python=python, implementation="", cloudpickle="", requirements={}, files=entries,
        info={**info, "commit": pin.commit},
    )  # fmt: skip
