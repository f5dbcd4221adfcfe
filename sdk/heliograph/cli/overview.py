"""Which runs a person wants to see first: what goes on, what was recent, and a little of what is to come.

The API lists runs by creation, newest first, and a schedule creates runs for days ahead. Asked for by their states,
scheduled runs cannot push out the others. Pure but for the function that fetches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2

    Fetch = Callable[[Sequence[StateCode], int | None], list[flow_run_service_pb2.FlowRun]]

MAX_UPCOMING = 3
"""Future runs in an overview."""

MAX_LOOKED_AT = 2_000
"""Scheduled runs among which the next ones are looked for."""

FINISHED = tuple(code for code in StateCode if code.is_finished)
GOING_ON = tuple(code for code in StateCode if not code.is_finished and code is not StateCode.SCHEDULED)


def overview(fetch: Fetch, limit: int, now: datetime | None = None) -> tuple[list[flow_run_service_pb2.FlowRun], str]:
    """Returns runs for a table of at most `limit` rows, and what to say of those that are not in it.

    Runs that wait though their time has come, and those that go on, come first, newest first; then finished ones; then
    the next scheduled ones, soonest first.
    """
    moment = (now or datetime.now(UTC)).timestamp()
    scheduled = soonest_first(fetch((StateCode.SCHEDULED,), MAX_LOOKED_AT))
    due = [run for run in scheduled if due_at(run) <= moment]
    later = scheduled[len(due) :]
    first = [*reversed(due), *fetch(GOING_ON, limit)][:limit]
    first += fetch(FINISHED, limit - len(first)) if len(first) < limit else []
    shown = later[: min(MAX_UPCOMING, max(0, limit - len(first)))]
    hidden = len(later) - len(shown)
    if not hidden:
        return [*first, *shown], ""
    word = "run is" if hidden == 1 else "runs are"
    or_more = " or more" if len(scheduled) >= MAX_LOOKED_AT else ""
    return [*first, *shown], f"{hidden:,}{or_more or ' more'} {word} scheduled: heliograph runs ls --upcoming"


def soonest_first(runs: Sequence[flow_run_service_pb2.FlowRun]) -> list[flow_run_service_pb2.FlowRun]:
    """Returns runs by the time at which they should start."""
    return sorted(runs, key=due_at)


def due_at(run: flow_run_service_pb2.FlowRun) -> float:
    """Returns when a run should start, in seconds since 1970."""
    return run.scheduled_time.seconds + run.scheduled_time.nanos / 1e9
