"""Locations in their one spelling: what a policy allows is what storage opens.

A policy compares texts, and a storage's server may read more than one text as one place. So a location with `.` or `..`
in its path, with a slash too many, or with letters written as `%2e`, `%2f` or `%5c` is refused: none is registered.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from heliograph.exceptions import StorageError

__all__ = ["PINNED", "check_location", "is_below", "is_plain"]

PINNED: Collection[str] = frozenset({"git", "github", "gitlab", "bitbucket", "codecommit", "docker", "module"})
"""Kinds whose locations say behind a `#` what of the place is meant: see `heliograph.storage.pin`."""

_HIDDEN = re.compile(r"%(?:2e|2f|5c|25|23|3f|[01][0-9a-f]|7f)|[\x00-\x1f\x7f]", re.IGNORECASE)

_ARTIFACT = re.compile(r"@sha256:[0-9a-f]{64}\Z")
"""Which artifact of a registry's repository is meant."""


def is_plain(path: str) -> bool:
    """Returns True for a path, relative or absolute, that has one spelling only."""
    parts = path.removeprefix("/").split("/")
    return not _HIDDEN.search(path) and path == path.strip() and not any(part in ("", ".", "..") for part in parts)


def check_location(kind: str, location: str) -> None:
    """Refuses a location that could be another spelling of some place.

    Raises:
        StorageError: It could.
    """
    place = location.partition("#")[0] if kind in PINNED else location
    scheme, mark, rest = place.partition("://")
    path = rest if mark else place
    windows = kind == "local" and re.match(r"[A-Za-z]:\\|\\\\", path) is not None
    if windows:
        path = path.replace("\\", "/").lstrip("/")
    if kind in PINNED:
        path = path.removesuffix("/")
    if not is_plain(path) or "\\" in path or (mark and scheme != scheme.lower()):
        raise StorageError(
            f"{place!r} is no location of {kind} storage in the one spelling that is registered",
            hint="Nothing registers such a location: somebody else wrote it.",
        )


def is_below(kind: str, location: str, allowed: str) -> bool:
    """Returns True when a location is the allowed place or below it, by whole parts of its path.

    Args:
        kind: Kind of the location.
        location: The location.
        allowed: A kind, a location, or `kind:location`.
    """
    try:
        check_location(kind, location)
    except StorageError:
        return False
    place = location.partition("#")[0] if kind in PINNED else location
    if kind == "oci":
        place = _ARTIFACT.sub("", place)
    named, colon, rest = allowed.partition(":")
    if colon and not rest.startswith("//") and named == kind:
        allowed = rest
    place, beginning = place.rstrip("/"), allowed.rstrip("/")
    return place == beginning or place.startswith(f"{beginning}/") or allowed == kind
