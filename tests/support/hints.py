"""Control planes that find changes by being told of them alone: without the slow poll, which finds what a hint missed.

A test that waits for a change then needs no clock to know that a hint brought it.
"""

from __future__ import annotations

import pytest
from tests.support.control_plane import InProcessControlPlane

_READERS = ("wakeups", "services.watching", "services.reporting", "services.logs")
_NEVER_SECONDS = 3600.0


def brisk_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has control planes of this process look into their stores by themselves twice a second."""
    for module in _READERS:
        monkeypatch.setattr(f"heliograph_control_plane.{module}.SLOW_POLL_SECONDS", 0.5)


def no_slow_poll(monkeypatch: pytest.MonkeyPatch, *planes: InProcessControlPlane) -> None:
    """Has control planes of this process look into their stores only when something tells them to."""
    for module in _READERS:
        monkeypatch.setattr(f"heliograph_control_plane.{module}.SLOW_POLL_SECONDS", _NEVER_SECONDS)
    for plane in planes:
        monkeypatch.setattr(plane.plane.wakeups, "_refresh_at", float("inf"))
