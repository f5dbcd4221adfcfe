"""The scheduler: makes the runs of schedules ahead of their time.

The id of a run follows from its occurrence, so that expanding a schedule again, or by two leaders, makes nothing twice.
Of occurrences that were missed while no control plane ran, the latest is made when it is not older than
`GRACE_MICROS`. A schedule that cannot be expanded is set aside after three attempts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import structlog

from heliograph.exceptions import UnavailableError
from heliograph_control_plane.domain.scheduling import AHEAD, Planned, plan
from heliograph_control_plane.errors import describe_fault
from heliograph_control_plane.services.clocks import instant, scheduled_clocks
from heliograph_control_plane.services.run_names import two_words
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.records import Changes, Occurrence, Schedule

PAUSE_SECONDS = 20.0
AT_LEAST_MICROS = 120 * 1_000_000
"""Occurrences within this time are made even beyond `AHEAD`, so that a quick schedule outlasts a few pauses."""
MOST_AT_ONCE = 200
REFRESH_MICROS = 3_600 * 1_000_000
"""A schedule is looked at again within this time."""
GRACE_MICROS = 120 * 1_000_000
"""Of the occurrences that were missed within this time, the latest is made; older ones are skipped."""
MAX_ATTEMPTS = 3

_PAGE = 200

_log = structlog.get_logger("heliograph.loops")


@dataclass(frozen=True, slots=True)
class _Known:
    """How far a schedule was expanded: nothing is to be done for it before `again_micros`."""

    version: int
    active_since_micros: int
    again_micros: int


class Scheduler:
    """The loop."""

    name = "scheduler"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, _Known] = {}
        self._failures: Counter[int] = Counter()
        self.wake = asyncio.Event()

    def observe(self, changes: Changes) -> None:
        """Wakes the loop when a schedule changed."""
        if changes.schedules:
            self.wake.set()

    async def once(self) -> float:
        """Expands all active schedules that need it; returns the pause in seconds."""
        now = self._store.now()
        after, seen = 0, set()
        while page := await self._store.list_active_schedules(after, _PAGE):
            after = page[-1].schedule_id
            occurrences: list[Occurrence] = []
            expanded: dict[int, _Known] = {}
            for schedule in page:
                seen.add(schedule.schedule_id)
                occurrences += await self._expand(schedule, now, expanded)
            if occurrences and (made := await self._store.insert_occurrences(occurrences)):
                _log.info("scheduled", runs=len(made))
            # Not before: what the store did not take is made the next time, and not only when it is late.
            self._known |= expanded
        self._known = {key: known for key, known in self._known.items() if key in seen}
        return PAUSE_SECONDS

    async def _expand(self, schedule: Schedule, now: int, expanded: dict[int, _Known]) -> list[Occurrence]:
        known = self._known.get(schedule.schedule_id)
        same = known and (known.version, known.active_since_micros) == (schedule.version, schedule.active_since_micros)
        if known and same and now < known.again_micros:
            return []
        try:
            # On a thread: hundreds of schedules take longer than calls may be held up.
            occurrences, again = await asyncio.to_thread(expand, schedule, now)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  # boundary: one bad row must not stop the others
            await self._failed(schedule, error)
            return []
        self._failures.pop(schedule.schedule_id, None)
        expanded[schedule.schedule_id] = _Known(schedule.version, schedule.active_since_micros, again)
        return occurrences

    async def _failed(self, schedule: Schedule, error: Exception) -> None:
        self._failures[schedule.schedule_id] += 1
        attempts = self._failures[schedule.schedule_id]
        _log.error("schedule failed", schedule=schedule.schedule_id, attempts=attempts, **describe_fault(error))
        if attempts >= MAX_ATTEMPTS:
            del self._failures[schedule.schedule_id]
            await self._store.quarantine_schedule(schedule.schedule_id, f"cannot be expanded: {type(error).__name__}")
        else:
            self.wake.set()


def expand(schedule: Schedule, now: int) -> tuple[list[Occurrence], int]:
    """The occurrences to make now, and when to look at the schedule again (microseconds)."""
    planned = _plan(schedule, now, AHEAD)
    if len(planned) >= AHEAD and planned[-1].scheduled_micros < now + AT_LEAST_MICROS:
        quick = _plan(schedule, now, MOST_AT_ONCE)
        planned = [p for number, p in enumerate(quick) if number < AHEAD or p.scheduled_micros <= now + AT_LEAST_MICROS]
    ahead = [p.scheduled_micros for p in planned if p.scheduled_micros > now]
    # Looked at again when half of what was made has passed, and within the hour.
    again = min(ahead[len(ahead) // 2] if ahead else now + REFRESH_MICROS, now + REFRESH_MICROS)
    return [
        Occurrence(
            schedule_id=schedule.schedule_id,
            version=schedule.version,
            run_id=p.run_id,
            key=p.key,
            scheduled_micros=p.scheduled_micros,
            run_name=two_words(p.run_id),
            parameters_json=p.parameters_json,
            labels=p.labels,
        )
        for p in planned
    ], again


def _plan(schedule: Schedule, now: int, ahead: int) -> list[Planned]:
    return plan(
        f"projects/{schedule.project}/flows/{schedule.flow}/schedule",
        scheduled_clocks(schedule.spec),
        after=instant(max(schedule.active_since_micros, now - GRACE_MICROS)),
        now=instant(now),
        ahead=ahead,
    )
