"""Disks of the agent's side that are full, broken or read-only: no run is burnt or stuck, and everybody says why.

Full disks are real ones: small file systems, mounted for the test. Errors at one call after the other come from a
library between real processes and the kernel.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.fault.conftest import PLANTED, StackFactory
from tests.integration.agent.conftest import World, eventually, plane, world
from tests.support.disk import Disk, small_disk
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import FailureCode, StateCode

__all__ = ["plane", "world"]

STEPS = """
    from heliograph import Flow, task

    @task
    def step(number):
        with open("ran", "a") as file:
            file.write(f"{number} ")
        return number

    with Flow("three") as flow:
        step(3, upstream_tasks=[step(2, upstream_tasks=[step(1)])])
"""


def planting(names: str) -> dict[str, Any]:
    """Returns the variables that plant bugs, or shorten what would be waited for."""
    return {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": names}


def fill(folder: Path) -> Path:
    """Writes until nothing more can be written there; removing the returned file makes room."""
    file = folder / "filler"
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    return file


# --- no room to launch ----------------------------------------------------------------------------------------------


def full_disk(world: World, folder: str, planted: str = "") -> int:
    """Fills an agent's disk while runs wait, looks what it does with them, and makes room. Returns what it leased."""
    with small_disk(world.home / folder, 2):
        flow = world.register(STEPS)
        world.start_agent("--capacity", "1", **planting(f"short_rest,{planted}"))
        filler = fill(world.home / folder)
        runs = [world.run(flow) for _ in range(5)]
        eventually(
            lambda: (
                "launches in a row failed: takes no runs" in world.log()
                or any(world.state(run).is_finished for run in runs)
                or world.log().count("leased") > 20
            ),
            "the agent stops taking runs",
        )
        burnt = [run for run in runs if world.state(run).is_finished]
        assert not burnt, "no run was ended for a disk that is full"
        leased = world.log().count("leased")
        assert leased <= 4, f"it stops taking runs: {leased} leased"
        assert "No space left on device" in world.log(), "it says why"
        filler.unlink()
        for run in runs:
            world.wait_for(run, StateCode.SUCCESS)
        assert sorted(world.marks("ran")) == sorted(["1", "2", "3"] * 5), "each step of each run ran once"
    return leased


@pytest.mark.parametrize("folder", ["agent", "agent/cache"])
def test_an_agent_on_a_full_disk_rests_and_goes_on_when_there_is_room(
    world: World, folder: str, figure: Figure
) -> None:
    leased = full_disk(world, folder)
    figure(f"{folder} full: {leased} of 5 runs leased and given back, none lost; all ran once when there was room")


@pytest.mark.parametrize(("folder", "bug"), [("agent", "never_rest"), ("agent/cache", "burn_runs")])
def test_an_agent_that_swallows_runs_is_found(world: World, folder: str, bug: str) -> None:
    """The planted twins: an agent that goes on claiming, and one that ends runs for its own disk."""
    with pytest.raises(AssertionError, match=r"stops taking runs|no run was ended"):
        full_disk(world, folder, bug)


# --- calls that fail ------------------------------------------------------------------------------------------------

FAULTS = {
    "full": ("write,create", errno.ENOSPC),
    "broken": ("write", errno.EIO),
    "read-only": ("write,create,truncate", errno.EROFS),
    "too large": ("write", errno.EFBIG),
}


def failing_calls(world: World, disk: Disk, points: list[int], faults: list[str]) -> int:
    """Has calls on the directories of first attempts fail: in each process two, at one point after the other.

    Returns how many runs that were.
    """
    world.start_agent("--capacity", "1", **planting("short_rest"), **disk.environment)
    flow = world.register(STEPS)
    count = 0
    for fault in faults:
        for point in points:
            disk.fail(FAULTS[fault][0], FAULTS[fault][1], path=".1/", skip=point, times=2)
            before = len(world.marks("ran"))
            world.wait_for(world.run(flow), StateCode.SUCCESS)
            ran = world.marks("ran")[before:]
            assert ran == ["1", "2", "3"], f"{fault} from call {point} on: each step ran once, in order: {ran}"
            count += 1
    return count


@forms(
    "points,faults",
    quick=([0, 2, 5, 8, 12], ["full"]),
    full=(list(range(24)), list(FAULTS)),
)
def test_calls_on_run_directories_that_fail_cost_no_run(
    world: World, tmp_path: Path, points: list[int], faults: list[str], figure: Figure
) -> None:
    count = failing_calls(world, Disk(tmp_path / "disk", "/runs/"), points, faults)
    figure(f"{count} runs, calls on the first run directory of each failed: each succeeded, each step once")


# --- the outbox -----------------------------------------------------------------------------------------------------

MANY = """
import os, time
from heliograph import Flow, Parameter, task, unmapped

@task
def gate(folder):
    while not os.path.exists(folder + "/go"):
        time.sleep(0.02)
    return list(range(600))

@task
def step(folder, number):
    with open(folder + "/ran", "a") as file:
        file.write(f"{number}\\n")

with Flow("many") as flow:
    folder = Parameter("folder")
    step.map(number=gate(folder), folder=unmapped(folder))
"""


def outbox_fills(stack: Stack) -> int:
    """Takes the control plane away from a flow with many tasks. Returns how many tasks ran while it was away."""
    stack.register(MANY)
    run = stack.run("many", f"folder={stack.root}")
    wait_until(lambda: stack.inspect(run).state == int(StateCode.RUNNING), "the flow runs")
    stack.kill_control_plane()
    (stack.root / "go").touch()
    ran = stack.root / "ran"
    wait_until(
        lambda: (
            any("no new task starts until there is room" in path.read_text() for path in stack.home.rglob("output.log"))
            or (ran.exists() and len(ran.read_text().split()) == 600)
        ),
        "the outbox is full",
    )
    count = len(ran.read_text().split())
    assert count < 600, "no new task starts while the outbox is full"
    stack.start_control_plane()
    stack.wait_for(run, StateCode.SUCCESS)
    assert sorted(map(int, ran.read_text().split())) == list(range(600)), "each task ran once"
    return count


def test_a_full_outbox_stops_new_tasks_until_the_control_plane_takes_what_is_in_it(
    make_stack: StackFactory, figure: Figure
) -> None:
    count = outbox_fills(make_stack(planted="small_outbox"))
    figure(f"outbox of 16 KiB, control plane away: {count} of 600 tasks ran, the others when it was back")


def test_an_outbox_without_a_limit_is_found(make_stack: StackFactory) -> None:
    """The planted twin: whatever comes is written."""
    with pytest.raises(AssertionError, match="no new task starts"):
        outbox_fills(make_stack(planted="small_outbox,never_full"))


# --- what the flow itself keeps -------------------------------------------------------------------------------------

BIG = """
    from heliograph import Flow, task
    from heliograph.engine.results import LocalResult

    @task(checkpoint=True)
    def big():
        return b"x" * 4_000_000

    with Flow("big", result=LocalResult()) as flow:
        big()
"""


def results_full(world: World, planted: str = "") -> None:
    """Runs a flow whose result does not fit on the disk."""
    with small_disk(world.home / "results", 1):
        world.start_agent(**planting(f"short_rest,{planted}"))
        run = world.run(world.register(BIG))
        found = world.wait_for(run, StateCode.FAILED, StateCode.SUCCESS)
        assert StateCode(found.state) is StateCode.FAILED, "a task whose result is not kept has failed"
        (failed,) = world.client.list_task_runs(run)
        assert failed.failure.reason == FailureCode.RESULT_STORE.value


def test_a_result_that_finds_no_room_fails_its_task_and_says_so(world: World) -> None:
    results_full(world)


def test_results_that_are_lost_unheard_are_found(world: World) -> None:
    """The planted twin: what cannot be written is left out."""
    with pytest.raises(AssertionError, match="is not kept has failed"):
        results_full(world, "lose_results")


FAILING = """
    import time
    from heliograph import Flow, task
    from heliograph.triggers import all_failed

    @task
    def fails():
        raise ValueError("no")

    @task(trigger=all_failed)
    def mends():
        time.sleep(1)  # the text of the error is written meanwhile

    with Flow("mended") as flow:
        flow.set_reference_tasks([mends(upstream_tasks=[fails()])])
"""


def ledger_full(world: World, planted: str = "") -> None:
    """Runs a flow that has the text of an error to keep, and no room for it."""
    with small_disk(world.home / "results", 1):
        fill(world.home / "results")
        world.start_agent(**planting(f"short_rest,{planted}"))
        run = world.run(world.register(FAILING))
        found = world.wait_for(run, StateCode.SUCCESS, StateCode.FAILED, StateCode.CRASHED)
        assert StateCode(found.state) is StateCode.SUCCESS, "a flow does not fail for its ledger"
        assert "The ledger cannot be written now" in world.run_files(run), "it is told"


def test_a_ledger_that_finds_no_room_fails_no_flow_and_is_told(world: World) -> None:
    ledger_full(world)


def test_flows_that_fail_with_their_ledger_are_found(world: World) -> None:
    """The planted twin: no ledger, no flow."""
    with pytest.raises(AssertionError, match="does not fail for its ledger"):
        ledger_full(world, "fail_with_the_ledger")
