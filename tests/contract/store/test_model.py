"""A small model of runs, leases, events and cancelling; whatever is done, the store must say what the model says."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.contract.store import variants
from tests.contract.store.helpers import SECOND, TOKEN, Bench, flow, task

from heliograph.engine.codes import StateCode as S
from heliograph.exceptions import HeliographError, IllegalTransitionError, LeaseLostError, SequenceGapError
from heliograph_control_plane.store import events
from heliograph_control_plane.store.records import EventBatch, HeldRun, NewFlowRun

_numbers = itertools.count(1)


@dataclass
class ModelRun:
    """What one run should be. `holder`: nobody, offered, held, or over."""

    name: str
    ready: int
    state: S = S.SCHEDULED
    holder: str = "nobody"
    epoch: int = 0
    attempt: int = 0
    last: int = 0
    heard: int = 0
    offered_until: int = 0
    presumed: bool = False
    started: bool = False
    cancel: bool = False
    history: list[S] = field(default_factory=lambda: [S.SCHEDULED])

    @property
    def final(self) -> bool:
        return self.state.is_finished and not self.presumed

    def enter(self, state: S) -> None:
        self.state, self.presumed = state, False
        self.history.append(state)
        self.started = self.started or state is S.RUNNING
        if state.is_finished:
            self.holder = "over"

    def hear(self, now: int) -> None:
        if self.presumed:
            self.enter(S.CANCELLING if self.cancel else S.RUNNING if self.started else S.SUBMITTED)
            self.holder = "held"
        self.heard = now


class StoreModel(RuleBasedStateMachine):
    """Random calls on one store; each example has a project and an agent of its own."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        number = next(_numbers)
        self.project, self.agent = f"m{number}", f"agent-{number}"
        self.store, self.clock = self.bench.store, self.bench.clock
        self.store.create_project(self.project, "").result()
        from tests.contract.store.helpers import version

        self.store.register_flow_version(version(project=self.project)).result()
        self.bench.agent(self.agent, projects=(self.project,))
        self.runs: list[ModelRun] = []

    def attempt(self, call: object, expected: type[HeliographError] | None) -> object:
        """Waits for an answer, which must be a refusal of this kind, or none."""
        try:
            value: object = call.result(10)  # type: ignore[attr-defined]
        except HeliographError as error:
            refusal: type[HeliographError] | None = type(error)
            value = None
        else:
            refusal = None
        assert refusal is expected
        return value

    @initialize()
    def some_runs_are_under_way(self) -> None:
        """Most of what can go wrong goes wrong with runs that an agent holds."""
        for _ in range(3):
            self.create(0)
        self.lease(2)
        for index in (0, 1):
            self.accept(index, False)

    @rule(delay=st.sampled_from([0, 0, 5]))
    def create(self, delay: int) -> None:
        run = ModelRun(f"{self.project}-{len(self.runs)}", self.clock.now + delay * SECOND)
        new = NewFlowRun(run.name, self.project, "etl", 0, "n", "{}", None, run.ready, "users/ann")
        self.store.create_flow_run(new).result()
        self.runs.append(run)

    @rule(count=st.integers(1, 3))
    def lease(self, count: int) -> None:
        due = [run for run in self.runs if run.holder == "nobody" and run.ready <= self.clock.now]
        due = sorted(due, key=lambda run: (run.ready, self.runs.index(run)))[:count]
        given = self.store.lease_flow_runs(self.agent, f"r{next(_numbers)}", count).result()
        assert {lease.flow_run.run_id for lease in given} == {run.name for run in due}
        for run in due:
            run.holder, run.epoch, run.last = "offered", run.epoch + 1, 0
            run.offered_until = self.clock.now + 30 * SECOND

    def pick(self, index: int) -> ModelRun | None:
        return self.runs[index % len(self.runs)] if self.runs else None

    @rule(index=st.integers(0, 9), old=st.booleans())
    def accept(self, index: int, old: bool) -> None:
        if (run := self.pick(index)) is None or run.epoch == 0:
            return
        fits = not old and run.holder in ("offered", "held")
        call = self.store.accept_flow_run(self.agent, run.name, run.epoch - old, TOKEN)
        self.attempt(call, None if fits else LeaseLostError)
        if fits and run.holder == "offered":
            run.holder, run.heard, run.attempt = "held", self.clock.now, run.attempt + 1
            run.enter(S.SUBMITTED)

    @rule(index=st.integers(0, 9), old=st.booleans())
    def release(self, index: int, old: bool) -> None:
        if (run := self.pick(index)) is None or run.epoch == 0:
            return
        call = self.store.release_flow_run(self.agent, run.name, run.epoch - old, b"", 0)
        if old:
            self.attempt(call, LeaseLostError)
            return
        if run.holder in ("offered", "held") or run.presumed:
            if run.last:
                self.attempt(call, IllegalTransitionError)
                return
            if run.cancel:
                run.enter(S.CANCELLED)
            else:
                if run.state is not S.SCHEDULED:
                    run.enter(S.SCHEDULED)
                run.holder, run.ready = "nobody", self.clock.now
        self.attempt(call, None)

    @rule(
        index=st.integers(0, 9), shift=st.sampled_from([0, 0, 0, 0, -1, -3, 1, 2]), old=st.booleans(),
        events=st.lists(st.sampled_from([S.RUNNING, S.SUCCESS, S.FAILED, S.SCHEDULED, None, None, None]), max_size=4),
    )  # fmt: skip
    def send(self, index: int, shift: int, old: bool, events: list[S | None]) -> None:
        if (run := self.pick(index)) is None or run.epoch == 0:
            return
        first = max(1, run.last + 1 + shift)
        content = tuple(task(0, S.RUNNING) if state is None else flow(state) for state in events)
        call = self.store.apply_event_batch(EventBatch(run.name, run.epoch - old, first, content))
        if old or run.holder not in ("held", "over"):
            self.attempt(call, LeaseLostError)
            return
        if first > run.last + 1:
            self.attempt(call, SequenceGapError)
            return
        if not run.final:
            run.hear(self.clock.now)
        for state in events[run.last + 1 - first :]:
            if state is None or state is S.SCHEDULED or run.final or state is run.state:
                continue
            if not (run.state is S.CANCELLING and state is S.RUNNING):
                run.enter(state)
        run.last = max(run.last, first + len(events) - 1)
        ack = self.attempt(call, None)
        assert ack.acked_sequence == run.last  # type: ignore[attr-defined]

    @rule(index=st.integers(0, 9))
    def cancel(self, index: int) -> None:
        if (run := self.pick(index)) is None:
            return
        call = self.store.cancel_flow_run(run.name, "users/ann")
        if run.state is S.SCHEDULED:
            run.cancel = True
            run.enter(S.CANCELLED)
        elif run.state in (S.SUBMITTED, S.RUNNING):
            run.cancel = True
            run.enter(S.CANCELLING)
        elif run.state not in (S.CANCELLING, S.CANCELLED):
            self.attempt(call, IllegalTransitionError)
            return
        self.attempt(call, None)

    @rule(index=st.integers(0, 9))
    def exit(self, index: int) -> None:
        if (run := self.pick(index)) is None or run.epoch == 0:
            return
        call = self.store.report_flow_run_exit(self.agent, run.name, run.epoch, b"", 0)
        self.attempt(call, LeaseLostError if run.holder == "offered" else None)
        if run.holder == "held" or run.presumed:
            run.enter(S.CANCELLED if run.cancel else S.CRASHED)

    @rule(index=st.integers(0, 9))
    def heartbeat(self, index: int) -> None:
        if (run := self.pick(index)) is None:
            return
        self.store.heartbeat_agent(self.agent, [HeldRun(run.name, run.epoch, True)], False).result()
        if run.holder == "held" or run.presumed:
            run.hear(self.clock.now)

    @rule(index=st.integers(0, 9))
    def confirm_dead(self, index: int) -> None:
        if (run := self.pick(index)) is None:
            return
        lost = run.presumed or (run.holder == "held" and run.heard + 60 * SECOND < self.clock.now)
        self.attempt(self.store.confirm_flow_run_dead(run.name, "users/ann"), None if lost else IllegalTransitionError)
        if lost:
            run.enter(S.CANCELLED if run.cancel else S.CRASHED)

    @rule(seconds=st.sampled_from([1, 20, 31, 61, 601]))
    def time_passes_and_the_reaper_looks(self, seconds: int) -> None:
        self.clock.advance(seconds)
        while self.store.reap(5_000).result().more:
            continue
        for run in self.runs:
            if run.holder == "offered" and run.offered_until <= self.clock.now:
                run.holder, run.ready = "nobody", self.clock.now
            elif run.holder == "held" and run.heard + 600 * SECOND <= self.clock.now:
                run.enter(S.CRASHED)
                run.presumed = True

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        stored = {one.run_id: one for one in self.store.get_flow_runs([run.name for run in self.runs]).result()}
        for run in self.runs:
            found = stored[run.name]
            assert (found.state, found.epoch, found.attempt, found.last_sequence, found.presumed_dead) == (
                run.state, run.epoch, run.attempt, run.last, run.presumed,
            )  # fmt: skip

    def teardown(self) -> None:
        for run in self.runs:
            states = [record.state for record in self.store.list_flow_run_states(run.name).result()]
            assert states == run.history


def check(bench: Bench, examples: int, steps: int, *, shrink: bool = True) -> None:
    """Runs the model on a store."""
    kind = type("Model", (StoreModel,), {"bench": bench})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        ),
    )  # fmt: skip


def test_the_store_and_the_model_agree(bench: Bench) -> None:
    check(bench, 15, 30)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_store_and_the_model_agree_for_long(bench: Bench) -> None:
    check(bench, 500, 60)


def test_the_model_finds_a_missing_fence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.domain, "accept_batch", variants.accept_any_epoch)
    with pytest.raises(AssertionError):
        check(bench, 100, 30, shrink=False)
