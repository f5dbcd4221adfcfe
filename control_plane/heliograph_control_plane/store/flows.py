"""Projects, flows, versions and schedules."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, tuple_, update

from heliograph.engine.codes import StateCode
from heliograph.exceptions import AlreadyExistsError, HeliographError, NotFoundError
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.domain.runs import Phase
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.admin import quarantine, release_from_quarantine
from heliograph_control_plane.store.database import Query
from heliograph_control_plane.store.heads import add_states
from heliograph_control_plane.store.paging import decode_token, page_of
from heliograph_control_plane.store.records import (
    Flow,
    FlowVersion,
    NewFlowVersion,
    Occurrence,
    Page,
    Project,
    Registered,
    Requirement,
    Schedule,
    Scope,
)
from heliograph_control_plane.store.writer import Transaction

_REMEMBERED_VERSIONS: Final = 500
_REMEMBERED_GRAPH_BYTES: Final = 16 << 20

_p = schema.projects.c
_f = schema.flows.c
_v = schema.flow_versions.c
_r = schema.requirements.c
_s = schema.schedules.c
_runs = schema.flow_runs.c


# --- projects -------------------------------------------------------------------------------------------------------

_FLOW_COUNT = select(func.count()).where(_f.project_id == _p.id).correlate(schema.projects).scalar_subquery()
_PROJECT = select(_p.name, _p.description, _p.create_micros, _FLOW_COUNT)


def create_project(tx: Transaction, name: str, description: str) -> Project:
    """Creates a project, or returns the equal one."""
    row = tx.connection.execute(_PROJECT.where(_p.name == name)).first()
    if row is not None:
        if row.description != description:
            raise AlreadyExistsError(f"project {name} exists with another description")
        return Project(*row)
    tx.connection.execute(insert(schema.projects).values(name=name, description=description, create_micros=tx.now))
    return Project(name, description, tx.now)


def get_project(connection: Connection, name: str) -> Project:
    """Returns one project."""
    row = connection.execute(_PROJECT.where(_p.name == name)).first()
    if row is None:
        raise NotFoundError(f"there is no project {name}")
    return Project(*row)


def list_projects(connection: Connection, scope: Scope, size: int, token: str) -> Page[Project]:
    """Lists projects by name."""
    query = _PROJECT.order_by(_p.name).limit(size + 1)
    if scope is not None:
        query = query.where(_p.name.in_(scope))
    if (after := decode_token(token, str)) is not None:
        query = query.where(_p.name > after[0])
    return page_of(connection.execute(query).all(), size, lambda row: Project(*row), lambda row: (row.name,))


def project_id(connection: Connection, name: str) -> int:
    """Returns a project's key."""
    found: int | None = connection.scalar(select(_p.id).where(_p.name == name))
    if found is None:
        raise NotFoundError(f"there is no project {name}")
    return found


# --- requirements ---------------------------------------------------------------------------------------------------


def requirement_id(tx: Transaction, project: int, launcher: str, host: str, labels: Sequence[str]) -> int:
    """Returns the key of what an agent must offer; equal requirements share one row."""
    encoded = json.dumps(sorted(set(labels)))
    query = select(_r.id).where(
        _r.project_id == project, _r.launcher == launcher, _r.host == host, _r.labels == encoded
    )
    found: int | None = tx.connection.scalar(query)
    if found is None:
        found = tx.connection.scalar(
            insert(schema.requirements)
            .values(project_id=project, launcher=launcher, host=host, labels=encoded)
            .returning(_r.id)
        )
        assert found is not None
    return found


def read_requirements(connection: Connection, ids: Sequence[int] | None = None) -> dict[int, Requirement]:
    """Returns requirements by key; all of them without `ids`."""
    query = select(_r.id, _p.name, _r.launcher, _r.host, _r.labels).join(schema.projects, _p.id == _r.project_id)
    return {
        key: Requirement(project, launcher, host, _labels(key, labels))
        for key, project, launcher, host, labels in connection.execute(
            query if ids is None else query.where(_r.id.in_(ids))
        )
    }


def _labels(key: int, text: str) -> tuple[str, ...]:
    """Returns the labels of a requirement; those of a damaged row are ones that no agent can have."""
    try:
        return tuple(json.loads(text))
    except DAMAGE as error:
        tell_damage("requirement", str(key), error)
        return ("\0",)


# Requirements are only ever added. Several writers may commit them out of the order of their keys.
_NEWEST_REQUIREMENT: Final = Query("SELECT max(id), 0 FROM requirements", "SELECT max(id), count(*) FROM requirements")


def remembered_requirements(tx: Transaction) -> dict[int, Requirement]:
    """Returns all requirements by key; the same dict as long as there are no new ones."""
    newest = tuple(_NEWEST_REQUIREMENT.run(tx.connection)[0])
    known: tuple[object, dict[int, Requirement]] | None = tx.memory.get("requirements")
    if known is None or known[0] != newest:
        known = tx.memory["requirements"] = (newest, read_requirements(tx.connection))
        tx.memory.pop("fitting", None)
    return known[1]


# --- flows and versions ---------------------------------------------------------------------------------------------

_VERSION_COLUMNS: Final = (
    _v.version, _v.content_hash, _v.graph, _v.bundle, _v.launch, _v.schedule, _r.labels, _r.launcher, _r.host,
    _v.create_micros, _v.created_by,
)  # fmt: skip


def _version_query() -> Select[Any]:
    return (
        select(_p.name.label("project"), _f.name.label("flow"), *_VERSION_COLUMNS)
        .join_from(schema.flow_versions, schema.flows, _f.id == _v.flow_id)
        .join(schema.projects, _p.id == _f.project_id)
        .join(schema.requirements, _r.id == _v.requirement_id)
    )


def _version(row: Row[Any], *, with_graph: bool = True) -> FlowVersion:
    return FlowVersion(
        row.project, row.flow, row.version, row.content_hash, row.graph if with_graph else b"", row.bundle,
        row.launch, row.schedule, tuple(json.loads(row.labels)), row.launcher, row.host, row.create_micros,
        row.created_by,
    )  # fmt: skip


def remembered_versions(tx: Transaction, ids: Collection[int]) -> dict[int, FlowVersion]:
    """Returns versions by key, with their graphs. Those that are asked for again and again are kept: none changes."""
    known: OrderedDict[int, FlowVersion] = tx.memory.setdefault("versions", OrderedDict())
    found = {key: known[key] for key in ids if key in known}
    for key in found:
        known.move_to_end(key)
    if missing := [key for key in ids if key not in found]:
        query = _version_query().add_columns(_v.id).where(_v.id.in_(missing))
        for row in tx.connection.execute(query):
            found[row.id] = known[row.id] = _version(row)
        size = sum(len(version.graph) for version in known.values())
        while len(known) > 1 and (len(known) > _REMEMBERED_VERSIONS or size > _REMEMBERED_GRAPH_BYTES):
            size -= len(known.popitem(last=False)[1].graph)
    return found


def register_flow_version(tx: Transaction, new: NewFlowVersion) -> Registered:
    """Makes the newest version of a flow, unless it has this content already."""
    project = project_id(tx.connection, new.project)
    query = select(_f.id, _f.latest_version).where(_f.project_id == project, _f.name == new.flow)
    row = tx.connection.execute(query.with_for_update() if tx.locking else query).first()
    if row is not None:
        newest = tx.connection.execute(
            _version_query().where(_v.flow_id == row.id, _v.version == row.latest_version)
        ).one()
        if newest.content_hash == new.content_hash:
            return Registered(_version(newest), created=False)
        flow, number = row.id, row.latest_version + 1
        tx.connection.execute(
            update(schema.flows).where(_f.id == flow).values(latest_version=number, update_micros=tx.now)
        )
    else:
        number = 1
        flow = tx.connection.scalar(
            insert(schema.flows)
            .values(
                project_id=project, name=new.flow, latest_version=1, create_micros=tx.now,
                update_micros=tx.now,
            )
            .returning(_f.id)
        )  # fmt: skip
        assert flow is not None
    requirement = requirement_id(tx, project, new.launcher, new.host, new.labels)
    version_id = tx.connection.scalar(
        insert(schema.flow_versions)
        .values(
            flow_id=flow, version=number, content_hash=new.content_hash, graph=new.graph, bundle=new.bundle,
            launch=new.launch, schedule=new.schedule, requirement_id=requirement, create_micros=tx.now,
            created_by=new.created_by,
        )
        .returning(_v.id)
    )  # fmt: skip
    _replace_schedule(tx, flow, number, new)
    made = tx.connection.execute(_version_query().where(_v.id == version_id)).one()
    return Registered(_version(made), created=True)


def get_flow_version(connection: Connection, project: str, flow: str, version: int) -> FlowVersion:
    """Returns one version; 0 means the newest."""
    wanted = _f.latest_version if version == 0 else version
    row = connection.execute(_version_query().where(_p.name == project, _f.name == flow, _v.version == wanted)).first()
    if row is None:
        raise NotFoundError(f"there is no flow {project}/{flow}" + (f" version {version}" if version else ""))
    return _version(row)


def list_flow_versions(connection: Connection, project: str, flow: str, size: int, token: str) -> Page[FlowVersion]:
    """Lists versions, newest first."""
    get_flow(connection, project, flow)
    query = _version_query().where(_p.name == project, _f.name == flow).order_by(_v.version.desc())
    if (after := decode_token(token, int)) is not None:
        query = query.where(_v.version < after[0])
    rows = connection.execute(query.limit(size + 1)).all()
    return page_of(rows, size, lambda row: _version(row, with_graph=False), lambda row: (row.version,))


def _flow_query() -> Select[Any]:
    return (
        select(
            _p.name.label("project"), _f.name.label("flow"), _f.latest_version, _r.labels, _f.create_micros,
            _f.update_micros, _s.id.label("schedule_id"), _s.version, _s.spec, _s.paused,
            _s.active_since_micros, _s.quarantine,
        )
        .join_from(schema.flows, schema.projects, _p.id == _f.project_id)
        .join(schema.flow_versions, (_v.flow_id == _f.id) & (_v.version == _f.latest_version))
        .join(schema.requirements, _r.id == _v.requirement_id)
        .outerjoin(schema.schedules, _s.flow_id == _f.id)
    )  # fmt: skip


def _schedule(row: Row[Any]) -> Schedule:
    return Schedule(
        row.schedule_id, row.project, row.flow, row.version, row.spec, bool(row.paused),
        row.active_since_micros, row.quarantine,
    )  # fmt: skip


def _flow(row: Row[Any]) -> Flow:
    return Flow(
        row.project, row.flow, row.latest_version, tuple(json.loads(row.labels)), row.create_micros,
        row.update_micros, None if row.schedule_id is None else _schedule(row),
    )  # fmt: skip


_LATEST: Final = Query(
    "SELECT f.latest_version FROM flows AS f JOIN projects AS p ON p.id = f.project_id WHERE p.name = ? AND f.name = ?",
    "SELECT f.latest_version FROM flows AS f JOIN projects AS p ON p.id = f.project_id"
    " WHERE p.name = %s AND f.name = %s",
)


def latest_versions(connection: Connection, places: Collection[tuple[str, str]]) -> list[int | HeliographError]:
    """Returns, for each pair of project and flow, the number of its newest version, or that there is no such flow."""
    found: dict[tuple[str, str], int | HeliographError] = {}
    for project, flow in set(places):
        rows = _LATEST.run(connection, project, flow)
        missing = NotFoundError(f"there is no flow {project}/{flow}")
        found[project, flow] = int(rows[0].latest_version) if rows else missing
    return [found[place] for place in places]


def get_flow(connection: Connection, project: str, flow: str) -> Flow:
    """Returns one flow."""
    row = connection.execute(_flow_query().where(_p.name == project, _f.name == flow)).first()
    if row is None:
        raise NotFoundError(f"there is no flow {project}/{flow}")
    return _flow(row)


def _by_project_and_flow(query: Select[Any], project: str, scope: Scope, size: int, token: str) -> Select[Any]:
    if project:
        query = query.where(_p.name == project)
    if scope is not None:
        query = query.where(_p.name.in_(scope))
    if (after := decode_token(token, str, str)) is not None:
        query = query.where(tuple_(_p.name, _f.name) > after)
    return query.order_by(_p.name, _f.name).limit(size + 1)


def list_flows(connection: Connection, project: str, scope: Scope, size: int, token: str) -> Page[Flow]:
    """Lists flows by project and name."""
    rows = connection.execute(_by_project_and_flow(_flow_query(), project, scope, size, token)).all()
    return page_of(rows, size, _flow, lambda row: (row.project, row.flow))


# --- schedules ------------------------------------------------------------------------------------------------------


def _replace_schedule(tx: Transaction, flow: int, version: int, new: NewFlowVersion) -> None:
    # Locked first: a leader at another control plane may be making runs of it.
    query = select(_s.id, _s.paused).where(_s.flow_id == flow)
    row = tx.connection.execute(query.with_for_update() if tx.locking else query).first()
    if row is not None:
        _drop_unstarted(tx, row.id, after=tx.now)
        release_from_quarantine(tx, "schedule", str(row.id))
    tx.schedules = tx.schedules or row is not None or bool(new.schedule)
    if row is not None and new.schedule:
        tx.connection.execute(
            update(schema.schedules)
            .where(_s.id == row.id)
            .values(version=version, spec=new.schedule, active_since_micros=tx.now, quarantine="")
        )
    elif row is not None:
        tx.connection.execute(delete(schema.schedules).where(_s.id == row.id))
    elif new.schedule:
        tx.connection.execute(
            insert(schema.schedules).values(
                flow_id=flow, version=version, spec=new.schedule, paused=int(new.schedule_paused),
                active_since_micros=tx.now, quarantine="",
            )
        )  # fmt: skip


def _drop_unstarted(tx: Transaction, schedule: int, after: int) -> None:
    """Deletes runs that a schedule made for later than `after` and that nobody has leased."""
    doomed = (
        (_runs.schedule_id == schedule)
        & (_runs.state == StateCode.SCHEDULED)
        & (_runs.phase == Phase.NONE)
        & (_runs.attempt == 0)
        & (_runs.scheduled_micros > after)
    )
    gone = tx.connection.execute(delete(schema.flow_runs).where(doomed).returning(_runs.id, _runs.uuid)).all()
    states = schema.flow_run_states
    for start in range(0, len(gone), 500):
        ids = [row.id for row in gone[start : start + 500]]
        tx.connection.execute(delete(states).where(states.c.run_id.in_(ids)))
    tx.runs.update(row.uuid for row in gone)


def get_schedule(connection: Connection, project: str, flow: str) -> Schedule:
    """Returns a flow's schedule."""
    schedule = get_flow(connection, project, flow).schedule
    if schedule is None:
        raise NotFoundError(f"flow {project}/{flow} has no schedule")
    return schedule


def list_schedules(connection: Connection, project: str, scope: Scope, size: int, token: str) -> Page[Schedule]:
    """Lists schedules by project and flow."""
    query = _flow_query().where(_s.id.is_not(None))
    rows = connection.execute(_by_project_and_flow(query, project, scope, size, token)).all()
    return page_of(rows, size, _schedule, lambda row: (row.project, row.flow))


def list_active_schedules(connection: Connection, after_id: int, limit: int) -> tuple[Schedule, ...]:
    """Lists schedules that make runs, by key."""
    query = _flow_query().where(_s.id > after_id, _s.paused == 0, _s.quarantine == "")
    return tuple(_schedule(row) for row in connection.execute(query.order_by(_s.id).limit(limit)))


def set_schedule_paused(tx: Transaction, project: str, flow: str, paused: bool) -> Schedule:
    """Pauses or resumes a schedule."""
    schedule = get_schedule(tx.connection, project, flow)
    if tx.locking:
        tx.connection.execute(select(_s.id).where(_s.id == schedule.schedule_id).with_for_update())
        schedule = get_schedule(tx.connection, project, flow)
    if schedule.paused != paused:
        if paused:
            _drop_unstarted(tx, schedule.schedule_id, after=-1)
        values = {"paused": int(paused)} | ({} if paused else {"active_since_micros": tx.now})
        tx.connection.execute(update(schema.schedules).where(_s.id == schedule.schedule_id).values(values))
        tx.schedules = True
    return get_schedule(tx.connection, project, flow)


def quarantine_schedule(tx: Transaction, schedule_id: int, reason: str) -> None:
    """Takes a schedule out of the scheduler's list."""
    tx.connection.execute(update(schema.schedules).where(_s.id == schedule_id).values(quarantine=reason[:500]))
    quarantine(tx, "schedule", str(schedule_id), reason)
    tx.schedules = True


def insert_occurrences(tx: Transaction, occurrences: Sequence[Occurrence]) -> tuple[str, ...]:
    """Makes runs of occurrences that have none."""
    query = (
        select(_s.id, _s.version, _s.paused, _f.id.label("flow_id"), _f.project_id, _v.id.label("version_id"),
               _v.requirement_id, _r.launcher, _r.host)
        .join_from(schema.schedules, schema.flows, _f.id == _s.flow_id)
        .join(schema.flow_versions, (_v.flow_id == _f.id) & (_v.version == _s.version))
        .join(schema.requirements, _r.id == _v.requirement_id)
        .where(_s.id.in_({one.schedule_id for one in occurrences}))
        .order_by(_s.id)
    )  # fmt: skip
    if tx.locking:
        # Held until the runs are committed: who pauses or replaces the schedule meanwhile waits, and finds them.
        query = query.with_for_update(read=True, of=schema.schedules)
    schedules = {row.id: row for row in tx.connection.execute(query)}
    rows: list[dict[str, object]] = []
    for one in occurrences:
        schedule = schedules.get(one.schedule_id)
        if schedule is None or schedule.paused or schedule.version != one.version:
            continue
        requirement = schedule.requirement_id
        if one.labels is not None:
            requirement = requirement_id(tx, schedule.project_id, schedule.launcher, schedule.host, one.labels)
        rows.append(
            {
                "uuid": one.run_id, "project_id": schedule.project_id, "flow_id": schedule.flow_id,
                "version_id": schedule.version_id, "requirement_id": requirement,
                "schedule_id": one.schedule_id, "occurrence": one.key, "run_name": one.run_name,
                "parameters_json": one.parameters_json, "created_by": "schedule",
                "create_micros": tx.now, "scheduled_micros": one.scheduled_micros,
                "state": int(StateCode.SCHEDULED), "state_micros": tx.now, "state_ordinal": 1,
                "ready_micros": one.scheduled_micros,
                "deadline_micros": rules.deadline(StateCode.SCHEDULED, Phase.NONE, one.scheduled_micros),
            }
        )  # fmt: skip
    made: list[Row[Any]] = []
    for start in range(0, len(rows), 500):
        made.extend(_insert_unless_there(tx, rows[start : start + 500]))
    add_states(
        tx,
        [(row.id, 1, int(StateCode.SCHEDULED), tx.now, tx.now, "control-plane", 0, None) for row in made],
    )
    requirements = read_requirements(tx.connection, list({row.requirement_id for row in made}))
    for row in made:
        tx.runs.add(row.uuid)
        tx.becomes_ready(requirements[row.requirement_id], row.ready_micros)
    return tuple(row.uuid for row in made)


def _insert_unless_there(tx: Transaction, rows: list[dict[str, object]]) -> Sequence[Row[Any]]:
    if tx.locking:
        from sqlalchemy.dialects.postgresql import insert as upsert
    else:
        from sqlalchemy.dialects.sqlite import insert as upsert  # type: ignore[assignment]
    statement = (
        upsert(schema.flow_runs)
        .on_conflict_do_nothing()
        .returning(_runs.id, _runs.uuid, _runs.requirement_id, _runs.ready_micros)
    )
    return tx.connection.execute(statement, rows).all()
