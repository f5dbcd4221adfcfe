"""Flows that want more memory than there is: what killed them is told, with what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from tests.fault.conftest import PLANTED
from tests.integration.agent.conftest import World, eventually, plane, world
from tests.support.figures import Figure

from heliograph.engine.codes import FailureCode, StateCode

__all__ = ["plane", "world"]

FLOW = """
    import resource
    from heliograph import Flow, task

    @task
    def want():
        {limit}
        held = [bytearray(b"x" * 2**20) for _ in range({megabytes})]
        return len(held)

    with Flow("hungry") as flow:
        want()
"""

LIMIT_BYTES = 192 * 2**20


@contextmanager
def memory_group() -> Iterator[Callable[[], None]]:
    """Has this process start others in a control group of theirs, where it may; else skips.

    Yields what leaves them there alone, with little memory.
    """
    name = f"heliograph-test-{os.getpid()}"
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root = Path("/sys/fs/cgroup")
    if "memory" in groups:  # version 1
        folder, limit = root / "memory" / groups["memory"].lstrip("/") / name, "memory.limit_in_bytes"
    else:
        folder, limit = root / groups.get("", "").lstrip("/") / name, "memory.max"
    try:
        folder.mkdir()
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.fail(f"no control group can be made here: {error}", pytrace=False)

    def leave() -> None:
        (folder.parent / "cgroup.procs").write_text(str(os.getpid()))
        (folder / limit).write_text(str(LIMIT_BYTES))
        with suppress(OSError):  # where there is swap
            (folder / "memory.swap.max").write_text("0")

    try:
        yield leave
    finally:
        (folder.parent / "cgroup.procs").write_text(str(os.getpid()))
        members = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
        for pid in members:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        eventually(lambda: not (folder / "cgroup.procs").read_text().strip(), "its processes are gone")
        folder.rmdir()


def killed_for_memory(world: World, **planted: str) -> None:
    """Has the kernel kill a flow for lack of memory, under an agent in a small control group."""
    with memory_group() as leave_them_there:
        world.start_agent(**planted)
        leave_them_there()
        run = world.run(world.register(FLOW.format(limit="pass", megabytes=1024)))
        found = world.wait_for(run, StateCode.CRASHED, StateCode.FAILED, StateCode.SUCCESS)
        assert StateCode(found.state) is StateCode.CRASHED
        assert FailureCode(found.failure.reason) is FailureCode.OUT_OF_MEMORY, "what killed it is told"
        assert found.failure.signal == 9
        assert "give it more, or let it hold less at a time" in world.run_files(run), "and what to do about it"
        again = world.run(world.register(FLOW.format(limit="pass", megabytes=1), "small.py"))
        world.wait_for(again, StateCode.SUCCESS)  # the agent lives


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups and address space limits are Linux's")


def test_a_flow_that_the_kernel_kills_for_memory_says_so(world: World, figure: Figure) -> None:
    killed_for_memory(world)
    figure(f"control group of {LIMIT_BYTES >> 20} MiB, a flow that wants 1 GiB: OUT_OF_MEMORY, with the hint")


def test_an_agent_that_does_not_ask_what_killed_a_flow_is_found(world: World) -> None:
    """The planted twin: a signal is a signal."""
    with pytest.raises(AssertionError, match="what killed it is told"):
        killed_for_memory(world, PYTHONPATH=str(PLANTED), HELIOGRAPH_PLANTED_BUG="blind_to_memory")


def test_a_flow_that_gets_no_more_memory_fails_with_its_exception(world: World) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))"
    world.start_agent()
    run = world.run(world.register(FLOW.format(limit=limit, megabytes=4096)))
    world.wait_for(run, StateCode.FAILED)
    (failed,) = world.client.list_task_runs(run)
    assert FailureCode(failed.failure.reason) is FailureCode.EXCEPTION
    assert failed.failure.exception_class.endswith("MemoryError")
