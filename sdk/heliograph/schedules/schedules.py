"""Schedules: the union of clocks."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal, overload

from heliograph.schedules.clocks import Clock, ClockEvent, CronClock, IntervalClock


class Schedule:
    """Times of one or several clocks, in order.

    Args:
        clocks: The clocks.

    Raises:
        TypeError: Something is no clock.
    """

    def __init__(self, clocks: Sequence[Clock]) -> None:
        self.clocks = list(clocks)
        for clock in self.clocks:
            if not _is_clock(clock):
                raise TypeError(f"a schedule is made of clocks, not {clock!r}")

    def __repr__(self) -> str:
        return f"<Schedule: {', '.join(map(repr, self.clocks)) or 'no clocks'}>"

    @property
    def start_date(self) -> datetime | None:
        """The first start date of its clocks, if any has one."""
        return min((clock.start_date for clock in self.clocks if clock.start_date is not None), default=None)

    @property
    def end_date(self) -> datetime | None:
        """The last end date of its clocks, if any has one."""
        return max((clock.end_date for clock in self.clocks if clock.end_date is not None), default=None)

    def events(self, after: datetime | None = None) -> Iterator[ClockEvent]:
        """Yields the events of all clocks strictly after an instant (by default now), in order of time.

        Events that are equal in time, parameters and labels are one.
        """
        seen: list[ClockEvent] = []
        for event in heapq.merge(*(clock.events(after) for clock in self.clocks)):
            if seen and seen[-1].start_time != event.start_time:
                seen.clear()
            if event not in seen:
                seen.append(event)
                yield event

    @overload
    def next(self, n: int, after: datetime | None = None, return_events: Literal[False] = False) -> list[datetime]: ...
    @overload
    def next(self, n: int, after: datetime | None = None, *, return_events: Literal[True]) -> list[ClockEvent]: ...
    def next(
        self, n: int, after: datetime | None = None, return_events: bool = False
    ) -> list[datetime] | list[ClockEvent]:
        """Returns the next times.

        Args:
            n: How many; fewer are returned when the clocks end.
            after: Strictly after this instant; by default now. Without a zone it is UTC.
            return_events: True to return `ClockEvent`s, which carry parameters and labels too.
        """
        events = list(islice(self.events(after), n))
        return events if return_events else [event.start_time for event in events]


def IntervalSchedule(  # noqa: N802 - reads as a class where it is used
    interval: timedelta,
    start_date: datetime | None = None,
    end_date: datetime | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Iterable[str] | None = None,
) -> Schedule:
    """Returns a schedule of one `IntervalClock`; the arguments are the clock's."""
    return Schedule([IntervalClock(interval, start_date, end_date, parameter_defaults, labels)])


def CronSchedule(  # noqa: N802
    cron: str,
    start_date: datetime | None = None,
    end_date: datetime | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Iterable[str] | None = None,
    day_or: bool = True,
    timezone: str | None = None,
) -> Schedule:
    """Returns a schedule of one `CronClock`; the arguments are the clock's."""
    return Schedule([CronClock(cron, start_date, end_date, parameter_defaults, labels, day_or, timezone)])


def _is_clock(value: Any) -> bool:
    return isinstance(value, Clock)
