"""Clocks that are wrong by a day, or jump by a day: no run is late, refused, lost or doubled for it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.support.clocks import WrongClock
from tests.support.figures import Figure
from tests.support.history import task_states, witness
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import StateCode

DAY = 24


def skewed(stack: Stack, clock: WrongClock, hours: int, seconds: float = 60.0) -> None:
    """Runs a flow where agent, supervisor, flow and client have a wrong clock, the control plane the right one."""
    stack.environment.update(clock.environment)
    stack.start_agent()
    stack.register(steps(6))
    seen = stack.root / "witness.jsonl"
    before = time.time()
    run = stack.run("steps", f"witness={seen}", "seconds=0.1")
    found = stack.wait_for(run, StateCode.SUCCESS, seconds=seconds)
    assert found.attempt == 1
    assert abs(found.create_time.ToSeconds() - before) < 120, "the control plane's clock says when it was made"
    lines = witness(seen)
    assert [line.step for line in lines] == list(range(6)), "each step ran once"
    assert abs(lines[0].seconds - before - hours * 3600) < 300, "the flow's clock is wrong indeed"
    entries = task_states(stack, run)
    assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
    for slug in {entry.slug for entry in entries}:
        told = [entry.state for entry in entries if entry.slug == slug]
        assert told[-1] is StateCode.SUCCESS
    short = stack.cli(
        "tokens", "create", "--user", "ann", "--role", "viewer", "--expires", "1h", "--quiet"
    ).stdout.strip()
    stack.environment["HELIOGRAPH__CLIENT__TOKEN"] = short
    history = stack.cli("runs", "inspect", run).stdout  # with a token of an hour, by the clock of whoever issued it
    assert "Lost" not in history
    assert "Late" not in history
    (agent,) = stack.agents_seen()
    assert abs(agent.last_seen_time.ToSeconds() - time.time()) < 120, "who was seen when is told by one clock"


@pytest.mark.parametrize("hours", [DAY, -DAY])
def test_a_wrong_clock_of_agent_flow_and_client_changes_nothing(
    make_stack: StackFactory, tmp_path: Path, hours: int, figure: Figure
) -> None:
    stack = make_stack(agent=False)
    skewed(stack, WrongClock(tmp_path / "clock", hours), hours)
    figure(f"agent, flow and client {hours:+d} h off: the run started at once, nothing lost, order kept")


def test_an_agent_that_starts_runs_by_its_own_clock_is_found(make_stack: StackFactory, tmp_path: Path) -> None:
    """The planted twin: what its clock does not take for due is not begun."""
    stack = make_stack(agent=False, planted="start_by_own_clock")
    with pytest.raises(AssertionError, match="is finished"):
        skewed(stack, WrongClock(tmp_path / "clock", DAY), DAY, seconds=8.0)


GATES = """
import os, time
from heliograph import Flow, Parameter, task

@task
def wait_for(folder, name):
    while not os.path.exists(f"{folder}/{name}"):
        time.sleep(0.02)

with Flow("gates") as flow:
    folder = Parameter("folder")
    wait_for(folder, "back", upstream_tasks=[wait_for(folder, "ahead")])
"""
"""Two tasks, each of which ends when the test says so."""


def stepped(stack: Stack, clock: WrongClock) -> None:
    """Sets the control plane's clock a day ahead, and back, while a flow has nothing to tell."""
    for name in clock.environment:
        stack.environment.pop(name)  # the agent's clock is right
    stack.start_agent()
    stack.register(GATES)
    run = stack.run("gates", f"folder={stack.root}")

    def told(state: StateCode) -> int:
        return sum(entry.state is state for entry in task_states(stack, run) if entry.slug.startswith("wait_for"))

    wait_until(lambda: told(StateCode.RUNNING) == 1, "the first task runs")
    clock.set(DAY)
    looked = re.compile(r"time jumped|crashed=")
    wait_until(lambda: looked.search(stack.log("control-plane")), "the reaper notices")
    (stack.root / "ahead").touch()
    wait_until(lambda: told(StateCode.RUNNING) == 2, "the second task runs")
    clock.set(0)
    (stack.root / "back").touch()
    found = stack.wait_for(run, StateCode.SUCCESS)
    assert found.attempt == 1
    assert told(StateCode.SUCCESS) == 2
    assert "crashed" not in stack.cli("runs", "inspect", run).stdout.lower(), "nobody took the run for crashed"
    assert "crashed=" not in stack.log("control-plane"), "the reaper let it be"
    stack.wait_for(stack.run("gates", f"folder={stack.root}"), StateCode.SUCCESS)


def server_with_a_clock(make_stack: StackFactory, tmp_path: Path, planted: str) -> tuple[Stack, WrongClock]:
    clock = WrongClock(tmp_path / "clock", 0)
    return make_stack(agent=False, environment=clock.environment, planted=planted), clock


def test_a_control_plane_whose_clock_is_set_loses_no_lease(
    make_stack: StackFactory, tmp_path: Path, figure: Figure
) -> None:
    stepped(*server_with_a_clock(make_stack, tmp_path, "no_start_up_grace"))
    figure("the control plane's clock set 24 h ahead and back under a running flow: no lease lost")


def test_a_reaper_that_believes_any_clock_is_found(make_stack: StackFactory, tmp_path: Path) -> None:
    """The planted twin: time that jumped is taken for the silence of those who hold leases."""
    with pytest.raises(AssertionError, match=r"the reaper notices|took the run|let it be"):
        stepped(*server_with_a_clock(make_stack, tmp_path, "no_start_up_grace,believe_any_clock"))
