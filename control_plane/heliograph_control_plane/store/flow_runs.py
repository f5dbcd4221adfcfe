"""Flow runs as people see them: created, read, listed, cancelled; their histories and task runs."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from sqlalchemy import Connection, Row, Select, bindparam, func, or_, select, tuple_, union_all

from heliograph.api.v1 import states_pb2
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.exceptions import AlreadyExistsError, HeliographError, IllegalTransitionError, NotFoundError
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.domain.runs import Phase
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import BulkStatement, Query, array_of, bulk_insert
from heliograph_control_plane.store.database import Row as Values
from heliograph_control_plane.store.events import decode_counts
from heliograph_control_plane.store.flows import requirement_id
from heliograph_control_plane.store.heads import add_states, load_head, save_heads
from heliograph_control_plane.store.paging import decode_token, page_of
from heliograph_control_plane.store.records import (
    FlowRun,
    FlowRunQuery,
    FlowRunStateRecord,
    NewFlowRun,
    Page,
    RequestKey,
    Requirement,
    TaskRun,
    TaskRunStateRecord,
)
from heliograph_control_plane.store.requests import effect_of, find_effects, record_effects
from heliograph_control_plane.store.writer import Transaction

_REMEMBERED_VERSIONS: Final = 1_000

_p = schema.projects.c
_f = schema.flows.c
_v = schema.flow_versions.c
_r = schema.requirements.c
_t = schema.flow_runs.c
_k = schema.task_runs.c
_ks = schema.task_run_states.c

_RUN: Final[Select[Any]] = (
    select(
        _t.id, _t.uuid, _t.run_name, _p.name.label("project"), _f.name.label("flow"), _v.version, _t.state,
        _t.state_micros, _t.parameters_json, _r.labels, _r.launcher, _r.host, _t.create_micros,
        _t.scheduled_micros, _t.start_micros, _t.end_micros, _t.created_by, _t.attempt, _t.epoch, _t.agent,
        _t.failure, _t.last_sequence, _t.presumed_dead, _t.missing_events, _t.counts, _t.cancel_requested,
        _t.heard_micros, _t.phase, _t.version_id, _t.ready_micros, _t.launch_delay, _t.put_backs,
    )
    # All of them are there. An outer join is one from the run to them: PostgreSQL, which counted these tables when they
    # had a row each, would else combine every row of each with every row of the others before it looks at the runs.
    .outerjoin_from(schema.flow_runs, schema.flows, _f.id == _t.flow_id)
    .outerjoin(schema.projects, _p.id == _t.project_id)
    .outerjoin(schema.flow_versions, _v.id == _t.version_id)
    .outerjoin(schema.requirements, _r.id == _t.requirement_id)
)  # fmt: skip

_RUN_BY_UUID: Final = _RUN.where(_t.uuid == bindparam("uuid"))


class Place(Protocol):
    """Where a run belongs: a row of the run query is one, and a flow version."""

    @property
    def project(self) -> str: ...
    @property
    def flow(self) -> str: ...
    @property
    def version(self) -> int: ...


def _run_of(row: Row[Any], now: int) -> FlowRun:
    """Makes a record from a row of the run query, as it is at `now`."""
    needed = Requirement(row.project, row.launcher, row.host, tuple(json.loads(row.labels)))
    return make_run(row, row, needed, now)


def make_run(row: Row[Any], place: Place, needed: Requirement, now: int) -> FlowRun:
    """Makes a record from a row of `flow_runs`, as it is at `now`."""
    state = StateCode(row.state)
    return FlowRun(
        run_id=row.uuid, run_name=row.run_name, project=place.project, flow=place.flow, version=place.version,
        state=state, state_micros=row.state_micros, parameters_json=row.parameters_json,
        labels=needed.labels, launcher=needed.launcher, host=needed.host,
        create_micros=row.create_micros, scheduled_micros=row.scheduled_micros, start_micros=row.start_micros,
        end_micros=row.end_micros, created_by=row.created_by, attempt=row.attempt, epoch=row.epoch,
        agent=row.agent, failure=row.failure or b"", last_sequence=row.last_sequence,
        lost=rules.is_lost(state, Phase(row.phase), row.heard_micros, now),
        presumed_dead=bool(row.presumed_dead), late_micros=rules.lateness(state, row.scheduled_micros, now),
        missing_events=row.missing_events, counts=decode_counts(row.counts),
        cancel_requested=bool(row.cancel_requested), heard_micros=row.heard_micros, ready_micros=row.ready_micros or 0,
        launch_delay=row.launch_delay, put_backs=row.put_backs,
    )  # fmt: skip


def failure_of(reason: FailureCode) -> bytes:
    """A failure that the control plane itself found."""
    return states_pb2.Failure(reason=states_pb2.FailureReason.ValueType(reason)).SerializeToString()


# --- creating -------------------------------------------------------------------------------------------------------

# Built once: building a statement costs more than running it.
_VERSIONS: Final[Select[Any]] = (
    select(
        _f.project_id, _f.id.label("flow_id"), _v.id, _v.version, _v.requirement_id, _r.labels, _r.launcher, _r.host
    )
    .join_from(schema.flow_versions, schema.flows, _f.id == _v.flow_id)
    .join(schema.projects, _p.id == _f.project_id)
    .join(schema.requirements, _r.id == _v.requirement_id)
    .where(_p.name == bindparam("project"), _f.name == bindparam("flow"))
)  # fmt: skip
_NEWEST_VERSION: Final = _VERSIONS.where(_v.version == _f.latest_version)
_VERSION_OF_RUN: Final = _VERSIONS.where(_v.version == bindparam("version"))
_KNOWN_RUNS: Final = Query(
    "SELECT uuid FROM flow_runs WHERE uuid IN (SELECT value FROM json_each(?))",
    "SELECT uuid FROM flow_runs WHERE uuid = ANY(%s::text[])",
)
_RUN_COLUMNS: Final = (
    "uuid", "project_id", "flow_id", "version_id", "requirement_id", "run_name", "parameters_json", "created_by",
    "create_micros", "scheduled_micros", "state", "state_micros", "state_ordinal", "ready_micros", "deadline_micros",
)  # fmt: skip
_INSERT_RUNS: Final = bulk_insert(schema.flow_runs, _RUN_COLUMNS, "RETURNING id, uuid, created_by")
_GIVEN: Final = ", ".join(_RUN_COLUMNS)
_ARRAYS: Final = ", ".join(f"%s::{array_of(schema.flow_runs, name)}" for name in _RUN_COLUMNS)
# Run, first state and request in one statement. A request that another control plane is just making is waited for.
_CREATE: Final = BulkStatement(
    "",
    f"WITH given AS (SELECT * FROM unnest({_ARRAYS}, %s::text[], %s::text[], %s::bytea[])"  # noqa: S608 - names of this file
    f" AS g ({_GIVEN}, scope, request_id, fingerprint)),"
    " fresh AS (SELECT * FROM given WHERE NOT EXISTS (SELECT FROM flow_runs AS r WHERE r.uuid = given.uuid)),"
    " recorded AS (INSERT INTO request_records (scope, request_id, fingerprint, effect, create_micros)"
    "  SELECT scope, request_id, fingerprint, uuid, create_micros FROM fresh WHERE scope IS NOT NULL"
    "  ORDER BY scope, request_id ON CONFLICT DO NOTHING RETURNING effect),"
    f" made AS (INSERT INTO flow_runs ({_GIVEN}) SELECT {_GIVEN} FROM fresh"
    "  WHERE scope IS NULL OR uuid IN (SELECT effect FROM recorded)"
    "  RETURNING id, uuid, state, create_micros, created_by),"
    " entered AS (INSERT INTO flow_run_states"
    "  (run_id, ordinal, state, time_micros, receive_micros, set_by, epoch)"
    "  SELECT id, 1, state, create_micros, create_micros, created_by, 0 FROM made)"
    " SELECT uuid FROM made",
)

Creation: TypeAlias = tuple[NewFlowRun, RequestKey | None]
"""One call: the run, and the request that makes it at most once."""

_Proposal: TypeAlias = tuple[FlowRun, Values, RequestKey | None]


def create_flow_runs(tx: Transaction, calls: list[Creation]) -> list[FlowRun | HeliographError]:
    """Creates the runs of many calls at once; a request that made a run before gets that one again."""
    proposals: list[_Proposal] = []
    refused: dict[int, HeliographError] = {}
    proposed: set[object] = set()
    for number, (new, request) in enumerate(calls):
        try:
            run, row = _new_run(tx, new)
        except HeliographError as error:
            refused[number] = error
            continue
        # Of two calls with one run or one request, the second one gets what the first one makes.
        place = new.run_id if request is None else (request.scope, request.request_id)
        if proposed.isdisjoint((place, new.run_id)):
            proposals.append((run, row, request))
        proposed.update((place, new.run_id))
    made = _make_runs(tx, proposals)
    runs = {run.run_id: run for run, _, _ in proposals if run.run_id in made}
    tx.runs.update(runs)
    for run in runs.values():
        tx.becomes_ready(Requirement(run.project, run.launcher, run.host, run.labels), run.scheduled_micros)
    answers: list[FlowRun | HeliographError] = []
    unused = dict(runs)
    rest: list[int] = []
    for number, (new, _) in enumerate(calls):
        mine = None if number in refused else unused.pop(new.run_id, None)
        if mine is None:
            rest.append(number)
        answers.append(mine or refused.get(number) or AlreadyExistsError(f"flow run {new.run_id} exists"))
    if rest:
        effects = find_effects(tx, [request for n in rest if (request := calls[n][1]) is not None])
        for number in rest:
            if (request := calls[number][1]) is not None:
                answers[number] = _made_before(tx, request, effects, runs) or answers[number]
    return answers


def create_together(tx: Transaction, calls: list[Creation]) -> list[FlowRun]:
    """Creates the runs of all these calls or, when one is refused, of none of them."""
    noted = set(tx.runs), dict(tx.ready)
    together = tx.connection.begin_nested()
    answers = create_flow_runs(tx, calls)
    runs = [answer for answer in answers if isinstance(answer, FlowRun)]
    if len(runs) == len(answers):
        together.commit()
        return runs
    together.rollback()
    tx.runs, tx.ready = noted
    raise next(answer for answer in answers if isinstance(answer, HeliographError))


def _made_before(
    tx: Transaction, request: RequestKey, effects: Mapping[tuple[str, str], tuple[bytes, str]], runs: dict[str, FlowRun]
) -> FlowRun | HeliographError | None:
    try:
        run_id = effect_of(request, effects.get((request.scope, request.request_id)))
        return None if run_id is None else runs.get(run_id) or read_run(tx.connection, run_id, tx.now)
    except HeliographError as error:
        return error


def _make_runs(tx: Transaction, proposals: list[_Proposal]) -> set[str]:
    """Makes the runs whose ids are free and whose requests were not made before; returns the ids of those."""
    if tx.locking:
        rows = [
            (*row, *((None, None, None) if key is None else (key.scope, key.request_id, key.fingerprint)))
            for _, row, key in proposals
        ]
        return {found.uuid for found in _CREATE.run_returning(tx.connection, rows)}
    taken = {found.uuid for found in _KNOWN_RUNS.run(tx.connection, [run.run_id for run, _, _ in proposals])}
    effects = find_effects(tx, [key for _, _, key in proposals if key is not None])
    fresh = [
        (run, row, key)
        for run, row, key in proposals
        if run.run_id not in taken and (key is None or (key.scope, key.request_id) not in effects)
    ]
    state = int(StateCode.SCHEDULED)
    inserted = _INSERT_RUNS.run_returning(tx.connection, [row for _, row, _ in fresh])
    add_states(tx, [(found.id, 1, state, tx.now, tx.now, found.created_by, 0, None) for found in inserted])
    record_effects(tx, [(key, run.run_id) for run, _, key in fresh if key is not None])
    return {found.uuid for found in inserted}


def _new_run(tx: Transaction, new: NewFlowRun) -> tuple[FlowRun, Values]:
    version = _version_of(tx, new)
    requirement, labels = version.requirement_id, tuple(json.loads(version.labels))
    if new.labels is not None and tuple(sorted(set(new.labels))) != labels:
        labels = tuple(sorted(set(new.labels)))
        requirement = requirement_id(tx, version.project_id, version.launcher, version.host, labels)
    scheduled = new.scheduled_micros or tx.now
    row = (
        new.run_id, version.project_id, version.flow_id, version.id, requirement, new.run_name, new.parameters_json,
        new.created_by, tx.now, scheduled, int(StateCode.SCHEDULED), tx.now, 1, scheduled,
        rules.deadline(StateCode.SCHEDULED, Phase.NONE, scheduled),
    )  # fmt: skip
    return FlowRun(
        run_id=new.run_id, run_name=new.run_name, project=new.project, flow=new.flow, version=version.version,
        state=StateCode.SCHEDULED, state_micros=tx.now, parameters_json=new.parameters_json, labels=labels,
        launcher=version.launcher, host=version.host, create_micros=tx.now, scheduled_micros=scheduled,
        start_micros=0, end_micros=0, created_by=new.created_by, attempt=0, epoch=0, agent="", failure=b"",
        last_sequence=0, lost=False, presumed_dead=False, late_micros=max(0, tx.now - scheduled),
        missing_events=0, counts=(), cancel_requested=False, heard_micros=0, ready_micros=scheduled,
    ), row  # fmt: skip


def _version_of(tx: Transaction, new: NewFlowRun) -> Row[Any]:
    """Returns keys and requirement of a version; one that is asked for by number is remembered: it never changes."""
    known: OrderedDict[tuple[str, str, int], Row[Any]] = tx.memory.setdefault("versions_of_runs", OrderedDict())
    place = (new.project, new.flow, new.version)
    if place in known:
        return known[place]
    version = tx.connection.execute(
        _VERSION_OF_RUN if new.version else _NEWEST_VERSION,
        {"project": new.project, "flow": new.flow, "version": new.version},
    ).first()
    if version is None:
        raise NotFoundError(
            f"there is no flow {new.project}/{new.flow}" + (f" version {new.version}" if new.version else "")
        )
    if new.version:
        known[place] = version
        if len(known) > _REMEMBERED_VERSIONS:
            known.popitem(last=False)
    return version


# --- changing -------------------------------------------------------------------------------------------------------


def cancel_flow_run(tx: Transaction, run_id: str, by: str) -> FlowRun:
    """Cancels a run, or asks for its end."""
    head = load_head(tx, run_id)
    target = rules.cancelled_state(head.state)
    if target is None:
        raise IllegalTransitionError(f"the run is {head.state.name.capitalize()}: it cannot be cancelled")
    if target is not head.state:
        head.cancel_requested = 1
        head.enter(target, tx.now, tx.now, by)
        save_heads(tx, [head])
    return read_run(tx.connection, run_id, tx.now)


def confirm_flow_run_dead(tx: Transaction, run_id: str, by: str) -> FlowRun:
    """Takes an operator's word that the process of a lost run is dead. The history says who gave it."""
    head = load_head(tx, run_id)
    if not (head.presumed_dead or rules.is_lost(head.state, head.phase, head.heard_micros, tx.now)):
        raise IllegalTransitionError("the run is not lost")
    head.enter(rules.exited_state(bool(head.cancel_requested)), tx.now, tx.now, by, failure_of(FailureCode.OPERATOR))
    save_heads(tx, [head])
    return read_run(tx.connection, run_id, tx.now)


# --- reading --------------------------------------------------------------------------------------------------------


def read_run(connection: Connection, run_id: str, now: int) -> FlowRun:
    """Returns one run."""
    row = connection.execute(_RUN_BY_UUID, {"uuid": run_id}).first()
    if row is None:
        raise NotFoundError(f"there is no flow run {run_id}")
    return _run_of(row, now)


def read_runs(connection: Connection, run_ids: Sequence[str], now: int) -> tuple[FlowRun, ...]:
    """Returns those of these runs that are there, in the order asked for."""
    rows = {row.uuid: row for row in connection.execute(_RUN.where(_t.uuid.in_(run_ids)))}
    return tuple(_run_of(rows[run_id], now) for run_id in run_ids if run_id in rows)


def list_flow_runs(connection: Connection, query: FlowRunQuery, now: int) -> Page[FlowRun]:
    """Lists runs, newest first."""
    limit = query.page_size + 1
    after = decode_token(query.page_token, int)
    keys = select(_t.id)
    if query.project:
        found = connection.scalar(select(_p.id).where(_p.name == query.project))
        if found is None or (query.scope is not None and query.project not in query.scope):
            raise NotFoundError(f"there is no project {query.project}")
        keys = keys.where(_t.project_id == found)
        if query.flow:
            flow = connection.scalar(select(_f.id).where(_f.project_id == found, _f.name == query.flow))
            if flow is None:
                raise NotFoundError(f"there is no flow {query.project}/{query.flow}")
            keys = keys.where(_t.flow_id == flow)
    elif query.scope is not None:
        keys = keys.where(_t.project_id.in_(select(_p.id).where(_p.name.in_(query.scope))))
    if after is not None:
        keys = keys.where(_t.id < after[0])
    if query.prefix:
        keys = keys.where(
            or_(
                (_t.uuid >= query.prefix) & (_t.uuid < query.prefix + "\U0010ffff"),
                func.substr(_t.run_name, 1, len(query.prefix)) == query.prefix,
            )
        )
    newest = [
        keys.where(_t.state == state).order_by(_t.id.desc()).limit(limit).subquery()
        for state in dict.fromkeys(query.states)
    ] or [keys.order_by(_t.id.desc()).limit(limit).subquery()]
    union = union_all(*(select(part.c.id) for part in newest)).subquery()
    ids = list(connection.scalars(select(union.c.id).order_by(union.c.id.desc()).limit(limit)))
    rows = connection.execute(_RUN.where(_t.id.in_(ids)).order_by(_t.id.desc())).all()
    return page_of(rows, query.page_size, lambda row: _run_of(row, now), lambda row: (row.id,))


def run_key(connection: Connection, run_id: str) -> int:
    """Returns a run's key."""
    key: int | None = connection.scalar(select(_t.id).where(_t.uuid == run_id))
    if key is None:
        raise NotFoundError(f"there is no flow run {run_id}")
    return key


def list_flow_run_states(connection: Connection, run_id: str) -> tuple[FlowRunStateRecord, ...]:
    """Lists the states of a run."""
    table = schema.flow_run_states.c
    query = select(
        table.ordinal, table.state, table.time_micros, table.receive_micros, table.set_by, table.epoch,
        table.failure,
    ).where(table.run_id == run_key(connection, run_id)).order_by(table.ordinal)  # fmt: skip
    return tuple(
        FlowRunStateRecord(ordinal, StateCode(state), time, received, set_by, epoch, failure or b"")
        for ordinal, state, time, received, set_by, epoch, failure in connection.execute(query)
    )


# --- task runs ------------------------------------------------------------------------------------------------------

_TASK: Final[Select[Any]] = select(
    _k.task, _k.map_index, _k.state, _k.state_micros, _k.start_micros, _k.end_micros, _k.run_count, _k.failure,
    _k.child_count, _k.last_sequence, _k.result_stored,
)  # fmt: skip


def _task_run(run_id: str, row: Row[Any]) -> TaskRun:
    return TaskRun(
        run_id, row.task, None if row.map_index < 0 else row.map_index, StateCode(row.state), row.state_micros,
        row.start_micros, row.end_micros, row.run_count, row.failure or b"", row.child_count,
        row.last_sequence, bool(row.result_stored),
    )  # fmt: skip


def get_task_run(connection: Connection, run_id: str, task: int, map_index: int | None) -> TaskRun:
    """Returns one task run."""
    child = -1 if map_index is None else map_index
    row = connection.execute(
        _TASK.where(_k.run_id == run_key(connection, run_id), _k.task == task, _k.map_index == child)
    ).first()
    if row is None:
        raise NotFoundError("there is no such task run")
    return _task_run(run_id, row)


def list_task_runs(
    connection: Connection, run_id: str, states: Sequence[StateCode], size: int, token: str
) -> Page[TaskRun]:
    """Lists task runs by task and map index."""
    query = _TASK.where(_k.run_id == run_key(connection, run_id))
    if states:
        query = query.where(_k.state.in_([int(state) for state in states]))
    if (after := decode_token(token, int, int)) is not None:
        query = query.where(tuple_(_k.task, _k.map_index) > after)
    rows = connection.execute(query.order_by(_k.task, _k.map_index).limit(size + 1)).all()
    return page_of(rows, size, lambda row: _task_run(run_id, row), lambda row: (row.task, row.map_index))


def list_changed_task_runs(
    connection: Connection, run_id: str, epoch: int, after_sequence: int, limit: int
) -> tuple[tuple[TaskRun, ...], int]:
    """Returns task runs that events beyond a sequence changed, and where to go on."""
    key = run_key(connection, run_id)
    events = connection.execute(
        select(_ks.sequence, _ks.task, _ks.map_index)
        .where(_ks.run_id == key, _ks.epoch == epoch, _ks.sequence > after_sequence)
        .order_by(_ks.sequence)
        .limit(limit)
    ).all()
    if not events:
        return (), after_sequence
    places = list({(row.task, row.map_index) for row in events})
    rows: list[Row[Any]] = []
    for start in range(0, len(places), 400):
        part = places[start : start + 400]
        rows.extend(connection.execute(_TASK.where(_k.run_id == key, tuple_(_k.task, _k.map_index).in_(part))))
    rows.sort(key=lambda row: (row.task, row.map_index))
    return tuple(_task_run(run_id, row) for row in rows), events[-1].sequence


def list_task_run_states(
    connection: Connection, run_id: str, task: int | None, map_index: int | None, size: int, token: str
) -> Page[TaskRunStateRecord]:
    """Lists task states in the order in which they happened."""
    query: Select[Any] = select(
        _ks.sequence, _ks.task, _ks.map_index, _ks.state, _ks.time_micros, _ks.run_count, _ks.epoch
    ).where(_ks.run_id == run_key(connection, run_id))
    if task is not None:
        query = query.where(_ks.task == task, _ks.map_index == (-1 if map_index is None else map_index))
    if (after := decode_token(token, int, int)) is not None:
        query = query.where(tuple_(_ks.epoch, _ks.sequence) > after)
    rows = connection.execute(query.order_by(_ks.epoch, _ks.sequence).limit(size + 1)).all()
    return page_of(
        rows,
        size,
        lambda row: TaskRunStateRecord(
            row.sequence, row.task, None if row.map_index < 0 else row.map_index, StateCode(row.state),
            row.time_micros, row.run_count, row.epoch,
        ),
        lambda row: (row.epoch, row.sequence),
    )  # fmt: skip
