"""The part of a run's row that changes: loaded, changed by the rules of the domain, and written back fenced.

Every change of a run goes this way, except the claim, which is one conditional statement of its own. Writing back
names the epoch, sequence and history that were read: a row that changed meanwhile is never overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import update

from heliograph.engine.codes import StateCode
from heliograph.exceptions import InternalError, NotFoundError
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.domain.runs import Phase
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.admin import quarantine
from heliograph_control_plane.store.database import Query, Row, bulk_insert, bulk_update
from heliograph_control_plane.store.writer import Transaction

_t = schema.flow_runs.c

_COLUMNS: Final = (
    "state", "state_micros", "state_ordinal", "start_micros", "end_micros", "phase", "attempt", "epoch", "agent",
    "ready_micros", "heard_micros", "deadline_micros", "last_sequence", "missing_events", "counts",
    "cancel_requested", "presumed_dead", "failure", "launch_delay", "put_backs",
)  # fmt: skip
_HEAD: Final = f"SELECT id, uuid, requirement_id, scheduled_micros, {', '.join(_COLUMNS)} FROM flow_runs"  # noqa: S608 - names of this file
_SELECT: Final = Query(
    f"{_HEAD} WHERE uuid IN (SELECT value FROM json_each(?)) ORDER BY id",  # noqa: S608 - as above
    f"{_HEAD} WHERE uuid = ANY(%s::text[]) ORDER BY id FOR UPDATE",
)
_SAVE = bulk_update(schema.flow_runs, ("id", "epoch", "last_sequence", "state_ordinal"), _COLUMNS)
_ADD_STATES = bulk_insert(
    schema.flow_run_states,
    ("run_id", "ordinal", "state", "time_micros", "receive_micros", "set_by", "epoch", "failure"),
)


@dataclass(slots=True)
class Head:
    """A run as it is being changed. `fence` is what was read; `history` are states to add."""

    id: int
    uuid: str
    requirement_id: int
    scheduled_micros: int
    state: StateCode
    state_micros: int
    state_ordinal: int
    start_micros: int
    end_micros: int
    phase: Phase
    attempt: int
    epoch: int
    agent: str
    ready_micros: int | None
    heard_micros: int
    deadline_micros: int | None
    last_sequence: int
    missing_events: int
    counts: str
    cancel_requested: int
    presumed_dead: int
    failure: bytes | None
    launch_delay: int
    put_backs: int
    fence: tuple[int, int, int] = (0, 0, 0)
    history: list[Row] = field(default_factory=list)

    def enter(self, state: StateCode, time: int, now: int, set_by: str, failure: bytes = b"") -> None:
        """Enters a state: adds it to the history, and ends the run when the state is a final one."""
        self.state = state
        self.state_micros = time
        self.state_ordinal += 1
        self.failure = failure or None
        self.presumed_dead = 0
        self.history.append((self.id, self.state_ordinal, int(state), time, now, set_by, self.epoch, failure or None))
        if state is StateCode.RUNNING:
            self.start_micros = self.start_micros or time
            self.launch_delay = self.put_backs = 0
        if state.is_finished:
            self.end_micros = time
            self.phase = Phase.ENDED
            self.ready_micros = self.deadline_micros = None
            self.heard_micros = now
        else:
            self.end_micros = 0

    def queue(self, ready: int) -> None:
        """Puts the run back into the queue, claimable from `ready` on."""
        self.phase = Phase.NONE
        self.ready_micros = ready
        self.deadline_micros = rules.deadline(StateCode.SCHEDULED, Phase.NONE, ready)

    def put_back(self, ready: int, delay: int) -> None:
        """Puts a run back into the queue that its agent could not launch now."""
        self.queue(ready)
        self.launch_delay = delay
        self.put_backs += 1

    def hold(self, now: int) -> None:
        """Gives the run to the holder of its epoch."""
        self.phase = Phase.HELD
        self.ready_micros = None
        self.heard_micros = now
        self.deadline_micros = now + rules.LOST_AFTER

    def wait_for(self, delay: int) -> bool:
        """Notes what the run waits for that its agent has and that has not begun. True when that is news."""
        if self.state is not StateCode.SUBMITTED or self.launch_delay == delay:
            return False
        self.launch_delay = delay
        return True

    def hear(self, now: int, set_by: str) -> None:
        """Renews the lease of a held run, and takes back the presumption that it is dead."""
        if self.presumed_dead:
            self.enter(rules.revived_state(self.start_micros > 0, bool(self.cancel_requested)), now, now, set_by)
            self.hold(now)
        elif self.phase is Phase.HELD:
            self.heard_micros = now

    @property
    def is_final(self) -> bool:
        """True when the run is finished for certain."""
        return self.state.is_finished and not self.presumed_dead


def load_heads(tx: Transaction, uuids: Collection[str]) -> dict[str, Head]:
    """Loads runs to change them, locked where several writers share the database. Unknown ones are left out."""
    heads: dict[str, Head] = {}
    for row in _SELECT.run(tx.connection, list(uuids)) if uuids else ():
        head = Head(*row)
        try:
            head.state, head.phase = StateCode(head.state), Phase(head.phase)
        except DAMAGE as error:
            set_aside(tx, head.id, head.uuid, error)
            continue
        head.fence = (head.epoch, head.last_sequence, head.state_ordinal)
        heads[head.uuid] = head
    return heads


def set_aside(tx: Transaction, key: int, uuid: str, error: BaseException) -> None:
    """Takes a run whose row cannot be read out of every queue, so that it harms no other."""
    tell_damage("flow_run", uuid, error)
    quarantine(tx, "flow_run", uuid, type(error).__name__)
    tx.connection.execute(
        update(schema.flow_runs)
        .where(_t.id == key)
        .values(phase=int(Phase.NONE), ready_micros=None, deadline_micros=None)
    )


def load_head(tx: Transaction, uuid: str) -> Head:
    """Loads one run to change it. Raises NotFoundError."""
    head = load_heads(tx, (uuid,)).get(uuid)
    if head is None:
        raise NotFoundError(f"there is no flow run {uuid}")
    return head


def save_heads(tx: Transaction, heads: Iterable[Head]) -> None:
    """Writes changed runs and their new states."""
    rows: list[Row] = []
    history: list[Row] = []
    for head in heads:
        rows.append((*(getattr(head, name) for name in _COLUMNS), head.id, *head.fence))
        history.extend(head.history)
        head.history = []
        head.fence = (head.epoch, head.last_sequence, head.state_ordinal)
        tx.runs.add(head.uuid)
    if _SAVE.run(tx.connection, rows) != len(rows):
        raise InternalError("a run changed while it was written")
    _ADD_STATES.run(tx.connection, history)


def add_states(tx: Transaction, rows: list[Row]) -> None:
    """Writes first states of new runs: (run id, ordinal, state, time, receive time, set by, epoch, failure)."""
    _ADD_STATES.run(tx.connection, rows)
