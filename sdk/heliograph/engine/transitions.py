"""The state machine of a task run: pure functions from a record and an event to the next record and its effects.

Nothing here does I/O, knows threads or reads a clock. A runner dispatches events and performs the effects; each effect
that needs an answer (`RUN`, `KEEP`, `WAIT`, `ASK`, `AGAIN`) is answered by exactly one later event. Records are
numbers only: values, exceptions and states for users stay with the runner.

The table at the end is the whole machine. A terminal record absorbs every event, so that the late answer of a task
that was cancelled changes nothing.
"""

# ruff: noqa: ARG001 - all rules have one signature, whatever they look at
from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from heliograph.engine.codes import StateCode
from heliograph.exceptions import HeliographError

_S = StateCode


class EventKind(IntEnum):
    """What can happen to a task run."""

    START = 0
    """Everything upstream ended and the trigger agreed."""
    RETURNED = 1
    """`run` returned; `code` is CACHED when the value goes to a cache."""
    KEPT = 2
    """The value was stored."""
    RAISED = 3
    """The attempt failed as `code`; `retry` says whether this kind of failure may be retried."""
    LOOP = 4
    """An iteration ended and asks for another one."""
    RETRY = 5
    """The task asked to be run again, at `at`."""
    SKIP = 6
    """Skipped, by a skip upstream or by its own signal."""
    PAUSE = 7
    """Waits for approval, or for `at` when that is not 0."""
    RESUME = 8
    """Somebody approved, or the time came."""
    HIT = 9
    """A cache or a target has the result."""
    MAP = 10
    """Makes so many `children`."""
    REFUSE = 11
    """Cannot run, as `code`: the trigger refused, or something before `run` failed. Never retried."""
    CANCEL = 12
    """The flow run is being cancelled."""
    GIVEN = 13
    """The caller gave the end state `code`: the task run is not run."""
    DUE = 14
    """The time that a waiting record waits for came."""


class Event(NamedTuple):
    """One event; which fields count depends on the kind. For LOOP `children` is the number of the iteration."""

    kind: EventKind
    code: StateCode | None = None
    at: int = 0
    children: int = 0
    retry: bool = True


class EffectKind(IntEnum):
    """What a runner has to do."""

    EMIT = 0
    """Tell the sink of the new state."""
    RUN = 1
    """Call the task; answer with RETURNED, RAISED, LOOP, RETRY, SKIP, PAUSE or CANCEL."""
    KEEP = 2
    """Store the value; answer with KEPT, RAISED or CANCEL."""
    WAIT = 3
    """Wait until `value`; answer with DUE or CANCEL."""
    ASK = 4
    """Get an approval; answer with RESUME or CANCEL."""
    AGAIN = 5
    """Start over at once; answer with START, REFUSE or CANCEL."""
    MAP_OUT = 6
    """Make `value` children."""
    FINISH = 7
    """The record is final: tell what waits for it."""


class Effect(NamedTuple):
    """One effect; `value` is a time in microseconds or a number of children."""

    kind: EffectKind
    value: int = 0


class Record(NamedTuple):
    """All that the machine knows of a task run.

    Attributes:
        state: Its state.
        run_count: Attempts, this one included; counted anew in every iteration of a loop.
        loop_count: Iteration, from 1; 0 before any.
        updated: When it entered the state, µs since the epoch; never goes back.
        started: When it first ran; 0 before.
        due: When it may go on, for waiting states; 0 for none.
        children: Number of mapped children.
        open: The effect that waits for its answer.
    """

    state: StateCode = _S.PENDING
    run_count: int = 0
    loop_count: int = 0
    updated: int = 0
    started: int = 0
    due: int = 0
    children: int = 0
    open: EffectKind | None = None


class Policy(NamedTuple):
    """What the machine needs to know of a task.

    Attributes:
        max_retries: Retries after the first attempt.
        retry_delay: Pause before a retry, µs.
        keeps: True when values are stored before the run is a success.
    """

    max_retries: int = 0
    retry_delay: int = 0
    keeps: bool = False


class IllegalEventError(HeliographError):
    """The event cannot happen in the record's state: a fault of the runner."""


Effects = tuple[Effect, ...]
Step = tuple[Record, Effects]
_Rule = Callable[[Record, Event, int, Policy], Step]

_EMIT = Effect(EffectKind.EMIT)
_EMIT_RUN: Effects = (_EMIT, Effect(EffectKind.RUN))
_EMIT_FINISH: Effects = (_EMIT, Effect(EffectKind.FINISH))
_EMIT_ASK: Effects = (_EMIT, Effect(EffectKind.ASK))
_EMIT_AGAIN: Effects = (_EMIT, Effect(EffectKind.AGAIN))
_KEEP: Effects = (Effect(EffectKind.KEEP),)
_AGAIN: Effects = (Effect(EffectKind.AGAIN),)
_NOTHING: Effects = ()

TERMINAL: frozenset[StateCode] = frozenset(code for code in _S if code.is_finished and code is not _S.LOOPED)
"""States that no event leaves. Looped counts as finished for users, but its run goes on."""


def next_state(record: Record, event: Event, now: int, policy: Policy) -> Step:
    """Returns the record after `event`, and the effects to perform.

    Args:
        record: The record now.
        event: What happened.
        now: The time, µs since the epoch; a clock that went back is held at the record's last time.
        policy: What the task's options say.

    Raises:
        IllegalEventError: The event cannot happen in the record's state.
    """
    rule = _TABLE[record[0]][event[0]]
    if rule is None:
        if record.state in TERMINAL:
            return record, _NOTHING
        raise IllegalEventError(f"{event.kind.name} cannot happen in {record.state.name}")
    updated = record[3]
    return rule(record, event, max(updated, now), policy)


def legal_events(state: StateCode) -> frozenset[EventKind]:
    """Returns the events that can happen in `state`."""
    return frozenset(kind for kind in EventKind if _TABLE[state][kind] is not None)


# --- rules ----------------------------------------------------------------------------------------------------------


def _start(record: Record, event: Event, now: int, policy: Policy) -> Step:
    _, run_count, loop_count, _, started, due, _, _ = record
    if due > now:
        return record._replace(open=EffectKind.WAIT), (Effect(EffectKind.WAIT, due),)
    return Record(_S.RUNNING, run_count + 1, loop_count, now, started or now, 0, 0, EffectKind.RUN), _EMIT_RUN


def _start_resumed(record: Record, event: Event, now: int, policy: Policy) -> Step:
    # Approval continues the attempt that paused; it is not another one.
    run_count = max(1, record.run_count)
    running = Record(_S.RUNNING, run_count, record.loop_count, now, record.started or now, 0, 0, EffectKind.RUN)
    return running, _EMIT_RUN


def _start_iteration(record: Record, event: Event, now: int, policy: Policy) -> Step:
    running = Record(_S.RUNNING, 1, record.loop_count, now, record.started, 0, 0, EffectKind.RUN)
    return running, _EMIT_RUN


def _returned(record: Record, event: Event, now: int, policy: Policy) -> Step:
    if policy[2] and record[7] is EffectKind.RUN:
        return record._replace(open=EffectKind.KEEP), _KEEP
    _, run_count, loop_count, _, started, _, _, _ = record
    return Record(event[1] or _S.SUCCESS, run_count, loop_count, now, started, 0, 0, None), _EMIT_FINISH


def _kept(record: Record, event: Event, now: int, policy: Policy) -> Step:
    return record._replace(state=event.code or _S.SUCCESS, updated=now, open=None), _EMIT_FINISH


def _raised(record: Record, event: Event, now: int, policy: Policy) -> Step:
    if event.retry and record.run_count <= policy.max_retries:
        due = now + policy.retry_delay
        waiting = record._replace(state=_S.RETRYING, updated=now, due=due, open=EffectKind.WAIT)
        return waiting, (_EMIT, Effect(EffectKind.WAIT, due))
    return record._replace(state=event.code or _S.FAILED, updated=now, open=None), _EMIT_FINISH


def _loop(record: Record, event: Event, now: int, policy: Policy) -> Step:
    loop_count = event.children or record.loop_count + 1
    return (
        record._replace(state=_S.LOOPED, loop_count=loop_count, updated=now, open=EffectKind.AGAIN),
        _EMIT_AGAIN,
    )


def _retry(record: Record, event: Event, now: int, policy: Policy) -> Step:
    due = max(now, event.at)
    waiting = record._replace(state=_S.RETRYING, updated=now, due=due, open=EffectKind.WAIT)
    return waiting, (_EMIT, Effect(EffectKind.WAIT, due))


def _skip(record: Record, event: Event, now: int, policy: Policy) -> Step:
    return record._replace(state=_S.SKIPPED, updated=now, due=0, open=None), _EMIT_FINISH


def _pause(record: Record, event: Event, now: int, policy: Policy) -> Step:
    if event.at:
        waiting = record._replace(state=_S.PAUSED, updated=now, due=event.at, open=EffectKind.WAIT)
        return waiting, (_EMIT, Effect(EffectKind.WAIT, event.at))
    return record._replace(state=_S.PAUSED, updated=now, due=0, open=EffectKind.ASK), _EMIT_ASK


def _resume(record: Record, event: Event, now: int, policy: Policy) -> Step:
    return record._replace(state=_S.RESUME, updated=now, due=0, open=EffectKind.AGAIN), _EMIT_AGAIN


def _due(record: Record, event: Event, now: int, policy: Policy) -> Step:
    if record.due > now:
        return record, (Effect(EffectKind.WAIT, record.due),)
    return record._replace(due=0, open=EffectKind.AGAIN), _AGAIN


def _hit(record: Record, event: Event, now: int, policy: Policy) -> Step:
    return record._replace(state=_S.CACHED, updated=now, due=0, open=None), _EMIT_FINISH


def _map(record: Record, event: Event, now: int, policy: Policy) -> Step:
    count = event.children
    return (
        record._replace(state=_S.MAPPED, updated=now, started=now, due=0, children=count, open=None),
        (_EMIT, Effect(EffectKind.MAP_OUT, count), _EMIT_FINISH[1]),
    )


def _refuse(record: Record, event: Event, now: int, policy: Policy) -> Step:
    return record._replace(state=event.code or _S.FAILED, updated=now, due=0, open=None), _EMIT_FINISH


def _given(record: Record, event: Event, now: int, policy: Policy) -> Step:
    code = event.code
    if code is None or code not in TERMINAL:
        raise IllegalEventError("a given state must be an end state")
    return record._replace(state=code, updated=now, due=0, children=event.children, open=None), _EMIT_FINISH


def _cancel(record: Record, event: Event, now: int, policy: Policy) -> Step:
    return record._replace(state=_S.CANCELLED, updated=now, due=0, open=None), _EMIT_FINISH


_E = EventKind

# Before it runs, a task run can be started, or end without running.
_WAITING: dict[EventKind, _Rule] = {
    _E.START: _start, _E.SKIP: _skip, _E.PAUSE: _pause, _E.RETRY: _retry, _E.HIT: _hit, _E.MAP: _map,
    _E.REFUSE: _refuse, _E.CANCEL: _cancel, _E.DUE: _due,
}  # fmt: skip

RULES: dict[StateCode, dict[EventKind, _Rule]] = {
    _S.PENDING: {**_WAITING, _E.GIVEN: _given},
    _S.SCHEDULED: _WAITING,
    _S.SUBMITTED: _WAITING,
    _S.QUEUED: _WAITING,
    _S.RETRYING: _WAITING,
    _S.PAUSED: {_E.RESUME: _resume, _E.DUE: _resume, _E.REFUSE: _refuse, _E.CANCEL: _cancel},
    _S.RESUME: {**_WAITING, _E.START: _start_resumed},
    _S.LOOPED: {
        _E.START: _start_iteration, _E.SKIP: _skip, _E.RETRY: _retry, _E.PAUSE: _pause, _E.HIT: _hit,
        _E.REFUSE: _refuse, _E.CANCEL: _cancel,
    },
    _S.RUNNING: {
        _E.RETURNED: _returned, _E.KEPT: _kept, _E.RAISED: _raised, _E.LOOP: _loop, _E.RETRY: _retry, _E.SKIP: _skip,
        _E.PAUSE: _pause, _E.HIT: _hit, _E.REFUSE: _refuse, _E.CANCEL: _cancel,
    },
    _S.CANCELLING: {
        _E.RETURNED: _cancel, _E.KEPT: _cancel, _E.RAISED: _cancel, _E.LOOP: _cancel, _E.RETRY: _cancel,
        _E.SKIP: _cancel, _E.PAUSE: _cancel, _E.CANCEL: _cancel,
    },
}  # fmt: skip
"""State and event to the rule that applies. What is absent cannot happen; terminal states have no rules."""

_TABLE: list[list[_Rule | None]] = [
    [RULES.get(StateCode(code), {}).get(kind) if code else None for kind in EventKind]
    for code in range(max(StateCode) + 1)
]


# --- the flow run ---------------------------------------------------------------------------------------------------


def flow_verdict(reference: frozenset[StateCode], *, unfinished: bool, cancelled: bool) -> StateCode:
    """Returns the state that ends a flow run.

    Args:
        reference: States of the reference tasks; of a mapped one also those of its children.
        unfinished: True when a task run did not end: it waits for an approval that nobody here can give.
        cancelled: True when the run was cancelled.
    """
    if cancelled:
        return _S.CANCELLED
    if unfinished:
        return _S.RUNNING
    if any(code.is_failed for code in reference):
        return _S.FAILED
    return _S.SUCCESS
