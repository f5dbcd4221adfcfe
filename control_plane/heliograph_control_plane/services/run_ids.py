"""Ids of runs: UUIDs of version 7, which sort by the time of their making."""

from __future__ import annotations

import secrets
import uuid


def new_run_id(now_micros: int) -> str:
    """Makes an id: 48 bits of milliseconds and 74 random bits."""
    milliseconds = (now_micros // 1_000) & (2**48 - 1)
    number = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=number))
