"""Schedules as messages: into the clocks of the domain, and their next times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from heliograph.api.v1 import schedule_service_pb2 as pb
from heliograph.exceptions import InvalidArgumentError
from heliograph.schedules import expansion
from heliograph_control_plane.domain.scheduling import ScheduledClock, preview
from heliograph_control_plane.store import records

MAX_INTERVAL = timedelta(days=36_525)
"""Longest step of an interval: a hundred years."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def check_clock(clock: pb.Clock) -> None:
    """Checks a clock.

    Raises:
        InvalidArgumentError: What is wrong with it.
    """
    spec = spec_of(clock)
    expansion.validate_spec(spec)
    if isinstance(spec, expansion.IntervalSpec) and spec.interval > MAX_INTERVAL:
        raise InvalidArgumentError("an interval must be at most 100 years")


def spec_of(clock: pb.Clock) -> expansion.ClockSpec:
    """The clock that a message describes.

    Raises:
        InvalidArgumentError: It describes none, or a time beyond the calendar.
    """
    start = _time(clock.start_time) if clock.HasField("start_time") else None
    end = _time(clock.end_time) if clock.HasField("end_time") else None
    match clock.WhichOneof("kind"):
        case "cron":
            cron = clock.cron
            return expansion.CronSpec(cron.cron, cron.timezone or "UTC", not cron.day_and, start, end)
        case "interval":
            interval = clock.interval
            anchor = _time(interval.anchor_time) if interval.HasField("anchor_time") else expansion.DEFAULT_ANCHOR
            try:
                step = timedelta(microseconds=interval.interval_micros)
            except OverflowError:
                raise InvalidArgumentError("an interval is too long") from None
            return expansion.IntervalSpec(step, anchor, interval.timezone or "UTC", start, end)
        case "dates":
            return expansion.DatesSpec(tuple(_time(time) for time in clock.dates.times), start, end)
    raise InvalidArgumentError("a clock has no kind")


def scheduled_clocks(spec: bytes) -> list[ScheduledClock]:
    """The clocks of a stored schedule, with what their runs get.

    Raises:
        DecodeError: It is no schedule.
        InvalidArgumentError: A clock is none.
    """
    return [
        ScheduledClock(
            spec_of(clock),
            clock.parameter_defaults_json,
            tuple(dict.fromkeys(clock.labels)) if clock.override_labels else None,
        )
        for clock in pb.ScheduleSpec.FromString(spec).clocks
    ]


def next_times(schedule: records.Schedule, after_micros: int, count: int) -> list[int]:
    """The next instants of a schedule, each once, in microseconds."""
    after = instant(max(after_micros, schedule.active_since_micros))
    return preview(scheduled_clocks(schedule.spec), after=after, count=count)


def instant(micros: int) -> datetime:
    """An instant from microseconds since 1970."""
    return _EPOCH + micros * _MICROSECOND


def _time(message: Timestamp) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
    except OverflowError:
        raise InvalidArgumentError("a time is beyond the calendar") from None
