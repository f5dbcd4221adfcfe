"""The store with a planted bug each: what the checks must find."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from heliograph.engine.codes import StateCode
from heliograph_control_plane.domain import batches
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.store import migrate
from heliograph_control_plane.store.database import Database
from heliograph_control_plane.store.heads import load_heads, save_heads
from heliograph_control_plane.store.leases import LeaseStore
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import Lease, Reaped, Scope
from heliograph_control_plane.store.sql_store import SqlStore
from heliograph_control_plane.store.writer import Transaction, Writer


class AckBeforeCommit(Writer):
    """Answers when the statements ran, and commits a little later."""

    def _execute(self, transaction: Transaction, calls: list[Any]) -> list[Any]:
        outcomes = super()._execute(transaction, calls)
        self._answer(outcomes, None)
        time.sleep(0.02)
        return outcomes


class AckBeforeCommitStore(SqlStore):
    """A store with that writer."""

    def _make_writer(self, name: str) -> Writer:
        return AckBeforeCommit(self._database, self._database.main, self._subscribers, name)


class _TwoStepLeases(LeaseStore):
    """Looks for claimable runs in one step and takes them, unconditionally, in another."""

    def __init__(self, database: Database, incarnation: str) -> None:
        super().__init__(incarnation, 0)
        self._database = database

    def _take(self, tx: Transaction, fitting: list[int], places: list[str]) -> list[Any]:
        with self._database.reading.connect() as reader:
            keys = reader.scalars(
                text("SELECT id FROM flow_runs WHERE ready_micros <= :now ORDER BY ready_micros, id LIMIT :n"),
                {"now": tx.now, "n": len(places)},
            ).all()
        return [
            tx.connection.execute(
                text(
                    "UPDATE flow_runs SET phase = 1, epoch = epoch + 1, agent = :agent, ready_micros = NULL,"
                    " heard_micros = :now, deadline_micros = :now + 30000000 WHERE id = :key RETURNING *"
                ),
                {"agent": agent, "now": tx.now, "key": key},
            ).one()
            for key, agent in zip(keys, places, strict=False)
        ]


class NonAtomicClaimStore(SqlStore):
    """A store with that claim."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._leases = _TwoStepLeases(database, self.incarnation)


class ForgetfulStore(SqlStore):
    """Does not know which request a claim was: asked again, it gives other runs."""

    def lease_flow_runs(
        self, agent: str, request_id: str, max_runs: int, scope: Scope = None
    ) -> Pending[tuple[Lease, ...]]:
        return super().lease_flow_runs(agent, "", max_runs, scope)


class CarelessReaperStore(SqlStore):
    """Finds what is due in one step, and ends it in another, whatever happened in between."""

    def reap(self, limit: int = 500) -> Pending[Reaped]:
        due = self._read(lambda connection: connection.execute(_DUE, {"now": self.now()}).all()).result()

        def end(tx: Transaction) -> Reaped:
            heads = load_heads(tx, [uuid for uuid, _ in due])
            phases = dict(due)
            requeued, crashed = [], []
            for head in heads.values():
                if phases[head.uuid] == rules.Phase.OFFERED:
                    head.queue(tx.now)
                    requeued.append(head.uuid)
                else:
                    head.enter(StateCode.CRASHED, tx.now, tx.now, "control-plane")
                    head.presumed_dead = 1
                    crashed.append(head.uuid)
            save_heads(tx, heads.values())
            return Reaped(tuple(requeued), tuple(crashed), False)

        return self._write(end)


_DUE = text(
    "SELECT uuid, phase FROM flow_runs WHERE (phase = 1 AND deadline_micros <= :now)"
    f" OR (phase = 2 AND heard_micros + {rules.LOST_AFTER} <= :now)"
)


def overwrite_the_end(current: StateCode, target: StateCode) -> StateCode | None:
    """The rules of a reported state without the one that an end is final."""
    return target if target is not current else None


def accept_any_epoch(known: batches.Writer, incarnation: str, **batch: Any) -> batches.Verdict:
    """The rules of a batch without the fence."""
    return _accept_batch(known, incarnation, **(batch | {"epoch": known.epoch}))


_accept_batch = batches.accept_batch


def opener(kind: type[SqlStore]) -> Callable[..., SqlStore]:
    """Opens a variant as `open_store` opens the store."""

    def open_variant(url: str, clock: Callable[[], int] | None = None) -> SqlStore:
        database = Database(url, clock)
        migrate.migrate(database)
        return kind(database)

    return open_variant
