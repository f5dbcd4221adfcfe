"""Tokens of named users and services, and run tokens. Only hashes are stored."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Collection
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from heliograph.exceptions import NotFoundError, RequestIdReusedError
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.domain.runs import LATE_REPORTS, SECOND
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Query
from heliograph_control_plane.store.paging import decode_token, page_of
from heliograph_control_plane.store.records import NewToken, Page, RequestKey, RunPrincipal, Scope, Token
from heliograph_control_plane.store.requests import find_effect, record_effects
from heliograph_control_plane.store.writer import Transaction

_k = schema.tokens.c
_rt = schema.run_tokens.c
_t = schema.flow_runs.c

USE_NOTED_EVERY = 60 * SECOND
"""A token's last use is noted to the minute."""


def _token(row: Row[Any]) -> Token:
    return Token(
        row.token_id, row.principal, tuple(json.loads(row.roles)), tuple(json.loads(row.projects)),
        row.create_micros, row.expire_micros, row.last_used_micros, row.revoke_micros, row.created_by,
    )  # fmt: skip


def create_token(tx: Transaction, new: NewToken, request: RequestKey | None) -> Token:
    """Issues a token, or gives the one that the same request made another secret, when it was never used."""
    if request is not None and (made := find_effect(tx, request)) is not None:
        row = _find(tx.connection, made)
        if row is None or row.last_used_micros or row.revoke_micros:
            raise RequestIdReusedError("the token that this request made is in use, or revoked")
        tx.connection.execute(update(schema.tokens).where(_k.token_id == made).values(secret_hash=new.secret_hash))
        tx.tokens = True
        return _token(row)
    principals = schema.principals
    if tx.connection.scalar(select(principals.c.name).where(principals.c.name == new.principal)) is None:
        tx.connection.execute(insert(principals).values(name=new.principal, create_micros=tx.now))
    token_id = secrets.token_hex(8)
    tx.connection.execute(
        insert(schema.tokens).values(
            token_id=token_id, principal=new.principal, roles=json.dumps(sorted(set(new.roles))),
            projects=json.dumps(sorted(set(new.projects))), secret_hash=new.secret_hash,
            create_micros=tx.now, expire_micros=new.expire_micros, last_used_micros=0, revoke_micros=0,
            created_by=new.created_by,
        )
    )  # fmt: skip
    if request is not None:
        record_effects(tx, [(request, token_id)])
    tx.tokens = True
    row = _find(tx.connection, token_id)
    assert row is not None
    return _token(row)


# Asked at every call that brings a token which is not remembered.
_FIND: Final = Query("SELECT * FROM tokens WHERE token_id = ?", "SELECT * FROM tokens WHERE token_id = %s")


def _find(connection: Connection, token_id: str) -> Any:
    return next(iter(_FIND.run(connection, token_id)), None)


def list_tokens(connection: Connection, size: int, token: str, scope: Scope) -> Page[Token]:
    """Lists tokens, newest first: those that reach no further than `scope`."""
    query = select(schema.tokens).order_by(_k.id.desc())
    if (after := decode_token(token, int)) is not None:
        query = query.where(_k.id < after[0])
    if scope is None:
        rows = list(connection.execute(query.limit(size + 1)))
    else:
        rows = list(islice((row for row in connection.execute(query) if _within(row, scope)), size + 1))
    return page_of(rows, size, _token, lambda row: (row.id,))


def revoke_token(tx: Transaction, token_id: str, scope: Scope) -> Token:
    """Ends a token that reaches no further than `scope`; any other is not there."""
    row = _find(tx.connection, token_id)
    if row is None or not _within(row, scope):
        raise NotFoundError("no such token")
    tx.connection.execute(
        update(schema.tokens).where(_k.token_id == token_id, _k.revoke_micros == 0).values(revoke_micros=tx.now)
    )
    tx.tokens = True
    return _token(_find(tx.connection, token_id))


def _within(row: Row[Any], scope: Scope) -> bool:
    if scope is None:
        return True
    try:
        projects = json.loads(row.projects)
    except DAMAGE as error:
        tell_damage("token", row.token_id, error)
        return False
    return bool(projects and scope.issuperset(projects))


_FIND_ALL: Final = Query(
    "SELECT * FROM tokens WHERE token_id IN (SELECT value FROM json_each(?))",
    "SELECT * FROM tokens WHERE token_id = ANY(%s::text[])",
)


def authenticate(connection: Connection, claims: Collection[tuple[str, bytes]], now: int) -> list[Token | None]:
    """Returns, for each pair of a token's id and the hash of a secret, the token when it is good."""
    rows = {row.token_id: row for row in _FIND_ALL.run(connection, list({token_id for token_id, _ in claims}))}
    good: dict[tuple[str, bytes], Token | None] = {}
    for claim in claims:
        if claim not in good:
            row = rows.get(claim[0])
            good[claim] = None if row is None else _when_good(row, claim[1], now)
    return [good[claim] for claim in claims]


def _when_good(row: Any, secret_hash: bytes, now: int) -> Token | None:
    if not hmac.compare_digest(row.secret_hash, secret_hash):
        return None
    if row.revoke_micros or (row.expire_micros and row.expire_micros <= now):
        return None
    try:
        return _token(row)
    except DAMAGE as error:  # it stands for nobody; whoever asks together with it is not concerned
        tell_damage("token", row.token_id, error)
        return None


def note_use(tx: Transaction, token_id: str) -> None:
    """Notes that a token was used, to the minute."""
    tx.connection.execute(
        update(schema.tokens)
        .where(_k.token_id == token_id, _k.last_used_micros <= tx.now - USE_NOTED_EVERY)
        .values(last_used_micros=tx.now)
    )


_HOLDER: Final = (
    "SELECT k.secret_hash, k.used, r.epoch, r.deadline_micros, r.heard_micros, r.presumed_dead, p.name AS project"
    " FROM flow_runs AS r JOIN run_tokens AS k ON k.run_id = r.id JOIN projects AS p ON p.id = r.project_id"
)
_FIND_RUN: Final = Query(f"{_HOLDER} WHERE r.uuid = ? AND k.epoch = ?", f"{_HOLDER} WHERE r.uuid = %s AND k.epoch = %s")


def authenticate_run(
    connection: Connection, run_id: str, epoch: int, secret_hash: bytes, now: int
) -> tuple[RunPrincipal, bool] | None:
    """Returns what a run token stands for, when it is good, and whether this is its first use."""
    if not 0 < epoch < 1 << 62:
        return None
    row = next(iter(_FIND_RUN.run(connection, run_id, epoch)), None)
    if row is None or not hmac.compare_digest(row.secret_hash, secret_hash):
        return None
    finished = row.deadline_micros is None and not row.presumed_dead
    if finished and row.heard_micros + LATE_REPORTS <= now:
        return None
    principal = RunPrincipal(run_id, row.project, epoch, ended=finished or row.epoch != epoch)
    return principal, not row.used


def note_run_use(tx: Transaction, run_id: str, epoch: int) -> None:
    """Notes the first use of a run token: from now on its secret is not replaced."""
    run = select(_t.id).where(_t.uuid == run_id).scalar_subquery()
    tx.connection.execute(update(schema.run_tokens).where(_rt.run_id == run, _rt.epoch == epoch).values(used=1))
