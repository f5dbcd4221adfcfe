"""The records of a ledger, as JSON lines. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from heliograph.engine.sink import StoredResult

__all__ = ["ERROR", "INPUTS", "LOST", "NAME", "RESULT", "encode", "parse_lines", "stored_from"]

ERROR, RESULT, INPUTS, NAME, LOST = "error", "result", "inputs", "name", "lost"

Record = tuple[str, dict[str, Any]]


def encode(records: list[Record]) -> bytes:
    """Returns records as lines of a segment."""
    return b"".join(
        json.dumps({"kind": kind, **fields}, default=_plain, separators=(",", ":")).encode() + b"\n"
        for kind, fields in records
    )


def parse_lines(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Returns the records of a segment, and how many lines are no records: the last one may be torn."""
    found: list[dict[str, Any]] = []
    damaged = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and isinstance(record.get("kind"), str):
            found.append(record)
        else:
            damaged += 1
    return found, damaged


def stored_from(document: Any) -> StoredResult:
    """Reads a `StoredResult` back; unknown fields of a newer version are left out."""
    known = {name: document[name] for name in StoredResult.__slots__ if name in document}
    return StoredResult(**known)


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, StoredResult) else str(value)
