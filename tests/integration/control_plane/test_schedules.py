"""Schedules are expanded, paused, resumed and previewed; nothing is made twice; bad ones are set aside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.scene import Scene, graph

from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    schedule_service_pb2 as pb,
)
from heliograph.api.v1 import (
    states_pb2,
)
from heliograph.exceptions import UnavailableError
from heliograph_control_plane.loops import scheduler as scheduling
from heliograph_control_plane.loops.scheduler import Scheduler, expand
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import NewFlowVersion, Schedule
from heliograph_control_plane.store.sql_store import SqlStore

SECOND = 1_000_000
HOUR = 3_600 * SECOND
# 2026-11-22T00:00:00Z, a Sunday.
SUNDAY = 1_795_305_600 * SECOND


def cron(text: str, timezone: str = "UTC", **fields: object) -> pb.Clock:
    return pb.Clock(cron=pb.CronClock(cron=text, timezone=timezone), **fields)  # type: ignore[arg-type]


def schedule(*clocks: pb.Clock, since: int = 0, version: int = 1) -> Schedule:
    spec = pb.ScheduleSpec(clocks=clocks).SerializeToString()
    return Schedule(1, "p", "f", version, spec, paused=False, active_since_micros=since)


# --- the decision ---------------------------------------------------------------------------------------------------


def test_ten_runs_or_seven_days_are_made_ahead() -> None:
    hourly, _ = expand(schedule(cron("0 * * * *")), SUNDAY)
    assert [(o.scheduled_micros - SUNDAY) // HOUR for o in hourly] == list(range(11))
    daily, _ = expand(schedule(cron("0 13 * * *")), SUNDAY)
    assert [(o.scheduled_micros - SUNDAY) // HOUR for o in daily] == [13 + 24 * day for day in range(7)]
    monthly, again = expand(schedule(cron("0 0 22 * *")), SUNDAY + HOUR)
    assert [(o.scheduled_micros - SUNDAY) // HOUR for o in monthly] == [30 * 24]
    assert again == SUNDAY + 2 * HOUR


def test_a_quick_schedule_is_made_for_the_next_two_minutes_at_least() -> None:
    clock = pb.Clock(interval=pb.IntervalClock(interval_micros=SECOND))
    made, again = expand(schedule(clock, since=SUNDAY), SUNDAY)
    assert len(made) == 120
    assert SUNDAY + 50 * SECOND < again < SUNDAY + 70 * SECOND


def test_missed_occurrences_are_made_up_for_within_the_grace_only() -> None:
    now = SUNDAY + 24 * HOUR + 60 * SECOND
    made, _ = expand(schedule(cron("0 * * * *")), now)
    assert min(o.scheduled_micros for o in made) == SUNDAY + 24 * HOUR
    later, _ = expand(schedule(cron("0 * * * *")), now + 600 * SECOND)
    assert min(o.scheduled_micros for o in later) == SUNDAY + 25 * HOUR


def test_nothing_is_made_for_a_time_before_the_registration() -> None:
    now = SUNDAY + 60 * SECOND
    made, _ = expand(schedule(cron("* * * * *"), since=now), now)
    assert min(o.scheduled_micros for o in made) > now


def test_ids_follow_from_the_occurrence_and_not_from_when_it_was_computed() -> None:
    first, _ = expand(schedule(cron("0 * * * *")), SUNDAY)
    later, _ = expand(schedule(cron("0 * * * *"), version=7), SUNDAY + 3 * HOUR)
    ids = {o.scheduled_micros: o.run_id for o in first}
    assert all(ids.get(o.scheduled_micros, o.run_id) == o.run_id for o in later)
    assert len(set(ids.values()) & {o.run_id for o in later}) >= 6


def test_clocks_carry_parameters_and_labels() -> None:
    clock = cron("0 13 * * *", parameter_defaults_json='{"country": "IT"}', labels=["a"], override_labels=True)
    plain = cron("0 14 * * *")
    made, _ = expand(schedule(clock, plain), SUNDAY)
    assert (made[0].parameters_json, made[0].labels) == ('{"country": "IT"}', ("a",))
    assert (made[1].parameters_json, made[1].labels) == ("{}", None)


# --- the loop -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    opened.create_project("p", "").result(60)
    yield opened
    opened.close()


def register(store: SqlStore, flow: str, spec: bytes) -> None:
    new = NewFlowVersion(
        project="p", flow=flow, content_hash=f"sha256:{flow}", graph=graph().SerializeToString(), bundle=b"",
        launch=b"", schedule=spec, labels=(), launcher="", host="", created_by="users/a",
    )  # fmt: skip
    store.register_flow_version(new).result(60)


async def runs(store: SqlStore, flow: str) -> int:
    from heliograph_control_plane.store.records import FlowRunQuery

    return len((await store.list_flow_runs(FlowRunQuery("p", flow, page_size=1_000))).items)


async def test_two_leaders_make_nothing_twice(store: SqlStore) -> None:
    register(store, "f", pb.ScheduleSpec(clocks=[cron("*/5 * * * *")]).SerializeToString())
    for _ in range(3):
        await Scheduler(store).once()
    assert await runs(store, "f") == scheduling.AHEAD


async def test_a_schedule_that_cannot_be_expanded_is_set_aside_and_the_others_go_on(store: SqlStore) -> None:
    register(store, "bad", pb.ScheduleSpec(clocks=[cron("this is no cron")]).SerializeToString())
    register(store, "worse", b"\xff\xff\xff")
    register(store, "good", pb.ScheduleSpec(clocks=[cron("*/5 * * * *")]).SerializeToString())
    loop = Scheduler(store)
    for attempt in range(scheduling.MAX_ATTEMPTS):
        assert len(await store.list_active_schedules(0, 10)) == 3, attempt
        await loop.once()
    assert [s.flow for s in await store.list_active_schedules(0, 10)] == ["good"]
    assert await runs(store, "good") == scheduling.AHEAD
    assert {q.kind for q in await store.list_quarantined()} == {"schedule"}


async def test_what_was_expanded_is_left_alone_until_it_is_needed(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, "f", pb.ScheduleSpec(clocks=[cron("0 * * * *")]).SerializeToString())
    loop = Scheduler(store)
    await loop.once()
    monkeypatch.setattr(scheduling, "expand", lambda *_: pytest.fail("was expanded again"))
    await loop.once()


async def test_runs_that_the_store_did_not_take_are_made_the_next_time(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, "f", pb.ScheduleSpec(clocks=[cron("0 * * * *")]).SerializeToString())
    loop = Scheduler(store)

    def refuse(_: object) -> Pending[tuple[str, ...]]:
        answer: Pending[tuple[str, ...]] = Pending()
        answer.fail(UnavailableError("the control plane is too busy"))
        return answer

    with monkeypatch.context() as away:
        away.setattr(store, "insert_occurrences", refuse)
        with pytest.raises(UnavailableError):
            await loop.once()
    await loop.once()
    assert await runs(store, "f") == scheduling.AHEAD


# --- the API --------------------------------------------------------------------------------------------------------


def wait_for_runs(scene: Scene, parent: str, number: int) -> list[runs_pb.FlowRun]:
    deadline = time.monotonic() + 60
    while True:
        found = scene.admin.runs.ListFlowRuns(runs_pb.ListFlowRunsRequest(parent=parent, page_size=1000)).flow_runs
        if len(found) >= number or time.monotonic() > deadline:
            assert len(found) == number
            return list(found)
        time.sleep(0.02)


def test_registering_a_schedule_makes_its_runs_and_pausing_removes_them(scene: Scene) -> None:
    parent = scene.project()
    clock = cron("*/5 * * * *", "Europe/Rome", parameter_defaults_json='{"x": 1}')
    flow = scene.flow(
        parent,
        schedule=pb.ScheduleSpec(clocks=[clock]),
        graph=graph(parameters=(flows_pb.ParameterSpec(name="x", required=True),)),
    )
    name = flow.name.partition("/versions")[0] + "/schedule"
    made = wait_for_runs(scene, parent, scheduling.AHEAD)
    assert {run.created_by for run in made} == {"schedule"}
    assert {run.parameters_json for run in made} == {'{"x": 1}'}
    assert {run.state for run in made} == {states_pb2.STATE_SCHEDULED}
    shown = scene.admin.schedules.GetSchedule(pb.GetScheduleRequest(name=name))
    assert shown.next_time in [run.scheduled_time for run in made]
    assert shown.spec == flow.schedule
    preview = scene.admin.schedules.PreviewSchedule(pb.PreviewScheduleRequest(name=name, count=3)).times
    assert [t.ToSeconds() for t in preview] == sorted(run.scheduled_time.ToSeconds() for run in made)[:3]
    for _ in range(2):
        assert scene.admin.schedules.PauseSchedule(pb.PauseScheduleRequest(name=name)).paused
    wait_for_runs(scene, parent, 0)
    assert not scene.admin.schedules.GetSchedule(pb.GetScheduleRequest(name=name)).HasField("next_time")
    assert not scene.admin.schedules.ResumeSchedule(pb.ResumeScheduleRequest(name=name)).paused
    wait_for_runs(scene, parent, scheduling.AHEAD)
    listed = scene.admin.schedules.ListSchedules(pb.ListSchedulesRequest(parent=parent)).schedules
    assert [one.name for one in listed] == [name]
    assert scene.admin.flows.GetFlow(flows_pb.GetFlowRequest(name=name.removesuffix("/schedule"))).schedule.name == name


def test_a_flow_can_be_registered_with_its_schedule_paused(scene: Scene) -> None:
    parent = scene.project()
    flow = scene.flow(parent, schedule=pb.ScheduleSpec(clocks=[cron("* * * * *")]), schedule_paused=True)
    name = flow.name.partition("/versions")[0] + "/schedule"
    assert scene.admin.schedules.GetSchedule(pb.GetScheduleRequest(name=name)).paused
    assert len(scene.admin.schedules.PreviewSchedule(pb.PreviewScheduleRequest(name=name)).times) == 10


def test_dates_that_are_past_have_no_next_time(scene: Scene) -> None:
    dates = pb.Clock(dates=pb.DatesClock(times=[Timestamp(seconds=1_000_000_000)]))
    flow = scene.flow(scene.project(), schedule=pb.ScheduleSpec(clocks=[dates]))
    name = flow.name.partition("/versions")[0] + "/schedule"
    assert not scene.admin.schedules.GetSchedule(pb.GetScheduleRequest(name=name)).HasField("next_time")


def test_a_scheduled_run_reaches_an_agent_at_its_time(scene: Scene) -> None:
    parent = scene.project()
    api = scene.api_as("agent", projects=(parent,))
    agent = scene.agent(api=api)
    clock = pb.Clock(interval=pb.IntervalClock(interval_micros=SECOND))
    scene.flow(parent, schedule=pb.ScheduleSpec(clocks=[clock]))
    (lease,) = scene.lease(agent.name, 20, api=api)
    assert time.time() >= lease.flow_run.scheduled_time.ToMicroseconds() / 1e6
