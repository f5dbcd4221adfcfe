"""Projects, flows, versions, schedules, agents."""

from __future__ import annotations

import pytest
from tests.contract.store.helpers import SECOND, Bench, flow, version

from heliograph.engine.codes import StateCode
from heliograph.exceptions import AlreadyExistsError, IllegalTransitionError, NotFoundError
from heliograph_control_plane.store.records import Occurrence, Schedule


def test_a_project_is_created_once(bench: Bench) -> None:
    made = bench.store.create_project("q", "why").result()
    bench.clock.advance(5)
    assert bench.store.create_project("q", "why").result() == made
    with pytest.raises(AlreadyExistsError):
        bench.store.create_project("q", "other").result()
    assert bench.store.get_project("p").result().flow_count == 1
    with pytest.raises(NotFoundError):
        bench.store.get_project("nothing").result()


def test_projects_are_listed_by_name_within_the_scope(bench: Bench) -> None:
    for name in ("z", "a", "Ä", "B"):
        bench.store.create_project(name, "").result()
    first = bench.store.list_projects(None, 3, "").result()
    rest = bench.store.list_projects(None, 3, first.next_token).result()
    assert [one.name for one in (*first.items, *rest.items)] == ["B", "a", "p", "z", "Ä"]
    assert not rest.next_token
    assert [one.name for one in bench.store.list_projects(frozenset({"z", "q"}), 10, "").result().items] == ["z"]
    assert bench.store.list_projects(frozenset(), 10, "").result().items == ()


def test_a_version_is_made_only_when_the_content_changed(bench: Bench) -> None:
    again = bench.store.register_flow_version(version()).result()
    assert (again.version.version, again.created) == (1, False)
    changed = bench.store.register_flow_version(version(content_hash="2", graph=b"new", labels=("b", "a"))).result()
    assert (changed.version.version, changed.created, changed.version.labels) == (2, True, ("a", "b"))
    back = bench.store.register_flow_version(version()).result()
    assert (back.version.version, back.created) == (3, True)
    assert bench.store.get_flow("p", "etl").result().latest_version == 3
    assert bench.store.get_flow_version("p", "etl").result().version == 3
    assert bench.store.get_flow_version("p", "etl", 2).result().graph == b"new"
    page = bench.store.list_flow_versions("p", "etl", 2, "").result()
    rest = bench.store.list_flow_versions("p", "etl", 2, page.next_token).result()
    assert [one.version for one in (*page.items, *rest.items)] == [3, 2, 1]
    assert {one.graph for one in page.items} == {b""}
    for missing in (("p", "nothing", 0), ("p", "etl", 9), ("q", "etl", 0)):
        with pytest.raises(NotFoundError):
            bench.store.get_flow_version(*missing).result()
    with pytest.raises(NotFoundError):
        bench.store.register_flow_version(version(project="nothing")).result()


def test_flows_are_listed_by_project_and_name(bench: Bench) -> None:
    bench.store.create_project("a", "").result()
    for project, name in (("p", "x"), ("a", "y"), ("a", "b")):
        bench.store.register_flow_version(version(name, project=project)).result()
    names = []
    token = ""
    while True:
        page = bench.store.list_flows("", None, 2, token).result()
        names += [(one.project, one.name) for one in page.items]
        if not (token := page.next_token):
            break
    assert names == [("a", "b"), ("a", "y"), ("p", "etl"), ("p", "x")]
    assert [one.name for one in bench.store.list_flows("a", None, 9, "").result().items] == ["b", "y"]
    assert bench.store.list_flows("a", frozenset({"p"}), 9, "").result().items == ()


# --- schedules ------------------------------------------------------------------------------------------------------


def scheduled(bench: Bench, content: str = "s1", **changes: object) -> Schedule:
    """Registers a flow with a schedule."""
    values: dict[str, object] = {"content_hash": content, "schedule": b"daily"}
    bench.store.register_flow_version(version("timed", **(values | changes))).result()
    return bench.store.get_schedule("p", "timed").result()


def occurrence(bench: Bench, schedule: Schedule, hours: int, **changes: object) -> Occurrence:
    """An occurrence some hours from now."""
    at = bench.clock.now + hours * 3600 * SECOND
    values: dict[str, object] = {
        "schedule_id": schedule.schedule_id, "version": schedule.version, "run_id": f"{schedule.schedule_id}-{at}",
        "key": f"k{at}", "scheduled_micros": at, "run_name": "calm-owl",
    }  # fmt: skip
    return Occurrence(**(values | changes))  # type: ignore[arg-type]


def test_an_occurrence_makes_one_run_however_often_it_is_inserted(bench: Bench) -> None:
    schedule = scheduled(bench)
    wanted = [occurrence(bench, schedule, hours) for hours in (1, 2, 3)]
    assert bench.store.insert_occurrences(wanted[:2]).result() == (wanted[0].run_id, wanted[1].run_id)
    assert bench.store.insert_occurrences(wanted).result() == (wanted[2].run_id,)
    same_slot = occurrence(bench, schedule, 1, run_id="another-id")
    assert bench.store.insert_occurrences([same_slot]).result() == ()
    run = bench.get(wanted[0].run_id)
    assert (run.created_by, run.flow, run.scheduled_micros) == ("schedule", "timed", wanted[0].scheduled_micros)
    assert bench.lease(count=5) == ()
    bench.clock.advance(3600)
    assert [one.flow_run.run_id for one in bench.lease(count=5)] == [wanted[0].run_id]


def test_a_clock_may_have_labels_and_parameters_of_its_own(bench: Bench) -> None:
    schedule = scheduled(bench, labels=("x",))
    plain = occurrence(bench, schedule, 0, key="1", run_id="plain")
    own = occurrence(bench, schedule, 0, key="2", run_id="own", labels=("y",), parameters_json='{"a": 1}')
    bench.store.insert_occurrences([plain, own]).result()
    assert bench.get("plain").labels == ("x",)
    assert (bench.get("own").labels, bench.get("own").parameters_json) == (("y",), '{"a": 1}')


def test_pausing_removes_what_has_not_started(bench: Bench) -> None:
    schedule = scheduled(bench)
    started, late, future = (occurrence(bench, schedule, hours) for hours in (-2, -1, 1))
    bench.store.insert_occurrences([started, late, future]).result()
    bench.lease()
    assert bench.store.set_schedule_paused("p", "timed", True).result().paused
    assert [one.run_id for one in bench.store.get_flow_runs([started.run_id, late.run_id, future.run_id]).result()] == [
        started.run_id
    ]
    assert bench.store.insert_occurrences([future]).result() == ()
    assert bench.store.list_active_schedules(0, 10).result() == ()
    bench.clock.advance(60)
    resumed = bench.store.set_schedule_paused("p", "timed", False).result()
    assert (resumed.paused, resumed.active_since_micros) == (False, bench.clock.now)
    assert bench.store.set_schedule_paused("p", "timed", False).result() == resumed
    assert bench.store.insert_occurrences([future]).result() == (future.run_id,)


def test_registering_anew_replaces_future_runs_and_keeps_due_ones(bench: Bench) -> None:
    schedule = scheduled(bench)
    due, future = occurrence(bench, schedule, -1), occurrence(bench, schedule, 1)
    bench.store.insert_occurrences([due, future]).result()
    changed = scheduled(bench, "s2")
    assert (changed.schedule_id, changed.version) == (schedule.schedule_id, 2)
    assert [one.run_id for one in bench.store.get_flow_runs([due.run_id, future.run_id]).result()] == [due.run_id]
    assert bench.store.insert_occurrences([future]).result() == ()  # planned with the version before
    assert bench.store.insert_occurrences([occurrence(bench, changed, 1)]).result() == (future.run_id,)
    assert bench.get(future.run_id).version == 2
    bench.store.register_flow_version(version("timed", content_hash="s3")).result()
    with pytest.raises(NotFoundError):
        bench.store.get_schedule("p", "timed").result()


def test_a_schedule_stays_paused_over_a_registration(bench: Bench) -> None:
    assert scheduled(bench, schedule_paused=True).paused
    assert scheduled(bench, "s2").paused
    assert [one.flow for one in bench.store.list_schedules("", None, 10, "").result().items] == ["timed"]
    assert bench.store.list_schedules("", frozenset(), 10, "").result().items == ()


def test_a_quarantined_schedule_is_left_alone_until_it_is_registered_anew(bench: Bench) -> None:
    schedule = scheduled(bench)
    assert [one.flow for one in bench.store.list_active_schedules(0, 10).result()] == ["timed"]
    bench.store.quarantine_schedule(schedule.schedule_id, "unreadable").result()
    assert bench.store.list_active_schedules(0, 10).result() == ()
    assert [one.reason for one in bench.store.list_quarantined().result()] == ["unreadable"]
    scheduled(bench, "s2")
    assert len(bench.store.list_active_schedules(0, 10).result()) == 1
    assert bench.store.list_quarantined().result() == ()


# --- agents ---------------------------------------------------------------------------------------------------------


def test_agents_are_renewed_listed_and_forgotten(bench: Bench) -> None:
    bench.agent("b", ["y", "x"], host="h", projects=("p",))
    found = bench.store.get_agent("b").result()
    assert (found.labels, found.host, found.projects, found.online) == (("x", "y"), "h", ("p",), True)
    bench.clock.advance(46)
    assert not bench.store.get_agent("b").result().online
    bench.agent("b", ["z"])
    renewed = bench.store.get_agent("b").result()
    assert (renewed.labels, renewed.create_micros, renewed.online) == (("z",), found.create_micros, True)
    page = bench.store.list_agents(1, "").result()
    assert [one.name for one in page.items] == ["a"]
    assert [one.name for one in bench.store.list_agents(1, page.next_token).result().items] == ["b"]
    run = bench.running()
    with pytest.raises(IllegalTransitionError):
        bench.store.delete_agent("a").result()
    bench.send(run, 2, flow(StateCode.SUCCESS))
    bench.store.delete_agent("a").result()
    bench.store.delete_agent("a").result()
    with pytest.raises(NotFoundError):
        bench.store.get_agent("a").result()
    with pytest.raises(NotFoundError):
        bench.store.heartbeat_agent("a", [], False).result()
