"""A flood of log lines over a control plane that dies in the middle: none is stored twice, each lost one is counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.fault.conftest import StackFactory
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.api.v1 import log_service_pb2 as api
from heliograph.engine.codes import StateCode

FLOW = """
from pathlib import Path
import heliograph
from heliograph import Flow, Parameter, task

@task
def flood(count, written):
    logger = heliograph.context.logger
    for number in range(count):
        logger.info("line %d", number)
    Path(written).touch()

with Flow("flood") as flow:
    flood(Parameter("count"), Parameter("written"))
"""


@dataclass(frozen=True)
class Flood:
    """What came of the lines.

    Attributes:
        written: How many the run has written, those of the engine with them.
        stored: How many are stored.
        twice: How many of them are there more than once.
        counted: How many the stored lines say never came.
    """

    written: int
    stored: int
    twice: int
    counted: int


def lines(stack: Stack, run: str) -> list[api.LogEntry]:
    """Returns all lines of a run."""
    found: list[api.LogEntry] = []
    token = ""
    with stack.connection() as connection:
        while True:
            request = api.ListLogEntriesRequest(
                parent=f"projects/{PROJECT}/flowRuns/{run}", page_size=5_000, page_token=token
            )
            page = connection.call(connection.services.logs.ListLogEntries, request)
            found += page.entries
            token = page.next_page_token
            if not token:
                return found


def flood(stack: Stack, count: int) -> Flood:
    """Runs a flood; the control plane dies early on and comes back when all lines are written."""
    stack.register(FLOW)
    written, control_plane = stack.root / "written", stack.control_plane
    assert control_plane is not None
    run = stack.run("flood", f"count={count}", f"written={written}")
    wait_until(lambda: control_plane.poll() is not None, "the control plane dies", 120.0)
    wait_until(written.exists, "all lines are written", 600.0)
    stack.start_control_plane()
    stack.wait_for(run, StateCode.SUCCESS, seconds=600.0)
    # What the engine says of each run besides: taken from one that loses nothing.
    small = stack.run("flood", "count=1", f"written={written}")
    stack.wait_for(small, StateCode.SUCCESS, seconds=120.0)
    found = lines(stack, run)
    numbers = [entry.message for entry in found if entry.message.startswith("line ")]
    assert numbers[-1] == f"line {count - 1}", "the newest lines are kept"
    return Flood(
        written=count - 1 + len(lines(stack, small)),
        stored=len(found),
        twice=len(numbers) - len(set(numbers)),
        counted=sum(entry.dropped_before for entry in found),
    )


@forms("count", quick=100_000, full=1_000_000, seconds=1800)
def test_no_line_is_there_twice_and_each_lost_one_is_counted(
    make_stack: StackFactory, figure: Figure, count: int
) -> None:
    found = flood(make_stack(planted="flood"), count)
    figure(f"{found.written:,} lines: {found.stored:,} stored, {found.twice} twice, {found.counted:,} counted as lost")
    assert found.twice == 0
    assert found.counted > 0, "the lane was too small for all of them"
    assert found.stored + found.counted == found.written


def test_a_store_that_counts_no_gap_is_found(make_stack: StackFactory) -> None:
    """The planted twin: lines that never came leave no trace."""
    found = flood(make_stack(planted="flood_and_count_no_gap"), 40_000)
    assert found.stored + found.counted < found.written


@pytest.mark.full
def test_a_store_that_takes_lines_again_is_found(make_stack: StackFactory) -> None:
    """The planted twin: what is sent again, because the answer was lost, is stored again."""
    assert flood(make_stack(planted="flood_and_store_lines_as_they_come"), 40_000).twice > 0
