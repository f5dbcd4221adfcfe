"""What an agent tells of runs that have not begun."""

from __future__ import annotations

import logging

import pytest

from heliograph.engine.codes import LaunchDelay
from heliograph_agents.launcher import Handle, Waiting
from heliograph_agents.tracker import Phase, Tracker
from heliograph_agents.waits import Waits

KEY = ("projects/p/flowRuns/r", 3)
LIVE = Tracker(*KEY, phase=Phase.LIVE, handle=Handle(*KEY, "pod"))
FULL = Waiting(LaunchDelay.NO_ROOM, "0/3 nodes are available")


def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heliograph.agent")
    waits = Waits()
    for found in (FULL, Waiting(LaunchDelay.NO_ROOM, "0/4 nodes are available"), FULL):
        waits.note(KEY, found)
    waits.note(KEY, Waiting(LaunchDelay.IMAGE, "not found"))
    waits.note(KEY, FULL)
    assert caplog.messages == [f"{KEY[0]} has not begun: {why}" for why in (FULL.hint, "not found", FULL.hint)]


def test_what_is_told_is_what_was_seen_last_of_a_run_that_has_not_begun() -> None:
    waits = Waits()
    assert waits.of(KEY, LIVE) is None
    waits.note(KEY, FULL)
    assert waits.of(KEY, LIVE) is LaunchDelay.NO_ROOM
    assert waits.of(KEY, Tracker(*KEY, phase=Phase.LIVE, handle=LIVE.handle, connected=True)) is None
    waits.note(KEY, None)
    assert waits.of(KEY, LIVE) is None


def test_what_is_being_launched_is_being_made_ready() -> None:
    """As while an image is pulled before there is a container."""
    assert Waits().of(KEY, Tracker(*KEY, phase=Phase.LAUNCHING)) is LaunchDelay.PREPARING
