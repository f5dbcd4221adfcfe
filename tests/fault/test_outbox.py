"""A flow process that dies at once has told what happened: states are on disk before the flow goes on."""

from __future__ import annotations

import pytest
from tests.fault.conftest import StackFactory
from tests.support.figures import Figure
from tests.support.history import task_states
from tests.support.stack import Stack

from heliograph.engine.codes import StateCode

SUDDEN = """
import os, signal
from heliograph import Flow, task

@task
def step(number):
    return number

@task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

with Flow("sudden") as flow:
    before = None
    for number in range(30):
        before = step(number, upstream_tasks=[before] if before else None)
    die(upstream_tasks=[before])
"""


def killed_at_once(stack: Stack) -> int:
    """Runs a flow that kills itself as the first thing its last task does; returns how many states were told."""
    stack.register(SUDDEN)
    run = stack.run("sudden")
    stack.wait_for(run, StateCode.CRASHED)
    entries = task_states(stack, run)
    done = [entry for entry in entries if entry.state is StateCode.SUCCESS]
    assert len(done) == 30, "every step that succeeded was told"
    assert entries[-1].state is StateCode.RUNNING, "the task that was running was told"
    assert entries[-1].slug.startswith("die")
    return len(entries)


def test_a_flow_that_is_killed_at_once_has_told_what_ran(make_stack: StackFactory, figure: Figure) -> None:
    """Thirty quick steps, then SIGKILL within microseconds of the last state."""
    told = killed_at_once(make_stack())
    figure(f"killed within microseconds of its last event: {told} of 61 states told")
    assert told == 61


def test_states_that_are_written_some_time_later_are_found(make_stack: StackFactory) -> None:
    """The planted twin: a thread writes what was told."""
    with pytest.raises(AssertionError, match="was told"):
        killed_at_once(make_stack(planted="tell_later"))
