"""Clocks: the sources of times that a schedule unites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from heliograph.exceptions import InvalidArgumentError
from heliograph.schedules.expansion import (
    DEFAULT_ANCHOR,
    ClockSpec,
    CronSpec,
    DatesSpec,
    IntervalSpec,
    occurrences,
    validate_cron,
    zone,
)


@dataclass(frozen=True, slots=True)
class ClockEvent:
    """One time of a clock, and what it says about the run.

    Attributes:
        start_time: When, in the clock's zone.
        parameter_defaults: Parameter values of the run, where it gives none.
        labels: Labels in place of the flow's; None leaves the flow's.
    """

    start_time: datetime
    parameter_defaults: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None

    def __lt__(self, other: ClockEvent) -> bool:
        return self.start_time < other.start_time


class Clock:
    """The root of clocks.

    Args:
        spec: Its times.
        parameter_defaults: Parameter values of its runs.
        labels: Labels of its runs, in place of the flow's. An empty list replaces them too; None does not.
    """

    def __init__(
        self,
        spec: ClockSpec,
        parameter_defaults: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
    ) -> None:
        if isinstance(labels, str):
            raise TypeError(f"labels must be a list of words, not the text {labels!r}")
        self.spec = spec
        self.parameter_defaults = None if parameter_defaults is None else dict(parameter_defaults)
        self.labels = None if labels is None else list(labels)

    @property
    def start_date(self) -> datetime | None:
        """No time is before it."""
        return self.spec.start

    @property
    def end_date(self) -> datetime | None:
        """No time is after it."""
        return self.spec.end

    def events(self, after: datetime | None = None) -> Iterator[ClockEvent]:
        """Yields the events strictly after an instant, by default after now."""
        after = as_aware(after) if after is not None else datetime.now(UTC)
        tz = zone(getattr(self.spec, "timezone", "UTC"))
        labels = None if self.labels is None else tuple(self.labels)
        for occurrence in occurrences(self.spec, after):
            yield ClockEvent(occurrence.time.astimezone(tz), self.parameter_defaults, labels)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.spec}>"


class IntervalClock(Clock):
    """Every so often.

    Args:
        interval: The step, more than 0; at least a second for a flow that is registered. Whole days keep their wall
            time in the start date's zone; the rest is elapsed time.
        start_date: First time and start of the grid. By default the grid starts at 2019-01-01 UTC.
        end_date: Last time.
        parameter_defaults: Parameter values of its runs.
        labels: Labels of its runs, in place of the flow's.

    Raises:
        InvalidArgumentError: The interval is not more than 0.
    """

    def __init__(
        self,
        interval: timedelta,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        parameter_defaults: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
    ) -> None:
        if not _is_timedelta(interval):
            raise TypeError(f"an interval must be a timedelta, not {interval!r}")
        if interval <= timedelta(0):
            raise InvalidArgumentError(f"an interval must be more than 0, not {interval}")
        start = None if start_date is None else as_aware(start_date)
        end = None if end_date is None else as_aware(end_date)
        self.interval = interval
        spec = IntervalSpec(interval, start or DEFAULT_ANCHOR, zone_name(start), start, end)
        super().__init__(spec, parameter_defaults, labels)


class CronClock(Clock):
    """Wall times of a cron expression.

    Args:
        cron: Five fields (minute, hour, day of month, month, day of week), or six with seconds as the last.
        start_date: No time before; its zone is the clock's.
        end_date: Last time.
        parameter_defaults: Parameter values of its runs.
        labels: Labels of its runs, in place of the flow's.
        day_or: True (default): day of month OR day of week, when both are given; False: both must match.
        timezone: IANA zone; by default that of `start_date`, else UTC.

    Raises:
        InvalidArgumentError: The expression or the zone is not valid.
    """

    def __init__(
        self,
        cron: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        parameter_defaults: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
        day_or: bool = True,
        timezone: str | None = None,
    ) -> None:
        validate_cron(cron, day_or=day_or)
        start = None if start_date is None else as_aware(start_date)
        end = None if end_date is None else as_aware(end_date)
        self.cron = cron
        self.day_or = day_or
        name = zone_name(start) if timezone is None else zone(timezone).key
        super().__init__(CronSpec(cron, name, day_or, start, end), parameter_defaults, labels)


class DatesClock(Clock):
    """Fixed times.

    Args:
        dates: The times; without a zone they are UTC.
        parameter_defaults: Parameter values of its runs.
        labels: Labels of its runs, in place of the flow's.

    Raises:
        InvalidArgumentError: There is no date.
    """

    def __init__(
        self,
        dates: Sequence[datetime],
        parameter_defaults: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
    ) -> None:
        self.dates = sorted(as_aware(date) for date in dates)
        if not self.dates:
            raise InvalidArgumentError("a clock of dates needs at least one")
        super().__init__(DatesSpec(tuple(self.dates)), parameter_defaults, labels)

    @property
    def start_date(self) -> datetime:
        """The first date."""
        return self.dates[0]

    @property
    def end_date(self) -> datetime:
        """The last date."""
        return self.dates[-1]


def as_aware(value: datetime) -> datetime:
    """Returns a datetime with a zone: UTC when it has none.

    Raises:
        TypeError: It is no datetime.
    """
    if not _is_datetime(value):
        raise TypeError(f"a date of a clock must be a datetime, not {value!r}")
    return value if value.utcoffset() is not None else value.replace(tzinfo=UTC)


def zone_name(value: datetime | None) -> str:
    """Returns the IANA name of a datetime's zone: of zoneinfo, pendulum and pytz; UTC for none.

    Raises:
        InvalidArgumentError: The zone is a fixed offset that has no name.
    """
    if value is None or value.tzinfo is None:
        return "UTC"
    for attribute in ("key", "zone", "name"):
        name = getattr(value.tzinfo, attribute, None)
        if isinstance(name, str):
            return zone(name).key
    return _fixed_zone_name(value.tzinfo, value)


def _fixed_zone_name(info: tzinfo, value: datetime) -> str:
    offset = info.utcoffset(value) or timedelta(0)
    if info.utcoffset(None) is not None:  # it is the same at all times
        hours, rest = divmod(offset, timedelta(hours=1))
        if not offset:
            return "UTC"
        if not rest and -14 <= -hours <= 12:
            return f"Etc/GMT{-hours:+d}"  # their sign is the other way round
    raise InvalidArgumentError(
        f"the time zone {info} has no IANA name, so it cannot be kept across changes of daylight saving time",
        hint='use zoneinfo.ZoneInfo("Europe/Berlin")',
    )


def _is_timedelta(value: Any) -> bool:
    return isinstance(value, timedelta)


def _is_datetime(value: Any) -> bool:
    return isinstance(value, datetime)
