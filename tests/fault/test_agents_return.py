"""The control plane is killed under a crowd of idle agents: all of them come back, and not all at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.fault.conftest import PLANTED
from tests.support.control_plane import control_plane_process
from tests.support.crowd import Returned, crowd
from tests.support.figures import Figure
from tests.support.forms import forms

MOST_IN_A_SECOND = 125
"""100 are the aim; a busy machine is late for some, and then answers them with the next."""
BACK_SECONDS = 45.0
"""30 s are the aim; other work on this machine is slow to answer."""


def come_back(folder: Path, monkeypatch: pytest.MonkeyPatch, planted: str, agents: int) -> Returned:
    """Starts a control plane and a crowd, kills one under the other, and tells how the crowd came back."""
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", planted)
    with (
        control_plane_process(folder) as server,
        crowd(server, agents, spread_seconds=agents / 80) as idle,
    ):
        heard_at = time.monotonic()
        # Every agent must have heard how many there are, when all of them were there.
        while idle.ask("tell")["heard_after"] < heard_at:
            time.sleep(0.2)
        return idle.return_to(server, away_seconds=0.0)


@forms("agents", quick=200, full=1_000)
def test_agents_come_back_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure, agents: int
) -> None:
    returned = come_back(tmp_path, monkeypatch, "beat_often", agents)
    figure(f"{agents:,} agents: all back within {returned.seconds:.0f} s, at most {returned.most_agents} in one second")
    assert returned.most_agents <= MOST_IN_A_SECOND
    assert returned.seconds <= BACK_SECONDS


def test_agents_that_come_back_all_at_once_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    """The planted twin: the control plane does not say over how long they shall spread their return."""
    returned = come_back(tmp_path, monkeypatch, "beat_often_and_return_at_once", 400)
    figure(f"planted: {returned.most_agents} in one second")
    assert returned.most_agents > MOST_IN_A_SECOND
