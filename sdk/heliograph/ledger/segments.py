"""Names of a ledger's segments, and of runs as parts of a path."""

from __future__ import annotations

import re
from collections.abc import Iterable

from heliograph.exceptions import InvalidArgumentError

__all__ = ["checked_run_id", "in_order", "segment_name", "segment_order"]

_RUN_ID = re.compile(r"[A-Za-z0-9\-]{1,64}")
_SEGMENT = re.compile(r"(\d+)-(\d+)\.jsonl")


def segment_name(epoch: int, number: int) -> str:
    """Returns the name of a segment."""
    return f"{epoch}-{number:06d}.jsonl"


def segment_order(name: str) -> tuple[int, int] | None:
    """Returns epoch and number of a segment; None for other files."""
    match = _SEGMENT.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def in_order(names: Iterable[str]) -> list[str]:
    """Returns the names of segments among others, in order."""
    return sorted((name for name in names if segment_order(name)), key=lambda name: segment_order(name) or (0, 0))


def checked_run_id(flow_run_id: str) -> str:
    """Returns the id. It becomes part of a path: nothing that is no id is let through.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not _RUN_ID.fullmatch(flow_run_id):
        raise InvalidArgumentError(f"{flow_run_id!r} is no id of a flow run")
    return flow_run_id
