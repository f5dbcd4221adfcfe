"""Records of requests: what an intent did, stored with its effect in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from sqlalchemy import delete, select

from heliograph.exceptions import RequestIdReusedError
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Query, bulk_insert
from heliograph_control_plane.store.records import RequestKey
from heliograph_control_plane.store.writer import Transaction

_q = schema.request_records.c
_FIND: Final = Query(
    "SELECT r.scope, r.request_id, r.fingerprint, r.effect FROM json_each(?) AS w CROSS JOIN request_records AS r"
    " ON r.scope = w.value ->> 0 AND r.request_id = w.value ->> 1",
    "SELECT r.scope, r.request_id, r.fingerprint, r.effect FROM unnest(%s::text[], %s::text[]) AS w (scope, id)"
    " JOIN request_records AS r ON r.scope = w.scope AND r.request_id = w.id",
)
_RECORD: Final = bulk_insert(schema.request_records, ("scope", "request_id", "fingerprint", "effect", "create_micros"))


def find_effects(tx: Transaction, requests: Collection[RequestKey]) -> dict[tuple[str, str], tuple[bytes, str]]:
    """Returns, of the requests that were made before, fingerprint and effect by scope and id."""
    if not requests:
        return {}
    pairs = [(request.scope, request.request_id) for request in requests]
    if tx.locking:
        rows = _FIND.run(tx.connection, *(list(column) for column in zip(*pairs, strict=True)))
    else:
        rows = _FIND.run(tx.connection, pairs)
    return {(scope, request_id): (bytes(fingerprint), effect) for scope, request_id, fingerprint, effect in rows}


def find_effect(tx: Transaction, request: RequestKey) -> str | None:
    """Returns what this request did before; None when it is new. Raises RequestIdReusedError."""
    return effect_of(request, find_effects(tx, (request,)).get((request.scope, request.request_id)))


def effect_of(request: RequestKey, found: tuple[bytes, str] | None) -> str | None:
    """Returns the effect that was found. Raises RequestIdReusedError when the request said something else then."""
    if found is None:
        return None
    if found[0] != request.fingerprint:
        raise RequestIdReusedError(f"request id {request.request_id} was used before with other content")
    return found[1]


def record_effects(tx: Transaction, effects: Iterable[tuple[RequestKey, str]]) -> None:
    """Notes what requests did."""
    rows = [(key.scope, key.request_id, key.fingerprint, effect, tx.now) for key, effect in effects]
    _RECORD.run(tx.connection, rows)


def prune_records(tx: Transaction, before_micros: int, limit: int) -> int:
    """Deletes old records; returns how many."""
    old = (
        select(_q.scope, _q.request_id).where(_q.create_micros < before_micros).order_by(_q.create_micros).limit(limit)
    )
    rows = tx.connection.execute(old).all()
    for scope, request_id in rows:
        tx.connection.execute(delete(schema.request_records).where(_q.scope == scope, _q.request_id == request_id))
    return len(rows)
