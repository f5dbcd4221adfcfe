"""Leases: the claim in one conditional statement, acceptance, release, heartbeats, proofs of death, deadlines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.exceptions import (
    HeliographError,
    IllegalTransitionError,
    InvalidArgumentError,
    LeaseLostError,
    NotFoundError,
)
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.domain import batches
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.domain.matching import match
from heliograph_control_plane.domain.runs import Phase
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.agents import note_heartbeat, owners
from heliograph_control_plane.store.database import Query, bulk_insert
from heliograph_control_plane.store.events import adopt, command_for
from heliograph_control_plane.store.flow_runs import failure_of, make_run, read_run
from heliograph_control_plane.store.flows import read_requirements, remembered_requirements, remembered_versions
from heliograph_control_plane.store.heads import Head, load_head, load_heads, save_heads, set_aside
from heliograph_control_plane.store.records import (
    FlowRun,
    HeldRun,
    Lease,
    Reaped,
    RequestKey,
    RunCommand,
    RunCommandKind,
    Scope,
    Spent,
    Upcoming,
)
from heliograph_control_plane.store.requests import find_effect, find_effects, record_effects
from heliograph_control_plane.store.start_codes import is_exchanged
from heliograph_control_plane.store.writer import GroupOperation, Transaction

_t = schema.flow_runs.c
_r = schema.requirements.c
_rt = schema.run_tokens.c

_RUN_COLUMNS: Final = (
    "id, uuid, version_id, requirement_id, run_name, state, state_micros, parameters_json, create_micros,"
    " scheduled_micros, start_micros, end_micros, created_by, attempt, epoch, agent, failure, last_sequence,"
    " presumed_dead, missing_events, counts, cancel_requested, heard_micros, phase, ready_micros,"
    " launch_delay, put_backs"
)
_AGENTS: Final = Query(
    "SELECT name, launcher, labels, host, projects FROM agents WHERE name IN (SELECT value FROM json_each(?))",
    "SELECT name, launcher, labels, host, projects FROM agents WHERE name = ANY(%s::text[])",
)
_RETURNED: Final = ", ".join(f"flow_runs.{name}" for name in _RUN_COLUMNS.split(", "))
# The n-th due run is given to the n-th of the agents: several calls share one statement.
_CLAIM: Final = Query(
    "WITH due AS (SELECT run.id, row_number() OVER (ORDER BY run.ready_micros, run.id) - 1 AS place"  # noqa: S608 - names of this file
    "  FROM json_each(:requirements) AS wanted JOIN flow_runs AS run ON run.id IN ("
    "   SELECT id FROM flow_runs WHERE requirement_id = wanted.value AND ready_micros <= :now"
    "   ORDER BY ready_micros, id LIMIT :count)"
    "  ORDER BY run.ready_micros, run.id LIMIT :count)"
    " UPDATE flow_runs SET phase = 1, epoch = max(flow_runs.epoch, :epoch_base) + 1, agent = :agents ->> due.place,"
    " last_sequence = 0, ready_micros = NULL, heard_micros = :now, deadline_micros = :expire FROM due"
    f" WHERE flow_runs.id = due.id AND flow_runs.ready_micros <= :now RETURNING {_RUN_COLUMNS}",
    "WITH due AS MATERIALIZED (SELECT run.id, run.ready_micros FROM unnest(%(requirements)s::bigint[]) AS wanted (id)"  # noqa: S608 - as above
    " CROSS JOIN LATERAL (SELECT id, ready_micros FROM flow_runs"
    "  WHERE requirement_id = wanted.id AND ready_micros <= %(now)s"
    "  ORDER BY ready_micros, id LIMIT %(count)s FOR UPDATE SKIP LOCKED) AS run"
    " ORDER BY run.ready_micros, run.id LIMIT %(count)s),"
    " placed AS (SELECT id, row_number() OVER (ORDER BY ready_micros, id) AS place FROM due)"
    " UPDATE flow_runs SET phase = 1, epoch = greatest(flow_runs.epoch, %(epoch_base)s) + 1,"
    " agent = (%(agents)s::text[])[placed.place], last_sequence = 0, ready_micros = NULL, heard_micros = %(now)s,"
    " deadline_micros = %(expire)s FROM placed"
    f" WHERE flow_runs.id = placed.id AND flow_runs.ready_micros <= %(now)s RETURNING {_RETURNED}",
)
_RUNS: Final = Query(
    f"SELECT {_RUN_COLUMNS} FROM flow_runs WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608 - names of this file
    f"SELECT {_RUN_COLUMNS} FROM flow_runs WHERE id = ANY(%s::bigint[])",  # noqa: S608 - as above
)


@dataclass(frozen=True, slots=True)
class Claim:
    """One call that wants leases."""

    agent: str
    request_id: str
    max_runs: int
    scope: Scope = None

    @property
    def request(self) -> RequestKey:
        """What it is remembered by."""
        return RequestKey(f"LeaseFlowRuns/{self.agent}", self.request_id, b"")


class LeaseStore:
    """Leases under the incarnation that the store has now."""

    def __init__(self, incarnation: str, epoch_base: int) -> None:
        self.incarnation = incarnation
        self.epoch_base = epoch_base
        self.operation: GroupOperation[Claim, tuple[Lease, ...]] = GroupOperation(self.claim)

    def claim(self, tx: Transaction, calls: list[Claim]) -> list[tuple[Lease, ...] | HeliographError]:
        """Leases due runs that the agents fit, the longest due first. Calls that fit the same runs share statements."""
        answers: list[tuple[Lease, ...] | HeliographError] = [()] * len(calls)
        agents = {row.name: row for row in _AGENTS.run(tx.connection, list({call.agent for call in calls}))}
        known = set(find_effects(tx, [call.request for call in calls if call.request_id]))
        alike: dict[tuple[int, ...], list[int]] = {}
        again: list[int] = []
        for number, call in enumerate(calls):
            if call.agent not in agents:
                answers[number] = NotFoundError(f"there is no agent {call.agent}")
                continue
            place = (call.request.scope, call.request_id)
            if call.request_id and place in known:
                again.append(number)
                continue
            try:
                fitting = _fitting(tx, agents[call.agent], call.scope)
            except DAMAGE as error:  # it is told to register again, which writes its row anew
                tell_damage("agent", call.agent, error)
                answers[number] = NotFoundError(f"there is no agent {call.agent} that can be read")
                continue
            if fitting and call.max_runs > 0:
                known.add(place)
                alike.setdefault(tuple(fitting), []).append(number)
        effects: list[tuple[RequestKey, str]] = []
        for fitting_all, numbers in alike.items():
            for number, rows in self._share(tx, list(fitting_all), calls, numbers):
                answers[number] = self._leases(tx, rows)
                if rows and calls[number].request_id:
                    effects.append((calls[number].request, json.dumps([(row.id, row.epoch) for row in rows])))
        record_effects(tx, effects)
        for number in again:
            call = calls[number]
            given = find_effect(tx, call.request)
            answers[number] = () if given is None else self._given(tx, call.agent, json.loads(given)) or Spent()
        return answers

    def _share(
        self, tx: Transaction, fitting: list[int], calls: list[Claim], numbers: list[int]
    ) -> Iterator[tuple[int, list[Any]]]:
        """Takes runs for these calls together, and yields each call's part."""
        places = [calls[number].agent for number in numbers for _ in range(calls[number].max_runs)]
        taken: dict[str, list[Any]] = {}
        for row in sorted(self._take(tx, fitting, places), key=lambda row: (row.scheduled_micros, row.id)):
            taken.setdefault(row.agent, []).append(row)
        for number in numbers:
            mine = taken.get(calls[number].agent, [])
            count = calls[number].max_runs
            yield number, mine[:count]
            del mine[:count]

    def _take(self, tx: Transaction, fitting: list[int], places: list[str]) -> list[Any]:
        """The claim itself: a run is given to whoever finds it claimable, in the statement that makes it not so.

        Args:
            tx: The transaction.
            fitting: Keys of the requirements that the agents meet.
            places: The agent of each run that may be taken, in the order of the queue.

        Returns:
            Rows of the runs that were taken.
        """
        return _CLAIM.run_named(
            tx.connection, requirements=fitting, now=tx.now, agents=places, expire=tx.now + rules.ACCEPT_WITHIN,
            epoch_base=self.epoch_base, count=len(places),
        )  # fmt: skip

    def _given(self, tx: Transaction, agent: str, claimed: list[tuple[int, int]]) -> tuple[Lease, ...]:
        """Returns those of the leases given before that still live unaccepted.

        Judged by the very rows that are returned: another control plane may give the run out anew at any moment.
        """
        epochs = dict(claimed)
        alive = [
            row
            for row in _RUNS.run(tx.connection, list(epochs))
            if (row.agent, row.epoch, row.phase) == (agent, epochs[row.id], Phase.OFFERED)
            and row.heard_micros + rules.ACCEPT_WITHIN > tx.now
        ]
        return self._leases(tx, sorted(alive, key=lambda row: (row.scheduled_micros, row.id)), claimed=False)

    def _leases(self, tx: Transaction, rows: list[Any], *, claimed: bool = True) -> tuple[Lease, ...]:
        versions = remembered_versions(tx, {row.version_id for row in rows})
        needed = remembered_requirements(tx) if rows else {}
        if claimed:
            tx.runs.update(row.uuid for row in rows)
        leases: list[Lease] = []
        for row in rows:
            version = versions[row.version_id]
            try:
                run = make_run(row, version, needed[row.requirement_id], tx.now)
            except (ValueError, TypeError) as error:
                set_aside(tx, row.id, row.uuid, error)
                continue
            expire = row.heard_micros + rules.ACCEPT_WITHIN
            leases.append(Lease(run, version, row.epoch, row.attempt + 1, expire))
        return tuple(leases)

    def heartbeat(self, tx: Transaction, agent: str, held: Sequence[HeldRun], draining: bool) -> tuple[RunCommand, ...]:
        """Notes that an agent lives and renews leases. Unknown runs get no command: the agent keeps them."""
        note_heartbeat(tx, agent, len(held), draining)
        heads = load_heads(tx, {one.run_id for one in held})
        needed = remembered_requirements(tx)
        commands: list[RunCommand] = []
        changed: dict[str, Head] = {}
        held_now: list[tuple[Head, HeldRun]] = []
        connected = _connected(tx, [head for one in held if one.renew and (head := heads.get(one.run_id))])
        for one in held:
            head = heads.get(one.run_id)
            # A run of another project than the one named is as unknown as one that never was.
            if head is None or (one.project and one.project != needed[head.requirement_id].project):
                continue
            if one.epoch > head.epoch and self._forgotten(head, one.epoch):
                adopt(head, one.epoch, tx.now, f"agents/{agent}")
                head.agent = agent
                changed[head.uuid] = head
            elif one.epoch == head.epoch and one.renew and head.agent == agent and not head.is_final:
                head.hear(tx.now, f"agents/{agent}")
                changed[head.uuid] = head
            waits_for = one.waits_for if one.renew else 0
            if (one.epoch, agent) == (head.epoch, head.agent) and head.wait_for(waits_for):
                changed[head.uuid] = head
            mine = one.epoch < head.epoch or head.agent == agent
            command = command_for(head, one.epoch) if mine else RunCommandKind.ABANDON
            heard_of = one.renew and (head.id, one.epoch) in connected
            if heard_of and command is RunCommandKind.CANCEL:
                # First this: its supervisor hears of the cancellation too, and the agent need not end it from outside.
                commands.append(RunCommand(one.run_id, one.epoch, RunCommandKind.CONNECTED))
            elif heard_of and command is RunCommandKind.NONE:
                command = RunCommandKind.CONNECTED
            if command is RunCommandKind.NONE and one.epoch == head.epoch and head.phase is Phase.HELD:
                held_now.append((head, one))
            if command is not RunCommandKind.NONE:
                commands.append(RunCommand(one.run_id, one.epoch, command))
        save_heads(tx, changed.values())
        if self.epoch_base and held_now:
            # Only a restored store has accepted runs whose tokens it does not know.
            rows = tx.connection.execute(
                select(_rt.run_id, _rt.epoch).where(_rt.run_id.in_([head.id for head, _ in held_now]))
            )
            known = {(run, epoch) for run, epoch in rows}
            commands += [
                RunCommand(one.run_id, one.epoch, RunCommandKind.ACCEPT)
                for head, one in held_now
                if (head.id, head.epoch) not in known
            ]
        return tuple(commands)

    def _forgotten(self, head: Head, epoch: int) -> bool:
        """True for a lease that was given out before the store was restored, and that the store does not know."""
        known = batches.Writer(head.epoch, head.last_sequence, head.phase, head.is_final)
        return batches.may_adopt(known, self.incarnation, epoch, "restored", self.epoch_base)


def _connected(tx: Transaction, heads: Sequence[Head]) -> set[tuple[int, int]]:
    """Returns key and epoch of the runs whose token was used: their supervisors have been heard of."""
    if not heads:
        return set()
    token = schema.run_tokens.c
    rows = tx.connection.execute(
        select(token.run_id, token.epoch).where(token.run_id.in_([head.id for head in heads]), token.used == 1)
    )
    return {(row.run_id, row.epoch) for row in rows}


def _fitting(tx: Transaction, agent: Any, scope: Scope) -> list[int]:
    """Returns keys of the requirements that an agent meets."""
    known = remembered_requirements(tx)
    projects = set(json.loads(agent.projects)) or None
    if scope is not None:
        projects = set(scope) if projects is None else projects & scope
    key = (agent.launcher, agent.labels, agent.host, None if projects is None else frozenset(projects))
    remembered: dict[object, list[int]] = tx.memory.setdefault("fitting", {})
    if key not in remembered:
        if len(remembered) > 5_000:
            remembered.clear()
        remembered[key] = [
            number
            for number, needed in known.items()
            if match(
                required_labels=needed.labels, required_launcher=needed.launcher, required_host=needed.host,
                project=needed.project, labels=json.loads(agent.labels), launcher=agent.launcher,
                host=agent.host, projects=projects,
            ).fits
        ]  # fmt: skip
    return remembered[key]


# --- one leased run -------------------------------------------------------------------------------------------------

_PUT_TOKEN = bulk_insert(
    schema.run_tokens,
    ("run_id", "epoch", "secret_hash", "used"),
    "ON CONFLICT (run_id, epoch) DO UPDATE SET secret_hash = excluded.secret_hash",
)


def _leased(tx: Transaction, agent: str, run_id: str, epoch: int) -> Head:
    head = load_head(tx, run_id)
    if head.epoch != epoch or head.agent != agent:
        raise LeaseLostError("the run has another lease")
    return head


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One call that confirms a lease. `project` and `scope`: where the caller may have runs; `owner`: whose agents."""

    agent: str
    run_id: str
    epoch: int
    token_hash: bytes
    project: str = ""
    scope: Scope = None
    owner: str = ""


def accept(tx: Transaction, calls: list[Acceptance]) -> list[HeliographError | None]:
    """Confirms leases, and keeps the hashes of their run tokens."""
    heads = load_heads(tx, {call.run_id for call in calls})
    needed = remembered_requirements(tx)
    owned = owners(tx.connection, {call.agent for call in calls if call.owner})
    answers: list[HeliographError | None] = []
    changed: dict[int, Head] = {}
    hashes: dict[tuple[int, int], bytes] = {}
    for call in calls:
        head = heads.get(call.run_id)
        project = needed[head.requirement_id].project if head else ""
        if head is None or (call.project or project) != project or not (call.scope is None or project in call.scope):
            answers.append(NotFoundError("no such flow run"))
            continue
        refusal: HeliographError | None
        if call.owner and owned.get(call.agent, call.owner) != call.owner:
            refusal = LeaseLostError("the run has another lease")
        else:
            refusal = _refuse_acceptance(tx, head, call)
        answers.append(refusal)
        if refusal is None:
            if head.phase is Phase.OFFERED:
                head.attempt += 1
                head.launch_delay = 0
                head.hold(tx.now)
                head.enter(StateCode.SUBMITTED, tx.now, tx.now, f"agents/{call.agent}")
                changed[head.id] = head
            hashes[head.id, call.epoch] = call.token_hash
    save_heads(tx, changed.values())
    _PUT_TOKEN.run(tx.connection, [(*place, value, 0) for place, value in hashes.items()])
    return answers


def _refuse_acceptance(tx: Transaction, head: Head, call: Acceptance) -> HeliographError | None:
    if head.epoch != call.epoch or head.agent != call.agent:
        return LeaseLostError("the run has another lease")
    if head.phase is Phase.OFFERED:
        return None
    if head.phase is not Phase.HELD:
        return LeaseLostError("the lease has ended")
    used = tx.connection.scalar(
        select(schema.run_tokens.c.used).where(
            schema.run_tokens.c.run_id == head.id, schema.run_tokens.c.epoch == call.epoch
        )
    )
    if used or is_exchanged(tx, head.id, call.epoch):
        return IllegalTransitionError("the run was accepted, and its token is in use")
    return None


def release(
    tx: Transaction, agent: str, run_id: str, epoch: int, failure: bytes, back_off_micros: int, delay: int = 0
) -> FlowRun:
    """Gives back a run that was not launched."""
    head = _leased(tx, agent, run_id, epoch)
    by = f"agents/{agent}"
    if head.phase in (Phase.OFFERED, Phase.HELD) or head.presumed_dead:
        if head.last_sequence:
            raise IllegalTransitionError("the run was launched: it has reported events")
        if head.cancel_requested:
            head.enter(StateCode.CANCELLED, tx.now, tx.now, by)
        elif failure:
            head.enter(StateCode.CRASHED, tx.now, tx.now, by, failure)
        else:
            if head.state is not StateCode.SCHEDULED:
                head.enter(StateCode.SCHEDULED, tx.now, tx.now, by)
                head.attempt -= 1  # nothing was launched: it was none
            if back_off_micros or delay:
                head.put_back(tx.now + back_off_micros, delay)
            else:
                head.queue(tx.now)
            _tell_ready(tx, [head])
        save_heads(tx, [head])
    return read_run(tx.connection, run_id, tx.now)


def report_exit(tx: Transaction, agent: str, run_id: str, epoch: int, failure: bytes, time_micros: int) -> FlowRun:
    """Takes the proof that an attempt's infrastructure is gone."""
    head = _leased(tx, agent, run_id, epoch)
    if head.phase is Phase.OFFERED:
        raise LeaseLostError("the lease was never accepted")
    if head.phase is Phase.HELD or head.presumed_dead:
        state = rules.exited_state(bool(head.cancel_requested))
        why = failure or failure_of(FailureCode.EXIT_CODE)
        head.enter(
            state, time_micros or tx.now, tx.now, f"agents/{agent}",
            why if state is StateCode.CRASHED else failure,
        )  # fmt: skip
        save_heads(tx, [head])
    return read_run(tx.connection, run_id, tx.now)


def _tell_ready(tx: Transaction, heads: Sequence[Head]) -> None:
    requirements = remembered_requirements(tx)
    for head in heads:
        assert head.ready_micros is not None
        tx.becomes_ready(requirements[head.requirement_id], head.ready_micros)


# --- deadlines ------------------------------------------------------------------------------------------------------


def reap(tx: Transaction, limit: int) -> Reaped:
    """Does what passed deadlines ask for. Every decision is taken again on the locked row."""
    if limit < 1:
        raise InvalidArgumentError("limit must be at least 1")
    due = list(
        tx.connection.scalars(
            select(_t.uuid).where(_t.deadline_micros <= tx.now).order_by(_t.deadline_micros).limit(limit)
        )
    )
    heads = list(load_heads(tx, due).values()) if due else []
    requeued: list[Head] = []
    crashed: list[Head] = []
    aside: set[str] = set()
    for head in heads:
        if head.deadline_micros is None or head.deadline_micros > tx.now:
            continue
        if head.phase is Phase.HELD and head.heard_micros + rules.LOST_AFTER > tx.now:
            head.deadline_micros = head.heard_micros + rules.LOST_AFTER
            continue
        situation = rules.UNFINISHED.get((head.state, head.phase))
        if situation is None:
            set_aside(tx, head.id, head.uuid, KeyError())
            aside.add(head.uuid)
            continue
        if situation.next_phase is Phase.NONE:
            head.queue(tx.now)
            requeued.append(head)
            continue
        assert situation.reason is not None
        presumed = head.phase is Phase.HELD
        heard = head.heard_micros
        head.enter(situation.next_state, tx.now, tx.now, "control-plane", failure_of(situation.reason))
        head.presumed_dead = int(presumed)
        head.heard_micros = heard if presumed else tx.now
        crashed.append(head)
    save_heads(tx, [head for head in heads if head.uuid not in aside])
    _tell_ready(tx, requeued)
    return Reaped(tuple(head.uuid for head in requeued), tuple(head.uuid for head in crashed), len(due) == limit)


def upcoming(connection: Connection, limit: int) -> tuple[Upcoming, ...]:
    """Returns when the first claimable run of each requirement is due."""
    first = (
        select(func.min(_t.ready_micros))
        .where(_t.requirement_id == _r.id, _t.ready_micros.is_not(None))
        .correlate(schema.requirements)
        .scalar_subquery()
    )
    each = select(_r.id, first.label("ready_micros")).subquery()
    rows = connection.execute(
        select(each).where(each.c.ready_micros.is_not(None)).order_by(each.c.ready_micros, each.c.id).limit(limit)
    ).all()
    requirements = read_requirements(connection, [row.id for row in rows])
    return tuple(Upcoming(requirements[row.id], row.ready_micros) for row in rows)
