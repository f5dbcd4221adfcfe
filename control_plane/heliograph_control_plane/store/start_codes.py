"""Start codes: what a run's infrastructure is given in place of the run token, and exchanges for it once.

Only hashes are stored: of the code, and of the request that exchanged it. What the agent sealed for the run lies beside
them; its key is not here.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from heliograph.exceptions import IllegalTransitionError, LeaseLostError, NotFoundError, PermissionDeniedError
from heliograph_control_plane.domain.runs import Phase
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.agents import owners
from heliograph_control_plane.store.database import Query
from heliograph_control_plane.store.flows import remembered_requirements
from heliograph_control_plane.store.heads import Head, load_head, load_heads
from heliograph_control_plane.store.records import RunPrincipal, Scope
from heliograph_control_plane.store.writer import Transaction

_sc = schema.start_codes.c
_rt = schema.run_tokens.c


@dataclass(frozen=True, slots=True)
class NewStartCode:
    """A start code to keep. `project` and `scope`: where the caller may have runs; `owner`: whose agents.

    Attributes:
        secret_hash: Hash of its secret.
        sealed: What the run is given with its token.
        lifetime_micros: How long it may be exchanged.
    """

    agent: str
    run_id: str
    epoch: int
    secret_hash: bytes
    sealed: bytes
    lifetime_micros: int
    project: str = ""
    scope: Scope = None
    owner: str = ""


def put(tx: Transaction, new: NewStartCode) -> int:
    """Keeps a start code, in place of one that was not exchanged. Returns when it ends."""
    head = load_heads(tx, {new.run_id}).get(new.run_id)
    project = remembered_requirements(tx)[head.requirement_id].project if head else ""
    if head is None or (new.project or project) != project or not (new.scope is None or project in new.scope):
        raise NotFoundError("no such flow run")
    owned = owners(tx.connection, {new.agent} if new.owner else set())
    if head.epoch != new.epoch or head.agent != new.agent or owned.get(new.agent, new.owner) != new.owner:
        raise LeaseLostError("the run has another lease")
    _check_held(head)
    if _is_used(tx, head.id, new.epoch) or is_exchanged(tx, head.id, new.epoch):
        raise IllegalTransitionError("the run has begun, and needs no start code any more")
    expire = tx.now + new.lifetime_micros
    _forget(tx, head.id, new.epoch)
    tx.connection.execute(
        insert(schema.start_codes).values(
            run_id=head.id, epoch=new.epoch, secret_hash=new.secret_hash, sealed=new.sealed, expire_micros=expire,
            exchange_hash=b"",
        )
    )  # fmt: skip
    return expire


_CODE: Final = (
    "SELECT k.secret_hash, k.expire_micros, r.epoch, r.deadline_micros, r.presumed_dead, p.name AS project"
    " FROM flow_runs AS r JOIN start_codes AS k ON k.run_id = r.id JOIN projects AS p ON p.id = r.project_id"
)
_FIND: Final = Query(f"{_CODE} WHERE r.uuid = ? AND k.epoch = ?", f"{_CODE} WHERE r.uuid = %s AND k.epoch = %s")


def authenticate(
    connection: Connection, run_id: str, epoch: int, secret_hash: bytes, now: int
) -> tuple[RunPrincipal, int] | None:
    """Returns what a start code stands for, when it is good now, and when it ends."""
    if not 0 < epoch < 1 << 62:
        return None
    row: Any = next(iter(_FIND.run(connection, run_id, epoch)), None)
    if row is None or not hmac.compare_digest(row.secret_hash, secret_hash) or row.expire_micros <= now:
        return None
    finished = row.deadline_micros is None and not row.presumed_dead
    return RunPrincipal(run_id, row.project, epoch, ended=finished or row.epoch != epoch), row.expire_micros


def exchange(tx: Transaction, run_id: str, epoch: int, request_hash: bytes, token_hash: bytes) -> bytes:
    """Puts another run token in place of the one that the agent was given. Returns what the agent sealed."""
    head = load_head(tx, run_id)
    if head.epoch != epoch:
        raise LeaseLostError("the run has another lease")
    _check_held(head)
    query = select(_sc.exchange_hash, _sc.sealed).where(_sc.run_id == head.id, _sc.epoch == epoch)
    row = tx.connection.execute(query.with_for_update() if tx.locking else query).first()
    if row is None:
        raise LeaseLostError("the start code has ended")
    spent = bool(row.exchange_hash) and not hmac.compare_digest(row.exchange_hash, request_hash)
    if spent or _is_used(tx, head.id, epoch):
        raise PermissionDeniedError("the start code was exchanged before, by another request")
    if not row.exchange_hash:
        place = (_sc.run_id == head.id, _sc.epoch == epoch)
        tx.connection.execute(update(schema.start_codes).where(*place).values(exchange_hash=request_hash))
        held = (_rt.run_id == head.id, _rt.epoch == epoch)
        tx.connection.execute(update(schema.run_tokens).where(*held).values(secret_hash=token_hash))
        tx.tokens = True
    return bytes(row.sealed)


def is_exchanged(tx: Transaction, run: int, epoch: int) -> bool:
    """True when a run began with a start code: its token is not that of its agent any more."""
    found = tx.connection.scalar(select(_sc.exchange_hash).where(_sc.run_id == run, _sc.epoch == epoch))
    return bool(found)


def prune(tx: Transaction, before_micros: int, limit: int) -> int:
    """Deletes codes that ended before then."""
    rows = tx.connection.execute(
        select(_sc.run_id, _sc.epoch).where(_sc.expire_micros < before_micros).limit(limit)
    ).all()
    for run, epoch in rows:
        _forget(tx, run, epoch)
    return len(rows)


def forget_all(tx: Transaction) -> None:
    """Ends all codes: a restored store does not know which were exchanged since."""
    tx.connection.execute(delete(schema.start_codes))


def _forget(tx: Transaction, run: int, epoch: int) -> None:
    tx.connection.execute(delete(schema.start_codes).where(_sc.run_id == run, _sc.epoch == epoch))


def _check_held(head: Head) -> None:
    if head.phase is not Phase.HELD and not head.presumed_dead:
        raise LeaseLostError("the lease has ended")


def _is_used(tx: Transaction, run: int, epoch: int) -> bool:
    return bool(tx.connection.scalar(select(_rt.used).where(_rt.run_id == run, _rt.epoch == epoch)))
