"""The control plane is away, for seconds or minutes: runs notice nothing, and their stories arrive whole.

Away means first frozen, with batches under way whose acknowledgement will never come, then killed, then started again.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.support.fault_proxy import FaultProxy
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.history import task_states, witness
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.client.client import Client
from heliograph.engine.codes import StateCode

pytestmark = pytest.mark.xdist_group("outage")

EPSILON = 1e-4
"""Times are stored in microseconds, and a float has no more."""


def client_of(stack: Stack) -> Client:
    """A client of the control plane itself."""
    return Client(stack.address, stack.environment["HELIOGRAPH__CLIENT__TOKEN"])


# --- one long outage --------------------------------------------------------------------------------------------------


def go_away(stack: Stack, seconds: float, files: list[Path], tasks: int) -> None:
    """Freezes the control plane, kills it when all runs went on beside it, and starts it again when they still do.

    It is away for so long at least.
    """
    assert stack.control_plane is not None
    began, before = time.monotonic(), [len(witness(file)) for file in files]

    def go_on(steps: int) -> bool:
        return all(len(witness(file)) >= min(count + steps, tasks) for count, file in zip(before, files, strict=True))

    psutil.Process(stack.control_plane.pid).suspend()
    wait_until(lambda: go_on(2), "the runs go on beside a frozen control plane", seconds=120)
    stack.kill_control_plane()
    wait_until(lambda: go_on(3), "the runs go on without a control plane", seconds=120)
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))  # the length of the outage is what is tested
    stack.start_control_plane()


def outage(stack: Stack, *, runs: int, tasks: int, seconds: float, away_seconds: float, slower: float) -> float:
    """Has runs live through an outage. Returns the ratio of the steps' pace during it and before it.

    Args:
        stack: With an agent that takes all of them at once.
        runs: How many.
        tasks: Steps of each.
        seconds: How long a step takes.
        away_seconds: How long the control plane is away.
        slower: Largest ratio that is no slowness; 0 where steps are so short that this machine's noise exceeds it.
    """
    stack.register(steps(tasks))
    files = [stack.root / f"{number}.jsonl" for number in range(runs)]
    with client_of(stack) as client:
        ids = [client.create_flow_run(f"{PROJECT}/steps", {"witness": str(file), "seconds": seconds}) for file in files]
    wait_until(lambda: all(len(witness(file)) >= 3 for file in files), "all runs are in their third step", seconds=120)
    left = time.time()
    go_away(stack, away_seconds, files, tasks)
    back = time.time()
    for run in ids:
        stack.wait_for(run, StateCode.SUCCESS, seconds=60 + tasks * seconds)
    for run, file in zip(ids, files, strict=True):
        check_history(stack, run, [(line.step, line.seconds, line.pid) for line in witness(file)], tasks)

    def paces(of: Callable[[float, float], bool]) -> list[float]:
        return [
            after.seconds - before.seconds
            for file in files
            for before, after in pairwise(witness(file))
            if of(before.seconds, after.seconds)
        ]

    during = paces(lambda start, end: start >= left and end <= back)
    outside = paces(lambda start, end: end <= left or start >= back)
    ratio = statistics.median(during) / statistics.median(outside)
    if slower:
        expected = runs * (away_seconds / seconds - 2)
        assert len(during) >= expected * 0.7, f"runs waited: {len(during)} steps of {expected:.0f}"
        assert ratio <= slower, f"steps took {ratio:.2f} times as long while the control plane was away"
    return ratio


def check_history(stack: Stack, run: str, lines: list[tuple[int, float, int]], tasks: int) -> None:
    """Checks that each step ran once, and that its states are there once, in order, with their own times."""
    assert [step for step, _, _ in lines] == list(range(tasks)), "each step ran once, in order"
    assert len({pid for _, _, pid in lines}) == 1, "one process ran them all"
    entries = task_states(stack, run)
    assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
    assert {entry.epoch for entry in entries} == {1}
    times = [entry.seconds for entry in entries]
    assert times == sorted(times), "the order of times is the order of events"
    ran = [entry for entry in entries if entry.state is StateCode.RUNNING and entry.slug.startswith("step")]
    done = [entry for entry in entries if entry.state is StateCode.SUCCESS and entry.slug.startswith("step")]
    slugs = [entry.slug for entry in ran]
    assert len(set(slugs)) == len(slugs) == tasks, "every step's start is stored, once"
    assert [entry.slug for entry in done] == slugs, "every step's end is stored, once"
    for (_, seconds, _), start, end in zip(lines, ran, done, strict=True):
        assert start.seconds - EPSILON <= seconds <= end.seconds + EPSILON, "times are those of the flow's own clock"
    found = stack.inspect(run)
    assert (found.missing_events, found.lost) == (0, False), "missing_events, or called lost: never lost"
    with client_of(stack) as client:
        states = [StateCode(record.state) for record in client.list_flow_run_states(run)]
    assert states == [StateCode.SCHEDULED, StateCode.SUBMITTED, StateCode.RUNNING, StateCode.SUCCESS], "never lost"


@forms(
    "runs,tasks,seconds,away_seconds,slower",
    quick=(12, 8, 1.0, 4.5, 0.0),
    full=(50, 20, 35.0, 600.0, 1.05),
    quick_seconds=300,
)
def test_runs_go_on_while_the_control_plane_is_away(
    make_stack: StackFactory,
    runs: int,
    tasks: int,
    seconds: float,
    away_seconds: float,
    slower: float,
    figure: Figure,
) -> None:
    """No run fails, waits or is called lost; afterwards all is there, in order, with the original times."""
    stack = make_stack(agent_args=["--capacity", str(runs)])
    ratio = outage(stack, runs=runs, tasks=tasks, seconds=seconds, away_seconds=away_seconds, slower=slower)
    figure(
        f"{runs} runs, control plane away for {away_seconds:.0f} s: 0 failed, 0 lost, all states in order; steps took"
        f" {ratio:.3f} times as long"
    )


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("trim_before_ack", r"is stored|the run is CRASHED|missing_events|never lost"),
        pytest.param("kill_when_away", r"the run is CRASHED|each step ran once", marks=pytest.mark.full),
    ],
)
def test_mistakes_about_outages_are_found(make_stack: StackFactory, planted: str, found: str) -> None:
    """The planted twins: events are trimmed when they were sent; a flow is killed when nobody answers."""
    with pytest.raises(AssertionError, match=found):
        outage(make_stack(planted=planted), runs=1, tasks=20, seconds=0.4, away_seconds=5, slower=0.0)


# --- many short ones --------------------------------------------------------------------------------------------------


def outages(stack: Stack, lengths: list[float], back_within: float = 90.0) -> None:
    """Cuts the agent off again and again, in different ways; after each time it must take a run and end it well."""
    with FaultProxy(stack.port) as proxy, client_of(stack) as client:
        stack.agents_address = proxy.address
        agent = stack.start_agent()
        stack.register(steps(1))
        for number, seconds in enumerate(lengths):
            way = ("refuse", "hold", "reset", "forget")[number % 4]
            if way in ("refuse", "reset"):
                proxy.refuse()
                proxy.reset()
            elif way == "hold":
                proxy.hold()
            else:
                proxy.forget()
            time.sleep(seconds)
            proxy.accept()
            proxy.release()
            file = stack.root / f"after-{number}.jsonl"
            run = client.create_flow_run(f"{PROJECT}/steps", {"witness": str(file), "seconds": 0.0})
            wait_until(
                lambda run=run: agent.poll() is not None or client.get_flow_run(run).end_time.seconds,  # type: ignore[misc]
                f"back after {seconds:.1f} s of {way}", back_within,
            )  # fmt: skip
            assert agent.poll() is None, f"the agent left after {seconds:.1f} s of {way}"
            stack.wait_for(run, StateCode.SUCCESS)
            assert len(witness(file)) == 1, "it ran once"


def lengths(count: int, longest: float) -> list[float]:
    """Returns lengths from 0.1 s on, short ones more often."""
    rng = random.Random(4480)
    return [0.1 * (longest / 0.1) ** rng.random() for _ in range(count)]


SHORT = "short_deadlines,short_keepalive"


@forms("count,longest", quick=(4, 3.0), full=(100, 60.0), seconds=3600)
def test_an_agent_recovers_from_every_outage(
    make_stack: StackFactory, count: int, longest: float, figure: Figure
) -> None:
    """Refused, silent, reset, half-open."""
    cuts = lengths(count, longest)
    outages(make_stack(planted=SHORT, agent=False), cuts)
    figure(f"{count} outages of {min(cuts):.1f} to {max(cuts):.1f} s: back each time")


def test_an_agent_that_gives_up_is_found(make_stack: StackFactory) -> None:
    """The planted twin: after three failures in a row it leaves."""
    with pytest.raises(AssertionError, match="the agent left"):
        outages(make_stack(planted=f"{SHORT},give_up", agent=False), [4.0])
