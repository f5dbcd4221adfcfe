"""The state machine: every pair of state and event, and invariants under random histories."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heliograph.engine.codes import StateCode
from heliograph.engine.transitions import (
    TERMINAL,
    EffectKind,
    Event,
    EventKind,
    IllegalEventError,
    Policy,
    Record,
    flow_verdict,
    legal_events,
    next_state,
)

S, E, F = StateCode, EventKind, EffectKind

END_CODES = {
    E.RETURNED: S.SUCCESS, E.RAISED: S.FAILED, E.REFUSE: S.TRIGGER_FAILED, E.GIVEN: S.SUCCESS, E.KEPT: S.SUCCESS,
}  # fmt: skip

# The whole machine, written down a second time: state and event to the next state, for a task without retries and
# without a result. What is not here must be refused.
TABLE: dict[tuple[StateCode, EventKind], StateCode] = {
    **{
        (state, event): after
        for state in (S.PENDING, S.SCHEDULED, S.SUBMITTED, S.QUEUED, S.RETRYING, S.RESUME)
        for event, after in {
            E.START: S.RUNNING, E.SKIP: S.SKIPPED, E.PAUSE: S.PAUSED, E.RETRY: S.RETRYING, E.HIT: S.CACHED,
            E.MAP: S.MAPPED, E.REFUSE: S.TRIGGER_FAILED, E.CANCEL: S.CANCELLED, E.DUE: state,
        }.items()
    },
    (S.PENDING, E.GIVEN): S.SUCCESS,
    (S.PAUSED, E.RESUME): S.RESUME,
    (S.PAUSED, E.DUE): S.RESUME,
    (S.PAUSED, E.REFUSE): S.TRIGGER_FAILED,
    (S.PAUSED, E.CANCEL): S.CANCELLED,
    (S.LOOPED, E.START): S.RUNNING,
    (S.LOOPED, E.REFUSE): S.TRIGGER_FAILED,
    (S.LOOPED, E.SKIP): S.SKIPPED,
    (S.LOOPED, E.RETRY): S.RETRYING,
    (S.LOOPED, E.HIT): S.CACHED,
    (S.LOOPED, E.PAUSE): S.PAUSED,
    (S.LOOPED, E.CANCEL): S.CANCELLED,
    (S.RUNNING, E.RETURNED): S.SUCCESS,
    (S.RUNNING, E.KEPT): S.SUCCESS,
    (S.RUNNING, E.RAISED): S.FAILED,
    (S.RUNNING, E.LOOP): S.LOOPED,
    (S.RUNNING, E.RETRY): S.RETRYING,
    (S.RUNNING, E.SKIP): S.SKIPPED,
    (S.RUNNING, E.PAUSE): S.PAUSED,
    (S.RUNNING, E.HIT): S.CACHED,
    (S.RUNNING, E.REFUSE): S.TRIGGER_FAILED,
    (S.RUNNING, E.CANCEL): S.CANCELLED,
    **{
        (S.CANCELLING, event): S.CANCELLED
        for event in (E.RETURNED, E.KEPT, E.RAISED, E.LOOP, E.RETRY, E.SKIP, E.PAUSE, E.CANCEL)
    },
}  # fmt: skip


@pytest.mark.parametrize("state", list(StateCode))
@pytest.mark.parametrize("kind", list(EventKind))
def test_every_pair(state: StateCode, kind: EventKind) -> None:
    record = Record(state, run_count=1, updated=10)
    event = Event(kind, END_CODES.get(kind))
    if state in TERMINAL:
        assert next_state(record, event, 20, Policy()) == (record, ())
    elif (state, kind) in TABLE:
        after, effects = next_state(record, event, 20, Policy())
        assert after.state is TABLE[state, kind]
        assert after.updated in (10, 20)
        if after.state is not state:
            assert effects[0].kind is F.EMIT
        assert (F.FINISH in {effect.kind for effect in effects}) == (after.state in TERMINAL)
        assert kind in legal_events(state)
    else:
        with pytest.raises(IllegalEventError, match=state.name):
            next_state(record, event, 20, Policy())
        assert kind not in legal_events(state)


def test_terminal_states() -> None:
    assert {
        S.SUCCESS, S.CACHED, S.MAPPED, S.SKIPPED, S.FAILED, S.TIMED_OUT, S.TRIGGER_FAILED, S.VALIDATION_FAILED,
        S.CANCELLED, S.CRASHED,
    } == TERMINAL  # fmt: skip


def test_retries_count_and_wait() -> None:
    policy = Policy(max_retries=2, retry_delay=100)
    record, _ = next_state(Record(), Event(E.START), 1000, policy)
    assert record.run_count == 1
    record, effects = next_state(record, Event(E.RAISED, S.TIMED_OUT), 2000, policy)
    assert (record.state, record.due, effects[-1]) == (S.RETRYING, 2100, (F.WAIT, 2100))
    early, effects = next_state(record, Event(E.START), 2050, policy)
    assert (early.state, effects) == (S.RETRYING, ((F.WAIT, 2100),))
    record, _ = next_state(record, Event(E.START), 2100, policy)
    assert (record.run_count, record.started) == (2, 1000)
    for now, expected in ((2200, S.RETRYING), (2400, S.TIMED_OUT)):
        record, _ = next_state(record, Event(E.RAISED, S.TIMED_OUT), now, policy)
        assert record.state is expected
        if expected is S.RETRYING:
            record, _ = next_state(record, Event(E.START), 2300, policy)


def test_a_failure_that_may_not_be_retried_ends() -> None:
    policy = Policy(max_retries=5)
    record, _ = next_state(Record(), Event(E.START), 1, policy)
    record, _ = next_state(record, Event(E.RAISED, S.FAILED, retry=False), 2, policy)
    assert record.state is S.FAILED


def test_a_value_is_kept_before_success() -> None:
    policy = Policy(keeps=True)
    record, _ = next_state(Record(), Event(E.START), 1, policy)
    record, effects = next_state(record, Event(E.RETURNED), 2, policy)
    assert (record.state, effects) == (S.RUNNING, ((F.KEEP, 0),))
    assert next_state(record, Event(E.KEPT), 3, policy)[0].state is S.SUCCESS
    assert next_state(record, Event(E.RAISED, S.FAILED), 3, policy)[0].state is S.FAILED


def test_loops_count_iterations_and_restart_attempts() -> None:
    policy = Policy(max_retries=1)
    record, _ = next_state(Record(), Event(E.START), 1, policy)
    record, _ = next_state(record, Event(E.RAISED, S.FAILED), 2, policy)
    record, _ = next_state(record, Event(E.START), 3, policy)
    record, effects = next_state(record, Event(E.LOOP), 4, policy)
    assert (record.state, record.loop_count, effects[-1].kind) == (S.LOOPED, 1, F.AGAIN)
    record, _ = next_state(record, Event(E.START), 5, policy)
    assert (record.run_count, record.loop_count) == (1, 1)


def test_an_approval_is_no_new_attempt() -> None:
    record, _ = next_state(Record(), Event(E.START), 1, Policy())
    record, effects = next_state(record, Event(E.PAUSE), 2, Policy())
    assert effects[-1].kind is F.ASK
    record, _ = next_state(record, Event(E.RESUME), 3, Policy())
    record, _ = next_state(record, Event(E.START), 4, Policy())
    assert (record.state, record.run_count) == (S.RUNNING, 1)


def test_a_clock_that_goes_back_is_held() -> None:
    record, _ = next_state(Record(updated=100), Event(E.START), 50, Policy())
    assert record.updated == 100


@pytest.mark.parametrize(
    ("codes", "unfinished", "cancelled", "verdict"),
    [
        (set(), False, False, S.SUCCESS),
        ({S.SUCCESS, S.SKIPPED, S.CACHED, S.MAPPED}, False, False, S.SUCCESS),
        ({S.SUCCESS, S.TRIGGER_FAILED}, False, False, S.FAILED),
        ({S.CANCELLED}, False, False, S.SUCCESS),
        ({S.FAILED}, True, False, S.RUNNING),
        ({S.FAILED}, True, True, S.CANCELLED),
    ],
)
def test_verdicts(codes: set[StateCode], unfinished: bool, cancelled: bool, verdict: StateCode) -> None:
    assert flow_verdict(frozenset(codes), unfinished=unfinished, cancelled=cancelled) is verdict


class History(RuleBasedStateMachine):
    """Any legal history of a task run."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(max_retries=2, retry_delay=50, keeps=True)
        self.record = Record()
        self.now = 1000
        self.answers: dict[EffectKind, set[EventKind]] = {
            F.RUN: {E.RETURNED, E.RAISED, E.LOOP, E.RETRY, E.SKIP, E.PAUSE, E.HIT, E.REFUSE, E.CANCEL},
            F.KEEP: {E.KEPT, E.RAISED, E.RETRY, E.SKIP, E.PAUSE, E.LOOP, E.HIT, E.REFUSE, E.CANCEL},
        }

    @precondition(lambda self: self.record.state not in TERMINAL)
    @rule(data=st.data(), step=st.integers(-20, 200))
    def happen(self, data: st.DataObject, step: int) -> None:
        before, self.now = self.record, self.now + step
        kind = data.draw(st.sampled_from(sorted(legal_events(before.state))))
        event = Event(kind, END_CODES.get(kind), at=self.now + data.draw(st.integers(0, 100)))
        after, effects = next_state(before, event, self.now, self.policy)
        kinds = [effect.kind for effect in effects]
        # One effect at most waits for an answer, and the record says which.
        waiting = [k for k in kinds if k in (F.RUN, F.KEEP, F.WAIT, F.ASK, F.AGAIN)]
        assert len(waiting) <= 1
        if waiting:
            assert after.open is waiting[0]
        # An answer closes what was open: the same effect is open again only when it was asked for again.
        if before.open is not None and after.open is before.open:
            assert waiting == [before.open]
        assert (F.FINISH in kinds) == (after.state in TERMINAL)
        assert (after.state is before.state) or kinds[0] is F.EMIT
        assert after.updated >= before.updated
        assert after.loop_count >= before.loop_count
        if after.loop_count == before.loop_count and before.state is not S.LOOPED:
            assert after.run_count in (before.run_count, before.run_count + 1)
        if before.started:
            assert after.started >= before.started
        self.record = after

    @precondition(lambda self: self.record.state in TERMINAL)
    @rule(kind=st.sampled_from(list(EventKind)), step=st.integers(0, 50))
    def nothing_leaves_an_end_state(self, kind: EventKind, step: int) -> None:
        self.now += step
        assert next_state(self.record, Event(kind, S.FAILED), self.now, self.policy) == (self.record, ())

    @invariant()
    def end_states_are_closed(self) -> None:
        if self.record.state in TERMINAL:
            assert self.record.open is None


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
