"""Transitions of time zones, found by looking at every day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

TRICKY = (
    "Europe/Berlin",
    "Europe/Dublin",  # negative daylight saving time
    "America/New_York",
    "America/St_Johns",  # changed at 00:01
    "America/Sao_Paulo",  # gaps at midnight
    "Africa/Casablanca",
    "Africa/Monrovia",  # an offset with seconds
    "Antarctica/Troll",  # two hours
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # left out a whole day
    "Pacific/Kwajalein",
    "UTC",
)


@cache
def transitions(name: str, first_year: int = 1971, last_year: int = 2037) -> tuple[datetime, ...]:
    """Returns the instants at which the zone's offset changes."""
    zone, day = ZoneInfo(name), timedelta(days=1)
    found = []
    time, end = datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year, 12, 31, tzinfo=UTC)
    offset = time.astimezone(zone).utcoffset()
    while time < end:
        if (following := (time + day).astimezone(zone).utcoffset()) != offset:
            low, high = time, time + day
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                if middle.astimezone(zone).utcoffset() == offset:
                    low = middle
                else:
                    high = middle
            found.append(high.replace(microsecond=0))
            offset = following
        time += day
    return tuple(found)
