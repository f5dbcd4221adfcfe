"""Volumes as people write them: `docker run -v` in its Unix and Windows forms, and mounts as mappings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WORDS = re.compile(r"(?:ro|rw|z|Z|nocopy|cached|delegated|consistent|r?(?:shared|slave|private))")
_KINDS = ("bind", "volume", "tmpfs", "npipe")
_KEYS = {"type", "source", "src", "target", "destination", "dst", "read_only", "readonly"}


@dataclass(frozen=True, slots=True)
class Volume:
    """One place in a container and what is there.

    Attributes:
        source: Path of the host, or name of a volume; empty for a new one.
        target: Path in the container.
        mode: Words like `ro`, separated by commas.
        kind: `bind`, `volume`, `tmpfs` or `npipe`.
    """

    source: str
    target: str
    mode: str = ""
    kind: str = "bind"

    @property
    def read_only(self) -> bool:
        """True when the container cannot write there."""
        return "ro" in self.mode.split(",")

    @property
    def fact(self) -> str:
        """What a policy judges: the host's path or the volume's name; empty for what begins empty and ends with it."""
        return f"{self.source}:ro" if self.read_only and self.source else self.source

    def mount(self) -> dict[str, Any]:
        """Returns it as a mount of the Engine's API."""
        found: dict[str, Any] = {"Type": self.kind, "Target": self.target, "ReadOnly": self.read_only}
        if self.source:
            found["Source"] = self.source
        return found

    def bind(self) -> str:
        """Returns it as a bind of the Engine's API, which makes folders of the host that are not there."""
        return ":".join(part for part in (self.source, self.target, self.mode) if part)


def parse_volume(given: str | Mapping[str, Any]) -> Volume:
    """Reads one volume.

    Raises:
        ValueError: It is none.
    """
    return _parse_text(given) if isinstance(given, str) else _parse_mapping(given)


def _parse_text(text: str) -> Volume:
    parts = _split(text)
    mode = ""
    if len(parts) > 1 and all(_WORDS.fullmatch(word) for word in parts[-1].split(",")):
        mode = parts.pop()
    if len(parts) == 1:
        source, target = "", parts[0]
    elif len(parts) == 2:
        source, target = parts
    else:
        raise ValueError(f"{text!r} is no volume: write SOURCE:TARGET or SOURCE:TARGET:ro")
    if not _is_path(target) or ".." in re.split(r"[\\/]", target):
        raise ValueError(f"{text!r} is no volume: {target!r} is no absolute path in a container")
    if source and not _is_path(source):
        if _NAME.fullmatch(source) is None:
            raise ValueError(f"{text!r} is no volume: {source!r} is neither an absolute path nor a volume's name")
        return Volume(source, target, mode, "volume")
    return Volume(source, target, mode, "bind" if source else "volume")


def _split(text: str) -> list[str]:
    """Splits at colons, but not after the letter of a drive."""
    parts: list[str] = []
    rest = text
    while rest:
        start = 2 if _DRIVE.match(rest) else 0
        end = rest.find(":", start)
        if end < 0:
            parts.append(rest)
            break
        parts.append(rest[:end])
        rest = rest[end + 1 :]
    return parts


def _is_path(text: str) -> bool:
    return text.startswith(("/", "\\\\")) or _DRIVE.match(text) is not None


def _parse_mapping(given: Mapping[str, Any]) -> Volume:
    known = {str(key).lower(): value for key, value in given.items()}
    if unknown := known.keys() - _KEYS:
        raise ValueError(f"a mount has no {', '.join(sorted(unknown))}; it has type, source, target and read_only")
    kind = known.get("type", "volume")
    source = known.get("source", known.get("src", "")) or ""
    target = known.get("target", known.get("destination", known.get("dst", "")))
    read_only = known.get("read_only", known.get("readonly", False))
    if kind not in _KINDS or not isinstance(source, str) or not isinstance(target, str) or not _is_path(target):
        raise ValueError(f"{dict(given)!r} is no mount: type is one of {', '.join(_KINDS)}, target an absolute path")
    if (kind == "bind" and not _is_path(source)) or (kind == "tmpfs" and source):
        raise ValueError(f"{dict(given)!r} is no mount: a bind needs an absolute path as its source, a tmpfs none")
    return Volume(source, target, "ro" if read_only else "", kind)
