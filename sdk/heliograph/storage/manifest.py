"""The manifest of a bundle: which files it has, what it needs, and the digest that names it.

The digest covers one line of meta data and one line per file, sorted by path, so it says nothing of archives, times or
owners: the same content has the same digest on every machine. `info` is for people and not covered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

from heliograph.exceptions import BundleChangedError, InvalidArgumentError, StorageError

__all__ = [
    "MAX_FILES",
    "PICKLE_PATH",
    "BundleFormat",
    "FileEntry",
    "MalformedManifestError",
    "Manifest",
    "digest_hex",
    "is_path",
]

VERSION = 1
RESERVED = ".heliograph"
PICKLE_PATH = f"{RESERVED}/flow.pickle"
"""Where the pickle of a flow is, among the files of its bundle."""

MAX_FILES = 20_000
_HEX = re.compile(r"[0-9a-f]{64}")
_UNFIT = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")  # control characters, Windows' marks, what is no Unicode


class MalformedManifestError(StorageError):
    """What should be a manifest is none."""


class BundleFormat(IntEnum):
    """What is loaded: the numbers of the API's `BundleFormat`."""

    SOURCE = 1
    PICKLE = 2


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: path below the root with `/`, SHA-256 in hex, size in bytes, and whether it may be executed."""

    path: str
    sha256: str
    size: int
    executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        flow: Name of the flow.
        format: What is loaded.
        entrypoint: Path of the flow's file; empty for a pickle without source.
        module: Dotted name under which that file is imported.
        sys_path: Folders of the bundle that are on `sys.path`, first to last; empty text is the root.
        graph_hash: Digest of the flow's graph.
        python: `3.11`: the Python that made the bundle.
        implementation: `cpython`.
        cloudpickle: Version that made the pickle; empty without one.
        requirements: Distributions that the flow's modules import, name to version.
        files: All files.
        info: Remarks for people: full versions, commit, time. Not covered by the digest, never acted on.
    """

    flow: str
    format: BundleFormat
    entrypoint: str
    module: str
    sys_path: tuple[str, ...]
    graph_hash: str
    python: str
    implementation: str
    cloudpickle: str
    requirements: Mapping[str, str]
    files: tuple[FileEntry, ...]
    info: Mapping[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def digest(self) -> str:
        """`sha256:` and the digest over meta data and files."""
        hasher = hashlib.sha256()
        hasher.update(_line("meta", self._meta()))
        for entry in sorted(self.files, key=lambda entry: entry.path):
            hasher.update(_line("file", [entry.path, entry.sha256, entry.size, entry.executable]))
        return f"sha256:{hasher.hexdigest()}"

    @cached_property
    def by_path(self) -> Mapping[str, FileEntry]:
        """Files by path."""
        return {entry.path: entry for entry in self.files}

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> bytes:
        """Returns the manifest as it is stored."""
        document = {
            **self._meta(),
            "files": [
                {"path": entry.path, "sha256": entry.sha256, "size": entry.size, "executable": entry.executable}
                for entry in self.files
            ],
            "digest": self.digest,
            "info": dict(self.info),
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, expected_digest: str | None = None) -> Manifest:
        """Reads a stored manifest.

        Raises:
            StorageError: If it is of a newer format, malformed, or names files outside the bundle.
            BundleChangedError: If its digest is not `expected_digest`.
        """
        try:
            manifest = cls._parse(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MalformedManifestError(f"the bundle's manifest is malformed: {error!r}") from error
        if expected_digest is not None and manifest.digest != expected_digest:
            raise BundleChangedError(
                f"the bundle was registered with {expected_digest}, but the stored manifest is {manifest.digest}",
                hint="Somebody changed the storage after registration. Register the flow again, from its source.",
            )
        return manifest

    @classmethod
    def _parse(cls, document: dict[str, Any]) -> Manifest:
        if document["version"] != VERSION:
            raise StorageError(
                f"the bundle's manifest has version {document['version']!r}; this installation reads {VERSION}",
                hint="Upgrade heliograph here.",
            )
        entries = document["files"]
        if len(entries) > MAX_FILES:
            raise ValueError(f"{len(entries)} files are more than {MAX_FILES}")
        files = tuple(
            FileEntry(_path(item["path"]), _hash(item["sha256"]), _size(item["size"]), item["executable"] is True)
            for item in entries
        )
        if len({entry.path for entry in files}) != len(files):
            raise ValueError("a path is there twice")
        texts = {name: _text(document[name]) for name in _TEXTS}
        return cls(
            format=BundleFormat(document["format"]),
            sys_path=tuple(_path(part) if part else "" for part in document["sys_path"]),
            requirements={_text(name): _text(version) for name, version in document["requirements"].items()},
            files=files,
            info={_text(name): _text(remark) for name, remark in document.get("info", {}).items()},
            **texts,
        )

    def _meta(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "format": int(self.format),
            "sys_path": list(self.sys_path),
            "requirements": dict(self.requirements),
            **{name: getattr(self, name) for name in _TEXTS},
        }


def digest_hex(digest: str) -> str:
    """Returns the hexadecimal part of a digest, which becomes part of paths: nothing else is let through.

    Raises:
        InvalidArgumentError: If it is no digest.
    """
    kind, _, value = digest.partition(":")
    if kind != "sha256" or not _HEX.fullmatch(value):
        raise InvalidArgumentError(f"{digest!r} is no digest: sha256: and 64 hexadecimal digits are expected")
    return value


_TEXTS = ("flow", "entrypoint", "module", "graph_hash", "python", "implementation", "cloudpickle")


def _line(kind: str, value: Any) -> bytes:
    return f"{kind} {json.dumps(value, sort_keys=True, separators=(',', ':'))}\n".encode()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _hash(value: Any) -> str:
    if not _HEX.fullmatch(_text(value)):
        raise ValueError(f"{value!r} is no SHA-256")
    return str(value)


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def is_path(value: str) -> bool:
    """Returns True for a path that stays below the root on every platform, and can be written down."""
    return all(part not in ("", ".", "..") for part in value.split("/")) and not _UNFIT.search(value)


def _path(value: Any) -> str:
    if not is_path(_text(value)):
        raise ValueError(f"{value!r} is no path below the bundle's root")
    return str(value)
