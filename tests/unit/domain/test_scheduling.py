"""What a schedule should have: its next runs, one missed at most, the same ids whoever plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from heliograph.schedules.expansion import CronSpec, IntervalSpec
from heliograph_control_plane.domain.scheduling import ScheduledClock, micros, plan, preview

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NAME = "projects/p/flows/f/schedule"
HOURLY = ScheduledClock(CronSpec("30 * * * *"))


def test_the_next_runs_are_planned_within_the_horizon() -> None:
    planned = plan(NAME, [HOURLY], after=NOW, now=NOW)
    assert [one.scheduled_micros for one in planned] == [
        micros(NOW + timedelta(minutes=30, hours=n)) for n in range(10)
    ]
    assert len(plan(NAME, [HOURLY], after=NOW, now=NOW, horizon=timedelta(hours=3))) == 3
    yearly = ScheduledClock(CronSpec("0 0 1 1 *"))
    assert len(plan(NAME, [yearly], after=NOW, now=NOW)) == 1


def test_of_missed_occurrences_only_the_latest_is_made() -> None:
    planned = plan(NAME, [HOURLY], after=NOW - timedelta(hours=6), now=NOW, ahead=2)
    assert [one.scheduled_micros - micros(NOW) for one in planned] == [
        -30 * 60_000_000, 30 * 60_000_000, 90 * 60_000_000,
    ]  # fmt: skip


def test_ids_and_keys_are_the_same_whoever_plans() -> None:
    early = plan(NAME, [HOURLY], after=NOW - timedelta(hours=3), now=NOW - timedelta(hours=3))
    late = plan(NAME, [HOURLY, HOURLY], after=NOW, now=NOW)
    by_time = {one.scheduled_micros: one for one in early}
    assert len({one.run_id for one in late}) == len(late)
    assert all(by_time.get(one.scheduled_micros, one) == one for one in late)
    other = plan("projects/p/flows/g/schedule", [HOURLY], after=NOW, now=NOW)
    assert not {one.run_id for one in other} & {one.run_id for one in late}


def test_clocks_are_merged_by_time_and_keep_their_own_settings() -> None:
    quarterly = ScheduledClock(IntervalSpec(timedelta(minutes=15), anchor=NOW), '{"a": 1}', ("x",))
    planned = plan(NAME, [HOURLY, quarterly], after=NOW, now=NOW, ahead=4)
    assert [one.scheduled_micros for one in planned] == sorted(one.scheduled_micros for one in planned)
    assert {one.labels for one in planned} == {None, ("x",)}
    assert {one.parameters_json for one in planned} == {"{}", '{"a": 1}'}
    assert preview([HOURLY, quarterly], after=NOW, count=3) == [
        micros(NOW + timedelta(minutes=minutes)) for minutes in (15, 30, 45)
    ]
