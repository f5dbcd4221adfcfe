"""From the description of a clock and an instant to the clock's occurrences. Pure: no clock, no I/O.

The SDK and the control plane both use it, so that what an author previews is what happens.

**The rule for daylight saving time.** croniter reads expressions and iterates *naive* wall times ("slots"); which
instants a slot has is decided here, with zoneinfo:

- Every slot happens once. In a repeated hour that is its first pass (fold 0).
- A slot inside a gap, which no clock on the wall ever shows, shifts forward by the length of the gap: 02:30 becomes
  03:30. If another slot of the same clock has that instant anyway, the shifted one is dropped.
- An expression whose hour field covers every hour (`*/5 * * * *`) means "every so often" rather than a time of day: it
  goes through both passes of a repeated hour, and its slots inside a gap are dropped.

**Identity.** An occurrence is known by its schedule, its clock's content, its slot and its fold, never by its instant:
whoever expands a schedule, however often, makes the same ids.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from heliograph.exceptions import InvalidArgumentError

DEFAULT_ANCHOR = datetime(2019, 1, 1, tzinfo=UTC)
"""Start of the grid of an interval that names none."""

MIN_INTERVAL = timedelta(seconds=1)
MAX_DATES = 1_000
MAX_CRON_BYTES = 256

_NAMESPACE = uuid.UUID("6f0b1c1e-2a56-5d0b-9d3c-5a1f8f6f7c11")
_DAY = timedelta(days=1)
_FIRST, _LAST = datetime(1970, 1, 2), datetime(2099, 12, 31)  # noqa: DTZ001 - wall times; the years croniter knows


@dataclass(frozen=True, slots=True)
class CronSpec:
    """Wall times of a cron expression.

    Attributes:
        cron: Five fields, six with seconds as the last, or `@daily` and the like.
        timezone: IANA zone whose wall time it means.
        day_or: True: day of month OR day of week, when both are given; False: both must match.
        start: No occurrence before.
        end: No occurrence after.
    """

    cron: str
    timezone: str = "UTC"
    day_or: bool = True
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class IntervalSpec:
    """A grid of equal steps: whole days keep their wall time, the rest of a step is elapsed time.

    Attributes:
        interval: The step.
        anchor: A point of the grid.
        timezone: IANA zone whose wall time whole days keep.
        start: No occurrence before.
        end: No occurrence after.
    """

    interval: timedelta
    anchor: datetime = DEFAULT_ANCHOR
    timezone: str = "UTC"
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class DatesSpec:
    """Fixed instants.

    Attributes:
        times: The instants, aware, in any order.
        start: No occurrence before.
        end: No occurrence after.
    """

    times: tuple[datetime, ...]
    start: datetime | None = None
    end: datetime | None = None


ClockSpec = CronSpec | IntervalSpec | DatesSpec


class Occurrence(NamedTuple):
    """One time of a clock.

    Attributes:
        time: The instant, in UTC.
        slot: What identifies it: the naive wall time of a cron slot; for other clocks the naive UTC time.
        fold: 1 for the second pass of a repeated hour, else 0.
    """

    time: datetime
    slot: datetime
    fold: int

    @property
    def key(self) -> str:
        """Slot and fold as text, unique within a clock."""
        return f"{self.slot.isoformat()}/{self.fold}"


def occurrences(spec: ClockSpec, after: datetime) -> Iterator[Occurrence]:
    """Yields the occurrences strictly after an instant, in order, each instant once.

    Args:
        spec: The clock.
        after: An aware datetime.

    Raises:
        InvalidArgumentError: The clock is not valid.
    """
    after = after.astimezone(UTC)
    if spec.start is not None:
        after = max(after, spec.start.astimezone(UTC) - timedelta.resolution)
    match spec:
        case CronSpec():
            found = _cron(spec, after)
        case IntervalSpec():
            found = _interval(spec, after)
        case DatesSpec():
            found = iter(
                Occurrence(time, time.replace(tzinfo=None), 0)
                for time in sorted({t.astimezone(UTC) for t in spec.times})
            )
    end = None if spec.end is None else spec.end.astimezone(UTC)
    last = after
    for occurrence in found:
        if end is not None and occurrence.time > end:
            return
        if occurrence.time > last:
            last = occurrence.time
            yield occurrence


def clock_key(spec: ClockSpec, parameter_defaults_json: str = "", labels: Iterable[str] | None = None) -> str:
    """Returns the identity of a clock within a schedule: a digest of its content.

    Two clocks that mean the same are one; the same times with other parameters or labels are another clock.

    Args:
        spec: The clock's times.
        parameter_defaults_json: A JSON object; the order of its keys does not matter.
        labels: Labels that replace the flow's; None when they do not.
    """
    content: list[object] = [type(spec).__name__]
    match spec:
        case CronSpec():
            content += [" ".join(spec.cron.split()), spec.timezone, spec.day_or]
        case IntervalSpec():
            content += [spec.interval // timedelta.resolution, _text(spec.anchor), spec.timezone]
        case DatesSpec():
            content += [sorted({_text(time) for time in spec.times})]
    parameters = json.loads(parameter_defaults_json) if parameter_defaults_json else {}
    content += [None if bound is None else _text(bound) for bound in (spec.start, spec.end)]
    content += [parameters, None if labels is None else sorted(set(labels))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def occurrence_id(schedule_name: str, clock: str, slot: datetime, fold: int) -> uuid.UUID:
    """Returns the id of a scheduled run: the same for the same occurrence, whoever computes it.

    Args:
        schedule_name: Resource name of the schedule.
        clock: What `clock_key` returned.
        slot: `Occurrence.slot`.
        fold: `Occurrence.fold`.
    """
    return uuid.uuid5(_NAMESPACE, f"{schedule_name}\n{clock}\n{slot.isoformat()}\n{fold}")


def validate_spec(spec: ClockSpec) -> None:
    """Checks a clock as registration does.

    Raises:
        InvalidArgumentError: What is wrong.
    """
    match spec:
        case CronSpec():
            validate_cron(spec.cron, day_or=spec.day_or)
            zone(spec.timezone)
        case IntervalSpec():
            zone(spec.timezone)
            _aware(spec.anchor, "the anchor")
            if spec.interval < MIN_INTERVAL:
                raise InvalidArgumentError(f"an interval must be at least 1 second, not {spec.interval}")
        case DatesSpec():
            if not 1 <= len(spec.times) <= MAX_DATES:
                raise InvalidArgumentError(f"a list of dates has 1 to {MAX_DATES:,} of them, not {len(spec.times):,}")
            for time in spec.times:
                _aware(time, "a date")
    for bound in (spec.start, spec.end):
        if bound is not None:
            _aware(bound, "start and end")
    if spec.start is not None and spec.end is not None and spec.end < spec.start:
        raise InvalidArgumentError(f"a clock that starts at {spec.start.isoformat()} cannot end before that")


@lru_cache(maxsize=1_024)
def validate_cron(cron: str, *, day_or: bool = True) -> None:
    """Checks a cron expression.

    Raises:
        InvalidArgumentError: It cannot be parsed, is random, or never matches a date.
    """
    from croniter import CroniterError, croniter

    fields = cron.split()
    if len(cron.encode()) > MAX_CRON_BYTES:
        raise InvalidArgumentError(f"a cron expression has at most {MAX_CRON_BYTES} bytes")
    if not (len(fields) in (5, 6) or (len(fields) == 1 and cron.startswith("@"))):
        raise InvalidArgumentError(
            f"the cron expression {cron!r} has {len(fields)} fields instead of 5, or 6 with seconds as the last",
            hint="the fields are minute, hour, day of month, month, day of week: `0 13 * * *` is daily at 13:00",
        )
    if any(field[:1] in ("R", "r") for field in fields):
        raise InvalidArgumentError(f"the cron expression {cron!r} is random: its times would differ at every look")
    try:
        croniter(cron, _FIRST, day_or=day_or).get_next(datetime)
    except (CroniterError, ValueError, KeyError, IndexError) as error:
        raise InvalidArgumentError(f"the cron expression {cron!r} is not valid: {error}") from None


@lru_cache(maxsize=512)
def zone(name: str) -> ZoneInfo:
    """Returns an IANA time zone; an empty name means UTC.

    Raises:
        InvalidArgumentError: There is no such zone.
    """
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError):
        raise InvalidArgumentError(
            f"there is no time zone {name!r}", hint="use an IANA name such as Europe/Berlin"
        ) from None


# --- cron -----------------------------------------------------------------------------------------------------------


class _Candidate(NamedTuple):
    """Orders by instant; of two at one instant the slot that was not shifted comes first."""

    time: datetime
    shifted: bool
    slot: datetime
    fold: int


def _cron(spec: CronSpec, after: datetime) -> Iterator[Occurrence]:
    from croniter import CroniterBadDateError, croniter

    validate_cron(spec.cron, day_or=spec.day_or)
    tz = zone(spec.timezone)
    if after >= _LAST.replace(tzinfo=UTC):
        return
    first = _first_slot(max(after, _FIRST.replace(tzinfo=UTC)), tz)
    slots = croniter(spec.cron, first, day_or=spec.day_or)
    every_hour = _covers_every_hour(spec.cron)
    pending: list[_Candidate] = []
    while True:
        try:
            slot: datetime = slots.get_next(datetime)
        except CroniterBadDateError:
            break
        if slot >= _LAST:
            break
        candidates = list(_instants(slot, tz, every_hour))
        for candidate in candidates:
            heapq.heappush(pending, candidate)
        # Later slots that exist come after this one, and those in a later gap as well: what is up to here is complete.
        if candidates and not candidates[0].shifted:
            while pending and pending[0].time <= candidates[0].time:
                yield _occurrence(heapq.heappop(pending))
    while pending:
        yield _occurrence(heapq.heappop(pending))


def _first_slot(after: datetime, tz: ZoneInfo) -> datetime:
    """Returns the wall time after which all slots lie whose instants are after `after`."""
    wall = after.astimezone(tz).replace(tzinfo=None, microsecond=0, fold=0)
    # Near a transition, slots that read earlier can still lie ahead: shifted ones, and those of the second pass.
    around = (after + timedelta(hours=hours) for hours in (-26, -13, 0, 13, 26))
    if len({instant.astimezone(tz).utcoffset() for instant in around}) > 1:
        wall -= timedelta(hours=26)
    return max(wall, _FIRST)


def _instants(slot: datetime, tz: ZoneInfo, every_hour: bool) -> Iterator[_Candidate]:
    # In a gap, fold 0 means the offset before it: the instant is shifted forward by the gap's length.
    time = slot.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if time.astimezone(tz).replace(tzinfo=None, fold=0) != slot:
        if not every_hour:
            yield _Candidate(time, True, slot, 0)
        return
    yield _Candidate(time, False, slot, 0)
    if every_hour:
        second = slot.replace(tzinfo=tz, fold=1).astimezone(UTC)
        if second != time:
            yield _Candidate(second, False, slot, 1)


def _occurrence(candidate: _Candidate) -> Occurrence:
    return Occurrence(candidate.time, candidate.slot, candidate.fold)


@lru_cache(maxsize=1_024)
def _covers_every_hour(cron: str) -> bool:
    from croniter import croniter

    hours: list[object] = list(croniter(cron, _FIRST).expanded[1])
    return hours == ["*"] or set(hours) >= set(range(24))


# --- interval -------------------------------------------------------------------------------------------------------


def _interval(spec: IntervalSpec, after: datetime) -> Iterator[Occurrence]:
    if spec.interval <= timedelta(0):
        raise InvalidArgumentError(f"an interval must be more than 0, not {spec.interval}")
    tz = zone(spec.timezone)
    days = timedelta(days=spec.interval.days)
    elapsed = spec.interval - days
    origin = spec.anchor.astimezone(tz)
    wall = origin.replace(tzinfo=None, fold=0)
    fixed = spec.anchor.astimezone(UTC)

    def point(number: int) -> datetime:
        # A step of whole days moves the wall time; without days there is only elapsed time, and no zone to ask.
        base = (wall + number * days).replace(tzinfo=tz, fold=origin.fold).astimezone(UTC) if days else fixed
        return base + number * elapsed

    # Offsets change by a day at most, so the estimate is wrong by few steps only.
    number = (after - fixed) // spec.interval - (_DAY // spec.interval if days else 0) - 2
    while True:
        try:
            time = point(number)
        except OverflowError:  # one of the calendar's two ends
            if number > 0:
                return
        else:
            yield Occurrence(time, time.replace(tzinfo=None), 0)
        number += 1


def _aware(value: datetime, what: str) -> None:
    if value.utcoffset() is None:
        raise InvalidArgumentError(f"{what} of a clock must have a time zone: {value.isoformat()}")


def _text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()
