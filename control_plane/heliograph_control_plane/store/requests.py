"""Records of requests: what an intent did, stored with its effect in one transaction."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from heliograph.exceptions import RequestIdReusedError
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.records import RequestKey
from heliograph_control_plane.store.writer import Transaction

_q = schema.request_records.c


def find_effect(tx: Transaction, request: RequestKey) -> str | None:
    """Returns what this request did before; None when it is new. Raises RequestIdReusedError."""
    row = tx.connection.execute(
        select(_q.fingerprint, _q.effect).where(_q.scope == request.scope, _q.request_id == request.request_id)
    ).first()
    if row is None:
        return None
    if row.fingerprint != request.fingerprint:
        raise RequestIdReusedError(f"request id {request.request_id} was used before with other content")
    effect: str = row.effect
    return effect


def record_effect(tx: Transaction, request: RequestKey, effect: str) -> None:
    """Notes what a request did."""
    tx.connection.execute(
        insert(schema.request_records).values(
            scope=request.scope, request_id=request.request_id, fingerprint=request.fingerprint,
            effect=effect, create_micros=tx.now,
        )
    )  # fmt: skip


def prune_records(tx: Transaction, before_micros: int, limit: int) -> int:
    """Deletes old records; returns how many."""
    old = (
        select(_q.scope, _q.request_id).where(_q.create_micros < before_micros).order_by(_q.create_micros).limit(limit)
    )
    rows = tx.connection.execute(old).all()
    for scope, request_id in rows:
        tx.connection.execute(delete(schema.request_records).where(_q.scope == scope, _q.request_id == request_id))
    return len(rows)
