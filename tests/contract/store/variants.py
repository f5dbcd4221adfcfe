"""The store with a planted bug each: what the checks must find."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from heliograph_control_plane.domain import batches
from heliograph_control_plane.store import migrate
from heliograph_control_plane.store.database import Database
from heliograph_control_plane.store.leases import LeaseStore
from heliograph_control_plane.store.pending import wake_all
from heliograph_control_plane.store.sql_store import SqlStore
from heliograph_control_plane.store.writer import Transaction, Writer


class AckBeforeCommit(Writer):
    """Answers when the statements ran, and commits a little later."""

    def _execute(self, transaction: Transaction, calls: list[Any]) -> list[Any]:
        outcomes = super()._execute(transaction, calls)
        wake_all([w for call, value in outcomes if (w := call.pending.settle(value)) is not None])
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

    def _take(self, tx: Transaction, agent: str, fitting: list[int], count: int) -> list[tuple[int, int]]:
        with self._database.reading.connect() as reader:
            keys = reader.scalars(
                text("SELECT id FROM flow_runs WHERE ready_micros <= :now ORDER BY ready_micros, id LIMIT :n"),
                {"now": tx.now, "n": count},
            ).all()
        taken: list[tuple[int, int]] = []
        for key in keys:
            epoch = tx.connection.scalar(
                text(
                    "UPDATE flow_runs SET phase = 1, epoch = epoch + 1, agent = :agent, ready_micros = NULL,"
                    " heard_micros = :now, deadline_micros = :now + 30000000 WHERE id = :key RETURNING epoch"
                ),
                {"agent": agent, "now": tx.now, "key": key},
            )
            assert epoch is not None
            taken.append((key, epoch))
        return taken


class NonAtomicClaimStore(SqlStore):
    """A store with that claim."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._leases = _TwoStepLeases(database, self.incarnation)


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
