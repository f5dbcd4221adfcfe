"""Events of runs, stored exactly once and in order: the hottest path of the store.

All batches that wait are applied together: one read of their runs, one fenced update of them, one insert of states,
one upsert of task runs (the newest state of each only).
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select

from heliograph.engine.codes import StateCode
from heliograph.exceptions import (
    HeliographError,
    InvalidArgumentError,
    LeaseLostError,
    NotFoundError,
    SequenceGapError,
)
from heliograph_control_plane.domain import batches as domain
from heliograph_control_plane.domain.runs import TASK_RUN_ENDS, Phase, reported_state
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Row, bulk_insert
from heliograph_control_plane.store.heads import Head, load_heads, save_heads
from heliograph_control_plane.store.records import EventAck, EventBatch, FlowEvent, RunCommandKind
from heliograph_control_plane.store.writer import GroupOperation, Transaction

_ADD_STATES = bulk_insert(
    schema.task_run_states,
    ("run_id", "epoch", "sequence", "task", "map_index", "state", "time_micros", "run_count"),
)
_UPSERT_TASKS = bulk_insert(
    schema.task_runs,
    (
        "run_id", "task", "map_index", "state", "state_micros", "start_micros", "end_micros", "run_count",
        "child_count", "epoch", "last_sequence", "result_stored", "failure",
    ),
    "ON CONFLICT (run_id, task, map_index) DO UPDATE SET state = excluded.state,"
    " state_micros = excluded.state_micros,"
    " start_micros = CASE WHEN task_runs.start_micros = 0 THEN excluded.start_micros"
    " ELSE task_runs.start_micros END,"
    " end_micros = excluded.end_micros, run_count = excluded.run_count,"
    " child_count = CASE WHEN excluded.child_count = 0 THEN task_runs.child_count ELSE excluded.child_count END,"
    " epoch = excluded.epoch, last_sequence = excluded.last_sequence, result_stored = excluded.result_stored,"
    " failure = excluded.failure",
)  # fmt: skip
_LARGEST: Final = 1 << 62
_REMEMBERED_RUNS: Final = 256
_REMEMBERED_TASKS: Final = 200_000
_ENDS: Final = frozenset(map(int, TASK_RUN_ENDS))
_LAST_STATE: Final = int(max(StateCode))
_RUNNING: Final = int(StateCode.RUNNING)
_MAP_SHIFT: Final = 33


@dataclass(slots=True)
class _TaskStates:
    """The newest state of each task run of one run, so that counts by state need no reading.

    It is what the database held after (epoch, sequence); another writer's change shows as a difference there.
    """

    epoch: int
    sequence: int
    states: dict[int, int]
    counts: dict[int, int]


@dataclass(slots=True)
class _Work:
    """What the batches of one run add up to."""

    head: Head
    counts: dict[int, int] = field(default_factory=dict)
    states: dict[int, int] | None = None
    changed: bool = False


class EventStore:
    """Applies batches for the incarnation that the store has now."""

    def __init__(self, incarnation: str, epoch_base: int) -> None:
        self.incarnation = incarnation
        self.epoch_base = epoch_base
        self.operation: GroupOperation[EventBatch, EventAck] = GroupOperation(self.apply)

    def apply(self, tx: Transaction, batches: list[EventBatch]) -> list[EventAck | HeliographError]:
        """Applies batches in their order; each gets its acknowledgement or its refusal."""
        heads = load_heads(tx, {batch.run_id for batch in batches})
        work: dict[str, _Work] = {}
        history: list[Row] = []
        tasks: dict[tuple[int, int, int], list[object]] = {}
        answers: list[EventAck | HeliographError] = []
        for batch in batches:
            head = heads.get(batch.run_id)
            if head is None:
                answers.append(NotFoundError(f"there is no flow run {batch.run_id}"))
                continue
            one = work.setdefault(batch.run_id, _Work(head))
            answers.append(self._apply_one(tx, one, batch, history, tasks))
        changed = [one for one in work.values() if one.changed]
        for one in changed:
            if one.states is not None:
                one.head.counts = _encode_counts(one.counts)
                _remember(tx, one)
        save_heads(tx, [one.head for one in changed])
        _ADD_STATES.run(tx.connection, history)
        _UPSERT_TASKS.run(tx.connection, [tuple(row) for row in tasks.values()])
        return answers

    def _apply_one(
        self,
        tx: Transaction,
        work: _Work,
        batch: EventBatch,
        history: list[Row],
        tasks: dict[tuple[int, int, int], list[object]],
    ) -> EventAck | HeliographError:
        head = work.head
        if not (0 < batch.first_sequence < _LARGEST and batch.epoch < _LARGEST):
            return InvalidArgumentError("sequence and epoch are out of range")
        if not all(0 < event.state <= _LAST_STATE for event in batch.events):
            return InvalidArgumentError("an event has no known state")
        if batch.agent and batch.agent != head.agent and batch.epoch == head.epoch:
            return LeaseLostError("the run is another agent's")
        verdict = domain.accept_batch(
            domain.Writer(head.epoch, head.last_sequence, head.phase, head.is_final),
            self.incarnation,
            epoch=batch.epoch,
            first_sequence=batch.first_sequence,
            count=len(batch.events),
            told_incarnation=batch.incarnation,
            highest_forgotten=self.epoch_base,
            hole_from_sequence=batch.hole_from_sequence,
        )
        if isinstance(verdict, domain.LeaseLost):
            return LeaseLostError("the run has another lease, or none")
        if verdict.adopt:
            adopt(head, batch.epoch, tx.now, _set_by(batch))
            head.agent = batch.agent or head.agent
            work.changed = True
        if isinstance(verdict, domain.Gap):
            return SequenceGapError(
                f"events are missing: the next one is {verdict.expected}",
                metadata={"expected_sequence": str(verdict.expected)},
            )
        if not head.is_final:
            head.hear(tx.now, _set_by(batch))
            work.changed = True
        if isinstance(verdict, domain.Apply):
            self._store(tx, work, batch, verdict, history, tasks)
        return EventAck(head.last_sequence, command_for(head, head.epoch), self.incarnation)

    def _store(
        self,
        tx: Transaction,
        work: _Work,
        batch: EventBatch,
        verdict: domain.Apply,
        history: list[Row],
        tasks: dict[tuple[int, int, int], list[object]],
    ) -> None:
        head = work.head
        work.changed = True
        head.missing_events += verdict.missing
        run, epoch = head.id, head.epoch
        states = _task_states(tx, work)
        counts = work.counts
        sequence = batch.first_sequence + verdict.skip - 1
        has_tasks = False
        for event in batch.events[verdict.skip :]:
            sequence += 1
            if isinstance(event, FlowEvent):
                _flow_event(tx, head, event, _set_by(batch))
                continue
            task, child, state, time, run_count, child_count, result_stored, failure = event
            has_tasks = True
            history.append((run, epoch, sequence, task, child, state, time, run_count))
            place = (task << _MAP_SHIFT) | (child + 1)
            before = states.get(place)
            if before != state:
                if before is not None:
                    counts[before] -= 1
                counts[state] = counts.get(state, 0) + 1
                states[place] = state
            start = time if state == _RUNNING else 0
            key = (run, task, child)
            row = tasks.get(key)
            if row is not None:
                start = row[5] or start  # type: ignore[assignment]
                child_count = child_count or row[8]  # type: ignore[assignment]
            tasks[key] = [
                run, task, child, state, time, start, time if state in _ENDS else 0, run_count, child_count,
                epoch, sequence, int(result_stored), failure or None,
            ]  # fmt: skip
        head.last_sequence = sequence
        if has_tasks:
            tx.tasks.add(head.uuid)


def _flow_event(tx: Transaction, head: Head, event: FlowEvent, set_by: str) -> None:
    target = reported_state(head.state, StateCode(event.state))
    if target is not None:
        head.enter(target, event.time_micros, tx.now, set_by, event.failure)


def _set_by(batch: EventBatch) -> str:
    return f"agents/{batch.agent}" if batch.agent else "run"


def adopt(head: Head, epoch: int, now: int, set_by: str) -> None:
    """Takes a lease that a restored store has forgotten as its holder tells it."""
    head.epoch = epoch
    head.last_sequence = 0
    if head.state is StateCode.SCHEDULED:
        head.attempt += 1
        head.enter(StateCode.SUBMITTED, now, now, set_by)
    elif head.presumed_dead:
        head.hear(now, set_by)
    head.hold(now)


def command_for(head: Head, epoch: int) -> RunCommandKind:
    """Returns what a holder of `epoch` should do with the run."""
    if epoch < head.epoch or (epoch == head.epoch and head.phase in (Phase.NONE, Phase.OFFERED)):
        return RunCommandKind.ABANDON
    if head.is_final:
        return RunCommandKind.FORGET
    if head.state is StateCode.CANCELLING:
        return RunCommandKind.CANCEL
    return RunCommandKind.NONE


# --- counts ---------------------------------------------------------------------------------------------------------


def _task_states(tx: Transaction, work: _Work) -> dict[int, int]:
    if work.states is not None:
        return work.states
    head = work.head
    known: OrderedDict[int, _TaskStates] = tx.memory.setdefault("task_states", OrderedDict())
    remembered = known.pop(head.id, None)
    if remembered and (remembered.epoch, remembered.sequence) == head.fence[:2]:
        work.states, work.counts = remembered.states, remembered.counts
    else:
        table = schema.task_runs.c
        rows = tx.connection.execute(select(table.task, table.map_index, table.state).where(table.run_id == head.id))
        work.states = {(task << _MAP_SHIFT) | (child + 1): state for task, child, state in rows}
        work.counts = dict(Counter(work.states.values()))
    return work.states


def _remember(tx: Transaction, work: _Work) -> None:
    known: OrderedDict[int, _TaskStates] = tx.memory["task_states"]
    assert work.states is not None
    if not work.head.is_final:
        known[work.head.id] = _TaskStates(work.head.epoch, work.head.last_sequence, work.states, work.counts)
    total = sum(len(one.states) for one in known.values()) if len(known) > 1 else 0
    while len(known) > _REMEMBERED_RUNS or (total > _REMEMBERED_TASKS and len(known) > 1):
        total -= len(known.popitem(last=False)[1].states)


def _encode_counts(counts: dict[int, int]) -> str:
    return json.dumps({str(state): count for state, count in sorted(counts.items()) if count})


def decode_counts(text: str) -> tuple[tuple[StateCode, int], ...]:
    """Returns numbers of task runs by state."""
    if not text:
        return ()
    return tuple((StateCode(int(state)), count) for state, count in json.loads(text).items())
