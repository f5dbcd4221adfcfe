"""Agents: registered, seen, listed, forgotten."""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from heliograph.exceptions import HeliographError, IllegalTransitionError, NotFoundError
from heliograph_control_plane.damage import DAMAGE, readable, tell_damage
from heliograph_control_plane.domain.runs import ONLINE_WITHIN, Phase
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Query
from heliograph_control_plane.store.paging import decode_token, page_of
from heliograph_control_plane.store.records import Agent, AgentSpec, Page, Scope
from heliograph_control_plane.store.writer import Transaction

_a = schema.agents.c
_t = schema.flow_runs.c


def _agent(row: Row[Any], now: int) -> Agent:
    return Agent(
        row.name, row.launcher, tuple(json.loads(row.labels)), row.version, row.host, row.capacity,
        tuple(json.loads(row.projects)), row.running, bool(row.draining), row.create_micros,
        row.last_seen_micros, now - row.last_seen_micros <= ONLINE_WITHIN, row.owner,
    )  # fmt: skip


def register_agent(tx: Transaction, spec: AgentSpec) -> Agent:
    """Makes or renews an agent."""
    values: dict[str, Any] = {
        "launcher": spec.launcher, "labels": json.dumps(sorted(set(spec.labels))), "version": spec.version,
        "host": spec.host, "capacity": spec.capacity, "projects": json.dumps(sorted(set(spec.projects))),
        "draining": 0, "last_seen_micros": tx.now, "owner": spec.owner,
    }  # fmt: skip
    known = tx.connection.execute(update(schema.agents).where(_a.name == spec.name).values(values)).rowcount
    if not known:
        tx.connection.execute(insert(schema.agents).values(name=spec.name, running=0, create_micros=tx.now, **values))
    return get_agent(tx.connection, spec.name, tx.now)


def note_heartbeat(tx: Transaction, name: str, running: int, draining: bool) -> None:
    """Notes that an agent lives. Raises NotFoundError."""
    known = tx.connection.execute(
        update(schema.agents)
        .where(_a.name == name)
        .values(running=running, draining=int(draining), last_seen_micros=tx.now)
    ).rowcount
    if not known:
        raise NotFoundError(f"there is no agent {name}")


_FIND: Final = Query("SELECT * FROM agents WHERE name = ?", "SELECT * FROM agents WHERE name = %s")


_FIND_ALL: Final = Query(
    "SELECT * FROM agents WHERE name IN (SELECT value FROM json_each(?))",
    "SELECT * FROM agents WHERE name = ANY(%s::text[])",
)


def get_agent(connection: Connection, name: str, now: int) -> Agent:
    """Returns one agent."""
    found = _FIND.run(connection, name)
    if not found:
        raise NotFoundError(f"there is no agent {name}")
    return _agent(found[0], now)


def get_agents(connection: Connection, names: Collection[str], now: int) -> list[Agent | HeliographError]:
    """Returns the agents of these names, or that there is none."""
    rows = _FIND_ALL.run(connection, list(set(names)))
    found = {agent.name: agent for agent in readable(rows, lambda row: _agent(row, now), lambda row: row.name)}
    return [found.get(name) or NotFoundError(f"there is no agent {name}") for name in names]


def _works_for(row: Row[Any], scope: frozenset[str]) -> bool:
    try:
        projects = json.loads(row.projects)
    except DAMAGE as error:
        tell_damage("agent", row.name, error)
        return False
    return not projects or bool(scope & set(projects))


def list_agents(connection: Connection, size: int, token: str, now: int, scope: Scope) -> Page[Agent]:
    """Lists agents by name: those that work for a project of `scope`, and no trace of the others."""
    query = select(schema.agents).order_by(_a.name)
    if (after := decode_token(token, str)) is not None:
        query = query.where(_a.name > after[0])
    if scope is None:
        rows = list(connection.execute(query.limit(size + 1)))
    else:
        seen = (row for row in connection.execute(query) if _works_for(row, scope))
        rows = list(islice(seen, size + 1))
    return page_of(rows, size, lambda row: _agent(row, now), lambda row: (row.name,))


_OWNERS: Final = Query(
    "SELECT name, owner FROM agents WHERE name IN (SELECT value FROM json_each(?))",
    "SELECT name, owner FROM agents WHERE name = ANY(%s::text[])",
)


def owners(connection: Connection, names: Collection[str]) -> dict[str, str]:
    """Returns whose these agents are; those of nobody are left out."""
    return {name: owner for name, owner in _OWNERS.run(connection, list(names)) if owner} if names else {}


def delete_agent(tx: Transaction, name: str) -> None:
    """Forgets an agent that holds nothing."""
    held = select(_t.id).where(_t.agent == name, _t.phase.in_([Phase.OFFERED, Phase.HELD])).limit(1)
    if tx.connection.scalar(held) is not None:
        raise IllegalTransitionError(f"agent {name} holds leases")
    tx.connection.execute(delete(schema.agents).where(_a.name == name))
