"""A loop of plain Python whose cost says how fast this machine is now."""

from __future__ import annotations

import time

CALIBRATION_MICROS = 0.10
"""What one round costs on the machine for which the budgets were set."""

_ROUNDS = 100_000


def calibration() -> float:
    """CPU µs of one round of a loop that calls, counts and stores: the best of three."""

    def call(x: int) -> int:
        return x + 1

    def loop() -> float:
        held: dict[int, int] = {}
        before = time.thread_time()
        for number in range(_ROUNDS):
            held[number & 255] = call(number)
        return time.thread_time() - before

    return min(loop() for _ in range(3)) / _ROUNDS * 1e6


def slowness() -> float:
    """How much slower this machine is than the one for which the budgets were set; at least 1."""
    return max(1.0, calibration() / CALIBRATION_MICROS)
