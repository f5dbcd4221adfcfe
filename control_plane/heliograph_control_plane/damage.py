"""Rows that cannot be read: left out wherever many are read, and told of once each.

A disk, an operator's hand or an older version may have left one. It must cost what is in it, and nothing beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import structlog
from google.protobuf.message import DecodeError

T = TypeVar("T")
R = TypeVar("R")

DAMAGE: Final = (ValueError, TypeError, KeyError, DecodeError)
"""What reading a damaged row raises: bad JSON, bad UTF-8, bytes that are no message, numbers that no state has."""

MOST_TOLD: Final = 10_000

_told: set[tuple[str, str]] = set()
_log = structlog.get_logger("heliograph.store")


def tell_damage(kind: str, key: str, error: BaseException) -> None:
    """Logs that a row cannot be read, once in the life of this process. No value of it is logged."""
    if (kind, key) not in _told and len(_told) < MOST_TOLD:
        _told.add((kind, key))
        _log.error("a row cannot be read and is left out", kind=kind, key=key, error=type(error).__name__)


def readable(rows: Iterable[R], make: Callable[[R], T], key: Callable[[R], object]) -> Iterator[T]:
    """Makes something of each row that can be read."""
    for row in rows:
        try:
            yield make(row)
        except DAMAGE as error:
            tell_damage("row", str(key(row)), error)
