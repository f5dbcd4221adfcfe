"""The store's own identity, leadership, and rows that are left alone."""

from __future__ import annotations

import uuid
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from heliograph.exceptions import InternalError
from heliograph_control_plane.domain.runs import LATE_REPORTS, START_WITHIN, Phase
from heliograph_control_plane.store import schema, start_codes
from heliograph_control_plane.store.database import Query
from heliograph_control_plane.store.records import Leadership, Quarantined
from heliograph_control_plane.store.requests import prune_records
from heliograph_control_plane.store.writer import Transaction

EPOCH_STEP: Final = 1 << 32
"""By how much epochs are lifted above all older ones when a store was restored."""
_RECORDS_KEPT: Final = 25 * 3600 * 1_000_000

_IDENTITY: Final = Query("SELECT key, value FROM meta", "SELECT key, value FROM meta")

_m = schema.meta.c
_l = schema.leaders.c
_q = schema.quarantined.c
_rt = schema.run_tokens.c
_t = schema.flow_runs.c


def read_identity(connection: Connection) -> tuple[str, int]:
    """Returns the incarnation and the number that all new epochs must exceed."""
    values = {row.key: row.value for row in _IDENTITY.run(connection)}
    try:
        return values["incarnation"], int(values["epoch_base"])
    except KeyError as error:
        raise InternalError("the store has no identity") from error


def mark_restored(tx: Transaction, hold_micros: int) -> tuple[str, int]:
    """Gives the store a new identity after its database was restored from a backup.

    What waited in the backup may run or have ended since: it waits `hold_micros` more, so that whoever has it can say
    so before it is given out again. An offer that the backup knows may have been accepted since: it is forgotten, so
    that its holder is taken in as of any other lease that came after the backup.
    """
    ready = tx.now + hold_micros
    tx.connection.execute(
        update(schema.flow_runs)
        .where(_t.phase == int(Phase.OFFERED))
        .values(
            phase=int(Phase.NONE),
            epoch=_t.epoch - 1,
            agent="",
            ready_micros=ready,
            deadline_micros=ready + START_WITHIN,
        )
    )
    tx.connection.execute(update(schema.flow_runs).where(_t.ready_micros < ready).values(ready_micros=ready))
    start_codes.forget_all(tx)
    tx.tokens = True
    _, base = read_identity(tx.connection)
    incarnation = str(uuid.uuid4())
    for key, value in (("incarnation", incarnation), ("epoch_base", str(base + EPOCH_STEP))):
        tx.connection.execute(update(schema.meta).where(_m.key == key).values(value=value))
    return incarnation, base + EPOCH_STEP


def acquire_leadership(tx: Transaction, name: str, holder: str, ttl_micros: int) -> Leadership | None:
    """Takes or renews a leadership. Every change of holder has a new term.

    A leadership that seems to last longer than any can was taken before the clock was set back: it is over.
    """
    query = select(_l.holder, _l.term, _l.expire_micros).where(_l.name == name)
    row = tx.connection.execute(query.with_for_update() if tx.locking else query).first()
    expire = tx.now + ttl_micros
    if row is None:
        tx.connection.execute(insert(schema.leaders).values(name=name, holder=holder, term=1, expire_micros=expire))
        return Leadership(holder, 1, expire)
    held = tx.now < row.expire_micros <= expire
    if held and row.holder != holder:
        return None
    same = held and row.holder == holder
    term = row.term if same else row.term + 1
    tx.connection.execute(
        update(schema.leaders).where(_l.name == name).values(holder=holder, term=term, expire_micros=expire)
    )
    return Leadership(holder, term, expire)


def release_leadership(tx: Transaction, name: str, holder: str) -> None:
    """Gives a leadership up."""
    tx.connection.execute(update(schema.leaders).where(_l.name == name, _l.holder == holder).values(expire_micros=0))


def prune(tx: Transaction, limit: int) -> int:
    """Deletes old records of requests, and run tokens and start codes that are worthless for good."""
    worthless = (
        select(_rt.run_id, _rt.epoch)
        .join_from(schema.run_tokens, schema.flow_runs, _t.id == _rt.run_id)
        .where(_t.deadline_micros.is_(None), _t.presumed_dead == 0, _t.heard_micros < tx.now - 2 * LATE_REPORTS)
        .limit(limit)
    )
    rows = tx.connection.execute(worthless).all()
    for run, epoch in rows:
        tx.connection.execute(delete(schema.run_tokens).where(_rt.run_id == run, _rt.epoch == epoch))
    codes = start_codes.prune(tx, tx.now - LATE_REPORTS, limit)
    return len(rows) + codes + prune_records(tx, tx.now - _RECORDS_KEPT, limit)


def quarantine(tx: Transaction, kind: str, key: str, reason: str) -> None:
    """Notes a row that could not be worked with."""
    tx.connection.execute(delete(schema.quarantined).where(_q.kind == kind, _q.key == key))
    tx.connection.execute(
        insert(schema.quarantined).values(kind=kind, key=key, reason=reason[:500], time_micros=tx.now)
    )


def release_from_quarantine(tx: Transaction, kind: str, key: str) -> None:
    """Forgets that a row could not be worked with."""
    tx.connection.execute(delete(schema.quarantined).where(_q.kind == kind, _q.key == key))


def list_quarantined(connection: Connection) -> tuple[Quarantined, ...]:
    """Lists quarantined rows, the newest 1,000."""
    rows = connection.execute(select(schema.quarantined).order_by(_q.time_micros.desc()).limit(1000))
    return tuple(Quarantined(*row) for row in rows)
