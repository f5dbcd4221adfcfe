"""Ids of runs: UUIDs of version 7, which sort by the time of their making."""

from __future__ import annotations

import os
import uuid


def new_run_id(now_micros: int) -> str:
    """Makes an id: 48 bits of milliseconds and 74 random bits."""
    milliseconds = (now_micros // 1_000) & (2**48 - 1)
    noise = int.from_bytes(os.urandom(10), "big")
    number = milliseconds << 80 | 0x7 << 76 | (noise >> 68) << 64 | 0b10 << 62 | noise & (2**62 - 1)
    return str(uuid.UUID(int=number))
