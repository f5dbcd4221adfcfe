"""Many runs, one after the other: nothing that lives longer than a run grows with them.

Memory, file descriptors and threads of the control plane, the agent and its warm parent, between a first part of the
runs, after which all caches are filled, and the last.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import psutil
import pytest
from tests.fault.conftest import StackFactory
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.api.v1 import flow_run_service_pb2 as api
from heliograph.client.connection import Connection
from heliograph.engine.codes import StateCode

FLOW = """
from heliograph import Flow, task
import heliograph

@task
def one():
    heliograph.context.logger.info("a line")
    return 1

with Flow("small") as flow:
    one()
"""

AT_ONCE = 20
FIRST_RUNS = 40

MOST_MORE_MEBIBYTES = {"control plane": 30.0, "agent": 10.0, "warm parent": 10.0}
MOST_MORE_HANDLES = 6
"""Descriptors and threads more or fewer: pools of threads grow as they are needed, connections come and go."""


@dataclass(frozen=True)
class Taken:
    """What a process has taken at one moment."""

    mebibytes: float
    descriptors: int
    threads: int

    @classmethod
    def by(cls, process: psutil.Process) -> Taken:
        return cls(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())


def run_some(connection: Connection, count: int) -> None:
    """Creates runs, some at once, and waits for the end of each."""
    services = connection.services.flow_runs
    for first in range(0, count, AT_ONCE):
        names = []
        for _ in range(first, min(count, first + AT_ONCE)):
            request = api.CreateFlowRunRequest(
                parent=f"projects/{PROJECT}", flow=f"projects/{PROJECT}/flows/small", request_id=uuid.uuid4().hex
            )
            names.append(connection.call(services.CreateFlowRun, request).name)
        for name in names:

            def state(name: str = name) -> StateCode:
                return StateCode(connection.call(services.GetFlowRun, api.GetFlowRunRequest(name=name)).state)

            wait_until(lambda: state().is_finished, f"{name} ends", 120.0)
            assert state() is StateCode.SUCCESS


def soak(stack: Stack, runs: int) -> tuple[dict[str, tuple[Taken, Taken]], list[str]]:
    """Returns what each process had taken before and after `runs` runs, and what of that is a leak, in words."""
    stack.register(FLOW)
    assert stack.control_plane is not None
    agent = psutil.Process(stack.agents[0].pid)
    processes = {
        "control plane": psutil.Process(stack.control_plane.pid),
        "agent": agent,
        "warm parent": agent.children()[0],
    }
    with stack.connection() as connection:

        def settled() -> dict[str, Taken]:
            # An exit is reported after the run has ended: the last directories and connections go a moment later.
            wait_until(lambda: len(agent.children(recursive=True)) <= 1 + 2 * STANDING_BY, "the last run is gone", 60.0)
            return {name: Taken.by(process) for name, process in processes.items()}

        run_some(connection, FIRST_RUNS)
        before = settled()
        run_some(connection, runs)
        after = settled()
    found = []
    for name in processes:
        a, b = before[name], after[name]
        if b.mebibytes - a.mebibytes > MOST_MORE_MEBIBYTES[name]:
            found.append(f"{name}: memory")
        if b.descriptors - a.descriptors > MOST_MORE_HANDLES:
            found.append(f"{name}: descriptors")
        if b.threads - a.threads > MOST_MORE_HANDLES:
            found.append(f"{name}: threads")
    return {name: (before[name], after[name]) for name in processes}, found


STANDING_BY = 4
"""Most supervisors that stand by when nothing runs, each with its flow process."""


def words(taken: dict[str, tuple[Taken, Taken]]) -> str:
    return "; ".join(
        f"{name} {a.mebibytes:.0f} → {b.mebibytes:.0f} MB, {a.descriptors} → {b.descriptors} descriptors,"
        f" {a.threads} → {b.threads} threads"
        for name, (a, b) in taken.items()
    )


@forms("runs", quick=60, full=10_000, seconds=3600)
def test_nothing_grows_with_the_runs(make_stack: StackFactory, figure: Figure, runs: int) -> None:
    taken, found = soak(make_stack(agent_args=["--capacity", "4"]), runs)
    figure(f"{runs:,} runs: {words(taken)}")
    assert found == [], words(taken)


@pytest.mark.timeout(180)
def test_what_grows_with_the_runs_is_found(make_stack: StackFactory, figure: Figure) -> None:
    """The planted twin: the control plane keeps a mebibyte of each run, the agent a descriptor and a thread."""
    taken, found = soak(make_stack(agent_args=["--capacity", "4"], planted="leak_with_each_run"), 40)
    figure(f"planted: {', '.join(found)}")
    assert found == ["control plane: memory", "agent: descriptors", "agent: threads"], words(taken)
