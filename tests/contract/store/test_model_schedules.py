"""A model of schedules: which occurrences have a run, whoever makes them, and what pausing and registering take away.

Two leaders go by what they read some time ago, as leaders do that lost their office without knowing. The clocks strike
over an autumn night in Berlin, in which an hour has two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from sqlalchemy import select
from tests.contract.store.helpers import SECOND, SQLITE_IS_QUICK, TOKEN, Bench, version
from tests.contract.store.machines import StoreMachine, check, numbers
from tests.support.figures import Figure
from tests.support.forms import forms

from heliograph.engine.codes import StateCode as S
from heliograph.exceptions import NotFoundError
from heliograph.schedules.expansion import occurrence_id
from heliograph_control_plane.store import flows, schema
from heliograph_control_plane.store.records import FlowRunQuery, Occurrence, Schedule
from heliograph_control_plane.store.writer import Transaction

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = datetime(2027, 10, 30, 22, 30, tzinfo=UTC)
STEP = timedelta(minutes=30)
AHEAD = 4
"""Occurrences that a leader makes of each clock."""
CLOCKS = {b"": (), b"one": ("a",), b"two": ("a", "b"), b"other": ("b", "c")}
"""Clocks of each schedule; `a` strikes every half hour, the others every hour."""


@dataclass
class Timed:
    """The run of an occurrence. `life`: waiting, offered, over."""

    at: int
    version: int
    life: str = "waiting"


@dataclass
class ModelFlow:
    """One flow, its schedule and the runs of its occurrences, by id."""

    name: str
    version: int = 0
    content: str = ""
    spec: bytes = b""
    schedule_id: int = 0
    scheduled_version: int = 0
    paused: bool = False
    since: int = 0
    quarantined: bool = False

    @property
    def active(self) -> bool:
        return bool(self.spec) and not self.paused and not self.quarantined


def micros(time: datetime) -> int:
    return int(time.timestamp()) * SECOND


def strikes(clock: str, after: int) -> list[tuple[datetime, str]]:
    """The next times of a clock with their keys: clock, wall slot, fold."""
    step = STEP if clock == "a" else 2 * STEP
    number = (after - micros(NIGHT)) // int(step.total_seconds() * SECOND) + 1
    times = [NIGHT + step * (number + ahead) for ahead in range(AHEAD)]
    walls = [time.astimezone(BERLIN) for time in times]
    keys = [f"{clock}/{wall.replace(tzinfo=None, fold=0).isoformat()}/{wall.fold}" for wall in walls]
    return list(zip(times, keys, strict=True))


def occurrences(schedule: Schedule, now: int) -> list[Occurrence]:
    """What a leader makes of a schedule."""
    name = f"projects/{schedule.project}/flows/{schedule.flow}/schedule"
    found = []
    for clock in CLOCKS[schedule.spec]:
        for time, key in strikes(clock, max(now - 3_600 * SECOND, schedule.active_since_micros)):
            wall = time.astimezone(BERLIN)
            run = str(occurrence_id(name, clock, wall.replace(tzinfo=None, fold=0), wall.fold))
            found.append(Occurrence(schedule.schedule_id, schedule.version, run, key, micros(time), "n"))
    return found


class ScheduleModel(StoreMachine):
    """Two flows of one project, an agent, two leaders."""

    def __init__(self) -> None:
        super().__init__()
        self.clock.now = micros(NIGHT)
        self.agent = f"agent-{self.number}"
        self.bench.agent(self.agent, projects=(self.project,))
        self.flows = [ModelFlow("etl"), ModelFlow("report")]
        self.runs: dict[str, Timed] = {}
        self.owners: dict[str, ModelFlow] = {}
        self.read: list[list[Schedule]] = [[], []]

    @initialize()
    def a_schedule_has_made_runs(self) -> None:
        """Most of what can go wrong goes wrong with those."""
        self.register(0, b"two", "x")
        self.the_schedules_are_those_of_the_model()
        self.look(0)
        self.make((0,))

    def mine(self) -> list[Schedule]:
        """The active schedules of this example, as a leader reads them, in pages."""
        found: list[Schedule] = []
        after = 0
        while page := self.store.list_active_schedules(after, 50).result(60):
            after = page[-1].schedule_id
            found += [one for one in page if one.project == self.project]
        return found

    def drop(self, flow: ModelFlow, after: int) -> None:
        for run in [run for run, owner in self.owners.items() if owner is flow]:
            if self.runs[run].life == "waiting" and self.runs[run].at > after:
                del self.runs[run], self.owners[run]

    @rule(index=st.integers(0, 1), spec=st.sampled_from(sorted(CLOCKS)), content=st.sampled_from(["x", "y"]))
    def register(self, index: int, spec: bytes, content: str) -> None:
        flow = self.flows[index]
        content = f"{content}-{spec.decode()}"
        new = version(flow.name, project=self.project, content_hash=content, schedule=spec)
        answer = self.store.register_flow_version(new).result(60)
        assert answer.created is (flow.content != content)
        if answer.created:
            if flow.spec:
                self.drop(flow, self.clock.now)
            flow.version, flow.content, flow.spec = flow.version + 1, content, spec
            flow.scheduled_version, flow.since, flow.quarantined = flow.version, self.clock.now, False
            flow.paused = flow.paused and bool(spec)
        assert answer.version.version == flow.version

    @rule(index=st.integers(0, 1), paused=st.booleans(), plane=st.integers(0, 1))
    def pause(self, index: int, paused: bool, plane: int) -> None:
        flow = self.flows[index]
        call = self.stores[plane].set_schedule_paused(self.project, flow.name, paused)
        self.attempt(call, None if flow.spec else NotFoundError)
        if flow.spec and flow.paused != paused:
            if paused:
                self.drop(flow, -1)
            else:
                flow.since = self.clock.now
            flow.paused = paused

    @rule(leader=st.integers(0, 1))
    def look(self, leader: int) -> None:
        """A leader reads the active schedules; what it makes of them comes later."""
        self.read[leader] = self.mine()

    @rule(leaders=st.sampled_from([(0,), (1,), (0, 1), (1, 0)]))
    def make(self, leaders: tuple[int, ...]) -> None:
        """One leader makes runs, or both of them at once."""
        planned = [[one for seen in self.read[n] for one in occurrences(seen, self.clock.now)] for n in leaders]
        calls = [self.stores[n].insert_occurrences(some) for n, some in zip(leaders, planned, strict=True)]
        made = [run for call in calls for run in call.result(60)]
        assert len(made) == len(set(made)), "each run is new to one of them"
        expected: dict[str, Timed] = {}
        for one in (one for some in planned for one in some):
            flow = next((flow for flow in self.flows if flow.schedule_id == one.schedule_id), None)
            if flow is None or not flow.spec or flow.paused or flow.scheduled_version != one.version:
                continue
            if one.run_id not in self.runs and one.run_id not in expected:
                expected[one.run_id] = Timed(one.scheduled_micros, one.version)
                self.owners[one.run_id] = flow
        assert set(made) == set(expected)
        self.runs |= expected

    @rule(minutes=st.sampled_from([1, 30, 61]))
    def time_passes(self, minutes: int) -> None:
        self.clock.advance(minutes * 60)

    @rule(count=st.integers(1, 3))
    def lease(self, count: int) -> None:
        """Runs that are under way are nobody's to take away."""
        due = sum(1 for run in self.runs.values() if run.life == "waiting" and run.at <= self.clock.now)
        given = self.store.lease_flow_runs(self.agent, f"r{next(numbers)}", count).result(60)
        assert len(given) == min(count, due)
        for lease in given:
            run = self.runs[lease.flow_run.run_id]
            assert run.life == "waiting"
            assert lease.flow_version.version == run.version
            self.store.accept_flow_run(self.agent, lease.flow_run.run_id, lease.epoch, TOKEN).result(60)
            run.life = "over"

    @rule(index=st.integers(0, 20))
    def cancel(self, index: int) -> None:
        """What a person cancelled is not made again."""
        waiting = sorted(run for run, timed in self.runs.items() if timed.life == "waiting")
        if waiting:
            self.attempt(self.store.cancel_flow_run(waiting[index % len(waiting)], "users/ann"))
            self.runs[waiting[index % len(waiting)]].life = "over"

    @rule(index=st.integers(0, 1))
    def quarantine(self, index: int) -> None:
        flow = self.flows[index]
        if flow.spec:
            self.store.quarantine_schedule(flow.schedule_id, "cannot be expanded").result(60)
            flow.quarantined = True

    @invariant()
    def the_schedules_are_those_of_the_model(self) -> None:
        for flow in self.flows:
            if not flow.spec:
                continue
            found = self.store.get_schedule(self.project, flow.name).result(60)
            assert flow.schedule_id in (0, found.schedule_id)
            flow.schedule_id = found.schedule_id
            assert (found.version, found.spec, found.paused, found.active_since_micros, bool(found.quarantine)) == (
                flow.scheduled_version, flow.spec, flow.paused, flow.since, flow.quarantined,
            )  # fmt: skip
        for flow in self.flows:
            if not flow.spec:
                flow.schedule_id = 0
        listed = self.store.list_schedules(self.project, None, 10, "").result(60).items
        assert [one.flow for one in listed] == [flow.name for flow in self.flows if flow.spec]
        assert {one.flow for one in self.mine()} == {flow.name for flow in self.flows if flow.active}

    @invariant()
    def the_runs_are_those_of_the_model(self) -> None:
        query = FlowRunQuery(self.project, page_size=1_000)
        stored = {run.run_id: run for run in self.store.list_flow_runs(query).result(60).items}
        assert set(stored) == set(self.runs)
        for run, timed in self.runs.items():
            found = stored[run]
            assert (found.scheduled_micros, found.version) == (timed.at, timed.version)
            assert (found.state is S.SCHEDULED) is (timed.life == "waiting")


@forms("examples,steps", quick=(25, 20), full=(5_000, 60), seconds=7_200)
def test_schedules_and_their_model_agree(bench: Bench, examples: int, steps: int, figure: Figure) -> None:
    check(ScheduleModel, bench, examples, steps)
    figure(f"{bench.store.kind}: {examples:,} examples of up to {steps} steps: the store is what the model is")


def _go_by_an_old_reading(tx: Transaction, planned: Sequence[Occurrence]) -> tuple[str, ...]:
    """Takes occurrences of versions that were replaced."""
    rows = tx.connection.execute(select(schema.schedules.c.id, schema.schedules.c.version))
    newest = {row.id: row.version for row in rows}
    return _insert(tx, [replace(one, version=newest.get(one.schedule_id, 0)) for one in planned])


def _drop_nothing(tx: Transaction, schedule: int, after: int) -> None:
    """Leaves the runs of a schedule that was paused or replaced."""


_insert = flows.insert_occurrences
BUGS: dict[str, Callable[..., Any]] = {
    "insert_occurrences": _go_by_an_old_reading,
    "_drop_unstarted": _drop_nothing,
}


@SQLITE_IS_QUICK
@pytest.mark.parametrize("bug", sorted(BUGS))
def test_the_model_finds_runs_that_a_schedule_should_not_have(
    bench: Bench, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, bug, BUGS[bug])
    with pytest.raises(AssertionError):
        check(ScheduleModel, bench, 200, 30, shrink=False)
