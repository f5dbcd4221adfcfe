"""The control plane is killed during a run and stays away: the run goes on, and nothing is lost."""

from __future__ import annotations

import time

import psutil
import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.support.history import task_states, witness
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import StateCode


def outage(stack: Stack, *, count: int, away_seconds: float) -> None:
    """Runs a chain of steps of 0.5 s, most of which fall into an outage, and checks the history afterwards."""
    stack.register(steps(count))
    seen = stack.root / "witness.jsonl"
    run = stack.run("steps", f"witness={seen}", "seconds=0.5")
    wait_until(lambda: len(witness(seen)) >= 3, "three steps ran")

    # Frozen first, so that a batch is under way whose acknowledgement will never come.
    assert stack.control_plane is not None
    psutil.Process(stack.control_plane.pid).suspend()
    frozen_at = len(witness(seen))
    wait_until(lambda: len(witness(seen)) >= frozen_at + 3, "the run goes on beside a frozen control plane")
    stack.kill_control_plane()
    killed = time.time()
    before = len(witness(seen))
    # The length of the outage is what is tested; the run's own steps mark its end.
    wait_until(lambda: time.time() - killed >= away_seconds, "the outage is over", seconds=away_seconds + 30)
    during = len(witness(seen)) - before
    assert during >= min(count - before, away_seconds / 0.5 * 0.7), (
        f"the run waited: {during} steps in {away_seconds} s"
    )
    stack.start_control_plane()
    stack.wait_for(run, StateCode.SUCCESS, seconds=60 + count * 0.5)

    check_history(stack, run, seen_count=count)


def check_history(stack: Stack, run: str, *, seen_count: int) -> None:
    """Checks that each step ran once and that its states are there once, in order, with their own times."""
    lines = witness(stack.root / "witness.jsonl")
    assert [line.step for line in lines] == list(range(seen_count)), "each step ran once, in order"
    assert len({line.pid for line in lines}) == 1, "one process ran them all"

    entries = task_states(stack, run)
    assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
    assert {entry.epoch for entry in entries} == {1}
    times = [entry.seconds for entry in entries]
    assert times == sorted(times), "the order of times is the order of events"

    ran = [entry for entry in entries if entry.state is StateCode.RUNNING and entry.slug.startswith("step")]
    done = [entry for entry in entries if entry.state is StateCode.SUCCESS and entry.slug.startswith("step")]
    slugs = [entry.slug for entry in ran]
    assert len(set(slugs)) == seen_count, "every step's start is stored, once"
    assert [entry.slug for entry in done] == slugs, "every step's end is stored, once"
    for line, entry in zip(lines, ran, strict=True):
        assert abs(line.seconds - entry.seconds) < 0.25, "times are those of the flow's own clock"
    assert stack.inspect(run).missing_events == 0


@pytest.mark.timeout(240)
@pytest.mark.xdist_group("slow-outage")
def test_the_run_goes_on_while_the_control_plane_is_away_for_a_minute(make_stack: StackFactory) -> None:
    """60 s away: no step waits, and the history is whole, in order, with the original times."""
    outage(make_stack(), count=140, away_seconds=60)


@pytest.mark.timeout(120)
def test_a_supervisor_that_trims_before_the_ack_is_found(make_stack: StackFactory) -> None:
    """The planted twin: events are trimmed when they were sent, not when they were acknowledged."""
    with pytest.raises(AssertionError, match=r"is stored|the run is CRASHED|missing_events"):
        outage(make_stack(planted="trim_before_ack"), count=24, away_seconds=6)
