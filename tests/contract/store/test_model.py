"""A small model of runs, leases, events and cancelling; whatever is done, the store must say what the model says."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from tests.contract.store import variants
from tests.contract.store.helpers import SECOND, SQLITE_IS_QUICK, TOKEN, Bench, flow, task, version
from tests.contract.store.machines import StoreMachine, check, numbers
from tests.support.figures import Figure
from tests.support.forms import forms

from heliograph.engine.codes import StateCode as S
from heliograph.exceptions import IllegalTransitionError, LeaseLostError, SequenceGapError
from heliograph_control_plane.store import events
from heliograph_control_plane.store.records import EventBatch, HeldRun, NewFlowRun


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
    alive: bool = False
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


class LeaseModel(StoreMachine):
    """Runs of one project, and the agent that takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = f"agent-{self.number}"
        self.store.register_flow_version(version(project=self.project)).result()
        self.bench.agent(self.agent, projects=(self.project,))
        self.runs: list[ModelRun] = []

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

    @rule(count=st.integers(1, 3), where=st.integers(0, 1))
    def lease(self, count: int, where: int = 0) -> None:
        due = [run for run in self.runs if run.holder == "nobody" and run.ready <= self.clock.now]
        due = sorted(due, key=lambda run: (run.ready, self.runs.index(run)))[:count]
        given = self.stores[where].lease_flow_runs(self.agent, f"r{next(numbers)}", count).result()
        assert {lease.flow_run.run_id for lease in given} == {run.name for run in due}
        for run in due:
            run.holder, run.epoch, run.last = "offered", run.epoch + 1, 0
            run.offered_until = self.clock.now + 30 * SECOND

    def pick(self, index: int) -> ModelRun | None:
        return self.runs[index % len(self.runs)] if self.runs else None

    @rule(index=st.integers(0, 9), old=st.booleans(), where=st.integers(0, 1))
    def accept(self, index: int, old: bool, where: int = 0) -> None:
        if (run := self.pick(index)) is None or run.epoch == 0:
            return
        fits = not old and run.holder in ("offered", "held")
        call = self.stores[where].accept_flow_run(self.agent, run.name, run.epoch - old, TOKEN)
        self.attempt(call, None if fits else LeaseLostError)
        if fits and run.holder == "offered":
            assert not run.alive, "an attempt starts when the one before is proven dead"
            run.alive = True
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
            run.alive = False
            if run.cancel:
                run.enter(S.CANCELLED)
            else:
                if run.state is not S.SCHEDULED:
                    run.enter(S.SCHEDULED)
                    run.attempt -= 1
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
        assert ack.acked_sequence == run.last

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


@forms("examples,steps", quick=(40, 30), full=(10_000, 60), seconds=14_400)
def test_leases_and_their_model_agree(bench: Bench, examples: int, steps: int, figure: Figure) -> None:
    check(LeaseModel, bench, examples, steps)
    figure(f"{bench.store.kind}: {examples:,} examples of up to {steps} steps: the store is what the model is")


@SQLITE_IS_QUICK
def test_the_model_finds_a_missing_fence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.domain, "accept_batch", variants.accept_any_epoch)
    with pytest.raises(AssertionError):
        check(LeaseModel, bench, 100, 30, shrink=False)
