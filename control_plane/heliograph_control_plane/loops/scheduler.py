"""The scheduler: makes the runs of schedules ahead of their time.

The id of a run follows from its occurrence, so that expanding a schedule again, or by two leaders, makes nothing twice.
Occurrences that were missed while no control plane ran are made up for only within `GRACE_MICROS`. A schedule that
cannot be expanded is set aside after three attempts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import structlog

from heliograph.api.v1 import schedule_service_pb2 as pb
from heliograph.exceptions import UnavailableError
from heliograph.schedules import expansion
from heliograph_control_plane.errors import describe_fault
from heliograph_control_plane.services.clocks import due, spec_of
from heliograph_control_plane.services.run_names import two_words
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.records import Changes, Occurrence, Schedule

PAUSE_SECONDS = 20.0
AHEAD = 10
"""Runs of one schedule that are made ahead."""
AHEAD_MICROS = 7 * 24 * 3600 * 1_000_000
"""No run is made earlier than this before its time."""
AT_LEAST_MICROS = 120 * 1_000_000
"""Occurrences within this time are made even beyond `AHEAD`, so that a quick schedule outlasts a few pauses."""
MOST_AT_ONCE = 200
GRACE_MICROS = 120 * 1_000_000
"""Occurrences that were missed for longer are skipped."""
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
            for schedule in page:
                seen.add(schedule.schedule_id)
                occurrences += await self._expand(schedule, now)
            if occurrences and (made := await self._store.insert_occurrences(occurrences)):
                _log.info("scheduled", runs=len(made))
        self._known = {key: known for key, known in self._known.items() if key in seen}
        return PAUSE_SECONDS

    async def _expand(self, schedule: Schedule, now: int) -> list[Occurrence]:
        known = self._known.get(schedule.schedule_id)
        same = known and (known.version, known.active_since_micros) == (schedule.version, schedule.active_since_micros)
        if known and same and now < known.again_micros:
            return []
        try:
            occurrences, again = expand(schedule, now)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  # boundary: one bad row must not stop the others
            await self._failed(schedule, error)
            return []
        self._failures.pop(schedule.schedule_id, None)
        self._known[schedule.schedule_id] = _Known(schedule.version, schedule.active_since_micros, again)
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
    spec = pb.ScheduleSpec.FromString(schedule.spec)
    name = f"projects/{schedule.project}/flows/{schedule.flow}/schedule"
    keys = [_clock_key(clock) for clock in spec.clocks]
    after = max(schedule.active_since_micros, now - GRACE_MICROS)
    found: dict[str, Occurrence] = {}
    for item in due(spec, after):
        enough = len(found) >= AHEAD and item.micros > now + AT_LEAST_MICROS
        if item.micros > now + AHEAD_MICROS or enough or len(found) >= MOST_AT_ONCE:
            break
        clock = spec.clocks[item.clock]
        run_id = str(expansion.occurrence_id(name, keys[item.clock], item.occurrence.slot, item.occurrence.fold))
        found.setdefault(
            run_id,
            Occurrence(
                schedule_id=schedule.schedule_id,
                version=schedule.version,
                run_id=run_id,
                key=f"{keys[item.clock]}/{item.occurrence.key}",
                scheduled_micros=item.micros,
                run_name=two_words(run_id),
                parameters_json=clock.parameter_defaults_json or "{}",
                labels=tuple(dict.fromkeys(clock.labels)) if clock.override_labels else None,
            ),
        )
    times = sorted(occurrence.scheduled_micros for occurrence in found.values())
    ahead = [micros for micros in times if micros > now]
    # Looked at again when half of what was made has passed; a schedule without any, within the hour.
    again = ahead[len(ahead) // 2] if ahead else now + 3_600 * 1_000_000
    return list(found.values()), min(again, now + 3_600 * 1_000_000)


def _clock_key(clock: pb.Clock) -> str:
    labels = list(clock.labels) if clock.override_labels else None
    return expansion.clock_key(spec_of(clock), clock.parameter_defaults_json, labels)
