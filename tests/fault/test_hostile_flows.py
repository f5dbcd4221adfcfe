"""Flows that do to their own process what they should not: the run ends, soon, with the truth, and leaves nothing."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
from tests.fault.conftest import PLANTED
from tests.integration.agent.conftest import World, eventually, plane, world

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.reporting.writer import EXIT_LOST

__all__ = ["plane", "world"]

FLOW = """
    import os, subprocess, sys, time
    from heliograph import Flow, context, task

    @task
    def hurt():
        {body}

    @task
    def after():
        with open("after", "a") as file:
            file.write(str(os.getpid()) + " ")

    with Flow("hostile") as flow:
        after(upstream_tasks=[hurt])
"""


def run_flow(world: World, body: str, **planted: Any) -> str:
    """Registers and runs the flow with that task."""
    world.start_agent(**planted)
    return world.run(world.register(FLOW.format(body=body)))


PLANT: dict[str, Any] = {"PYTHONPATH": str(PLANTED)}

# --- descriptors ----------------------------------------------------------------------------------------------------


def descriptors_closed(world: World, seconds: float = 90, **planted: Any) -> None:
    """Closes every descriptor, and opens files of its own under their numbers."""
    body = "os.closerange(3, 4096); mine = [open(f'mine-{i}', 'w') for i in range(40)]; context.logger.info('hello')"
    run = run_flow(world, body, **planted)
    found = world.wait_for(run, StateCode.CRASHED, seconds=seconds)
    assert found.failure.reason == FailureCode.EXIT_CODE.value
    assert found.failure.exit_code == EXIT_LOST
    assert "closed file descriptors" in world.run_files(run)
    written = [path.name for path in world.folder.glob("mine-*") if path.stat().st_size]
    assert not written, "nothing of ours is in a file of the user's"


def test_a_flow_that_closes_all_descriptors_ends_and_its_files_stay_its_own(world: World) -> None:
    """It would wait for an outbox that it cannot have any more, and write into files that are not the outbox."""
    descriptors_closed(world)


def test_an_outbox_that_trusts_its_descriptor_is_found(world: World) -> None:
    """The planted twin: the identity of the file is not looked at."""
    with pytest.raises(AssertionError):
        descriptors_closed(world, 8, **PLANT, HELIOGRAPH_PLANTED_BUG="trust_the_descriptor")


def test_a_flow_without_standard_streams_is_told_in_full(world: World) -> None:
    """What it prints fails or is lost; its states and lines are not."""
    run = run_flow(world, "os.close(1); os.close(2); context.logger.info('still heard')")
    found = world.wait_for(run, StateCode.SUCCESS, StateCode.FAILED)
    assert sum(count.count for count in found.task_run_counts) == 2
    assert "still heard" in [entry.message for entry in world.client.list_logs(run)]


# --- processes ------------------------------------------------------------------------------------------------------


def forked(world: World, **planted: Any) -> None:
    """A task forks, and the child returns from it as well."""
    body = (
        "child = os.fork();"
        # The run goes on when the copy is gone or has gone on: the end of the run would else be the copy's end.
        " [time.sleep(0.01) for _ in iter("
        "lambda: bool(child) and not os.path.exists('after') and os.waitpid(child, os.WNOHANG)[0] == 0, False)]"
    )
    run = run_flow(world, body, **planted)
    world.wait_for(run, StateCode.SUCCESS)
    _, flow = (0, 0) if not (world.run_directory(run) / "supervisor.json").exists() else world.pids(run)
    marks = world.marks("after")
    assert marks == [str(flow)] if flow else len(marks) == 1, "the flow went on once, in its own process"


def test_a_forked_child_does_not_go_on_with_the_flow(world: World) -> None:
    """There are never two copies of a run, not even of its own making."""
    forked(world)


def test_an_outbox_that_does_not_see_forks_is_found(world: World) -> None:
    """The planted twin: nobody tells the copy that it is one."""
    with pytest.raises(AssertionError, match="went on once"):
        forked(world, **PLANT, HELIOGRAPH_PLANTED_BUG="go_on_after_a_fork")


def daemon_left(world: World, seconds: float = 90, **planted: Any) -> None:
    """A task leaves a process behind in a session of its own, twice forked, with no descriptor of the run."""
    body = (
        "os.fork() or (os.setsid(), os.fork() and os._exit(0), open('daemon', 'w').write(str(os.getpid())),"
        " os.closerange(0, 4096), time.sleep(600));"
        # The run must not be over, and its tree looked for, before the process is there.
        " [time.sleep(0.01) for _ in iter(lambda: os.path.exists('daemon') and os.path.getsize('daemon') > 0, True)]"
    )
    run = run_flow(world, body, **planted)
    pid = int(eventually(lambda: (world.marks("daemon") or [""])[0], "the process was left"))
    world.wait_for(run, StateCode.SUCCESS)
    eventually(lambda: not psutil.pid_exists(pid), "it is gone", seconds)


def test_what_a_task_leaves_behind_ends_with_the_run(world: World) -> None:
    """Sessions, double forks and closed descriptors hide nothing from a supervisor."""
    daemon_left(world)


def test_a_supervisor_that_looks_at_the_flow_process_alone_is_found(world: World) -> None:
    """The planted twin: what is left of the flow's tree is not looked for."""
    with pytest.raises(AssertionError, match="it is gone"):
        daemon_left(world, 5, **PLANT, HELIOGRAPH_PLANTED_BUG="spare_the_tree")


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_that_leaves_by_the_back_door_crashes_the_run(world: World, code: int) -> None:
    """`os._exit` is no success, whatever its number."""
    found = world.wait_for(run_flow(world, f"os._exit({code})"), StateCode.CRASHED)
    assert found.failure.reason == FailureCode.EXIT_CODE.value
    assert found.failure.exit_code == code
    assert not world.marks("after")


def test_a_line_of_4_mib_is_cut_and_holds_up_nothing(world: World) -> None:
    """It crosses in the length that the contract has."""
    run = run_flow(world, "context.logger.info('a' * 4194304); print('b' * 4194304)")
    world.wait_for(run, StateCode.SUCCESS)
    (long,) = [entry.message for entry in world.client.list_logs(run) if entry.message.startswith("aaa")]
    assert len(long.encode()) <= 8192
