"""Which runs a schedule should have by now: its next occurrences, and at most one that was missed.

The times and identities come from `heliograph.schedules.expansion`, which authors use as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from heliograph.schedules.expansion import ClockSpec, clock_key, occurrence_id, occurrences

AHEAD: Final = 10
"""Most future runs that a schedule has at once."""
HORIZON: Final = timedelta(days=7)
"""How far ahead a schedule's runs are made; the next one is made however far it is."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ScheduledClock:
    """One clock of a schedule with what its runs get. `labels` None keeps the flow's."""

    spec: ClockSpec
    parameters_json: str = ""
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """One run that a schedule should have. `key` and `run_id` are the same whoever plans it."""

    run_id: str
    key: str
    scheduled_micros: int
    parameters_json: str
    labels: tuple[str, ...] | None


def plan(
    schedule_name: str,
    clocks: Sequence[ScheduledClock],
    *,
    after: datetime,
    now: datetime,
    ahead: int = AHEAD,
    horizon: timedelta = HORIZON,
) -> list[Planned]:
    """Returns the runs that the schedule should have, the earliest first.

    Of occurrences that were missed (after `after` and not later than `now`) only the latest one is made: after an
    outage a schedule catches up with one run, not with a storm.

    Args:
        schedule_name: Resource name of the schedule, `projects/P/flows/F/schedule`.
        clocks: Its clocks.
        after: No occurrence at or before this: when the schedule became active, or was last planned up to.
        now: The store's time.
        ahead: Most future runs.
        horizon: How far ahead, except for the first one.

    Raises:
        InvalidArgumentError: A clock is not valid.
    """
    missed: Planned | None = None
    future: list[Planned] = []
    limit = micros(now + horizon)
    for planned in _merged(schedule_name, clocks, after):
        if planned.scheduled_micros <= micros(now):
            missed = planned
            continue
        if len(future) >= ahead or (future and planned.scheduled_micros > limit):
            break
        future.append(planned)
    return ([] if missed is None else [missed]) + future


def preview(clocks: Sequence[ScheduledClock], *, after: datetime, count: int) -> list[int]:
    """Returns the next times in microseconds, each once."""
    times: list[int] = []
    for planned in _merged("", clocks, after):
        if len(times) == count:
            break
        if not times or times[-1] != planned.scheduled_micros:
            times.append(planned.scheduled_micros)
    return times


def micros(time: datetime) -> int:
    """Returns an instant in microseconds since 1970."""
    return (time - _EPOCH) // _MICRO


def _merged(schedule_name: str, clocks: Sequence[ScheduledClock], after: datetime) -> Iterator[Planned]:
    """Yields the occurrences of all clocks by time; equal clocks count once."""
    unique = {clock_key(clock.spec, clock.parameters_json, clock.labels): clock for clock in clocks}
    streams = [_one(schedule_name, key, clock, after) for key, clock in sorted(unique.items())]
    return heapq.merge(*streams, key=lambda planned: planned.scheduled_micros)


def _one(schedule_name: str, key: str, clock: ScheduledClock, after: datetime) -> Iterator[Planned]:
    for occurrence in occurrences(clock.spec, after):
        yield Planned(
            run_id=str(occurrence_id(schedule_name, key, occurrence.slot, occurrence.fold)),
            key=f"{key}/{occurrence.key}",
            scheduled_micros=micros(occurrence.time),
            parameters_json=clock.parameters_json or "{}",
            labels=clock.labels,
        )
