"""Ids that sort by the time when they were made: UUID version 7."""

from __future__ import annotations

import os
import threading
import time
import uuid

_RANDOM_BITS = 74
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1

_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """Returns a new UUIDv7: 48 bits of milliseconds since the epoch, 74 random bits (RFC 9562).

    Within one process each id is greater than the one before, also in one millisecond and when the clock is set back.
    """
    global _last
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | int.from_bytes(os.urandom(10)) & _RANDOM_MASK
    with _lock:
        if fresh <= _last:
            # The same millisecond, or a clock that went back: count on from the last id by a random step, so that the
            # next id cannot be guessed from this one.
            fresh = _last + 1 + int.from_bytes(os.urandom(4))
        _last = fresh
    return _assemble(fresh)


def uuid7_text() -> str:
    """Returns a new UUIDv7 as text, as ids of runs are written."""
    return str(uuid7())


def timestamp_millis(value: uuid.UUID) -> int:
    """Returns the milliseconds since the epoch that a UUIDv7 holds.

    Raises:
        ValueError: It is no UUIDv7.
    """
    if value.version != 7:
        raise ValueError(f"{value} is no UUID of version 7")
    return value.int >> 80


def _assemble(bits: int) -> uuid.UUID:
    """Puts version and variant between 48 bits of time, 12 and 62 random bits."""
    millis, random_bits = bits >> _RANDOM_BITS, bits & _RANDOM_MASK
    high, low = random_bits >> 62, random_bits & ((1 << 62) - 1)
    return uuid.UUID(int=millis << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def _reset_after_fork() -> None:
    global _lock, _last
    _lock = threading.Lock()
    _last = 0  # else parent and child would count on from the same id


if hasattr(os, "register_at_fork"):
    # Another thread may hold the lock at the moment of the fork; the child would wait for it for ever.
    os.register_at_fork(after_in_child=_reset_after_fork)
