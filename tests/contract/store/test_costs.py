"""What the way of a run costs the database: one commit for each hop, and one statement for all that a claim takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.dialects import postgresql
from tests.contract.store import variants
from tests.contract.store.helpers import TOKEN, Bench, Clock, flow, version
from tests.support.figures import Figure

from heliograph.engine.codes import StateCode
from heliograph_control_plane.store import SqlStore, database, flow_runs, schema
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import EventBatch


class Spent:
    """What was asked of the database.

    Attributes:
        statements: What was executed, in its order.
        commits: How often what was written was committed.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.commits = 0

    def taking(self) -> int:
        """Returns how many statements changed runs."""
        return len([text for text in self.statements if "UPDATE flow_runs" in text])


class Counted:
    """A cursor of the driver, whose statements are counted."""

    def __init__(self, cursor: Any, found: Spent) -> None:
        self._cursor, self._found = cursor, found

    def execute(self, statement: str, *values: Any) -> Any:
        """Executes a statement."""
        self._found.statements.append(statement)
        return self._cursor.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


@contextmanager
def spent(store: SqlStore) -> Iterator[Spent]:
    """Counts what a store's writer asks of the database meanwhile."""
    found, engine = Spent(), store._database.main

    def executing(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found.statements.append(statement)

    def committing(_connection: object) -> None:
        found.commits += 1

    hot = database._hot

    @contextmanager
    def counted(connection: Connection) -> Iterator[Counted]:
        with hot(connection) as cursor:
            yield Counted(cursor, found)

    patch = pytest.MonkeyPatch()
    patch.setattr(database, "_hot", counted)
    event.listen(engine, "before_cursor_execute", executing)
    event.listen(engine, "commit", committing)
    try:
        yield found
    finally:
        patch.undo()
        event.remove(engine, "before_cursor_execute", executing)
        event.remove(engine, "commit", committing)


# --- commits --------------------------------------------------------------------------------------------------------


def one_commit_for_each_hop(bench: Bench) -> None:
    """Takes a run from its creation to its first report; each hop must be one commit."""
    bench.submitted()  # what is remembered from the first run on
    with spent(bench.store) as hop:
        run = bench.create()
    assert hop.commits == 1, "creation"
    with spent(bench.store) as hop:
        (lease,) = bench.lease()
    assert hop.commits == 1, "lease"
    with spent(bench.store) as hop:
        bench.store.accept_flow_run("a", run.run_id, lease.epoch, TOKEN).result(60)
    assert hop.commits == 1, "accept"
    with spent(bench.store) as hop:
        report = EventBatch(run.run_id, lease.epoch, 1, (flow(StateCode.RUNNING),))
        assert bench.store.apply_event_batch(report).result(60).acked_sequence == 1
    assert hop.commits == 1, "first report"


def test_each_hop_of_a_run_is_one_commit(bench: Bench, figure: Figure) -> None:
    one_commit_for_each_hop(bench)
    figure(f"{bench.store.kind}: create, lease, accept and first report: 4 commits")


class TwiceCommittingStore(SqlStore):
    """The planted twin: what an agent accepts is noted in a transaction of its own first."""

    def accept_flow_run(
        self, agent: str, run_id: str, epoch: int, token_hash: bytes, *more: object, **named: object
    ) -> Pending[None]:
        self._write(lambda _tx: None).result(60)
        return super().accept_flow_run(agent, run_id, epoch, token_hash, *more, **named)  # type: ignore[arg-type]


def test_one_commit_more_is_found(url: str) -> None:
    bench = Bench(url, Clock(), variants.opener(TwiceCommittingStore))
    try:
        with pytest.raises(AssertionError, match="accept"):
            one_commit_for_each_hop(bench)
    finally:
        bench.close()


# --- statements -----------------------------------------------------------------------------------------------------


def statements_of_a_claim(bench: Bench) -> int:
    """Claims one run, and twenty; returns how many statements it took, which must be one for the runs' own table."""
    for many in (1, 20):  # what is remembered from the first time on
        for _ in range(many):
            bench.create()
        bench.lease(count=many)
    counts = []
    for many in (1, 20):
        for _ in range(many):
            bench.create()
        with spent(bench.store) as claim:
            assert len(bench.lease(count=many)) == many
        assert claim.taking() == 1, "\n".join(claim.statements)
        counts.append(len(claim.statements))
    assert counts[0] == counts[1], f"one run costs {counts[0]} statements, twenty cost {counts[1]}"
    return counts[1]


def test_a_claim_takes_all_its_runs_in_one_statement(bench: Bench, figure: Figure) -> None:
    figure(f"{bench.store.kind}: a claim is {statements_of_a_claim(bench)} statements, one of them takes all runs")


def test_a_claim_of_several_statements_is_found(url: str) -> None:
    """The planted twin looks for runs first, and takes them then."""
    bench = Bench(url, Clock(), variants.opener(variants.NonAtomicClaimStore))
    try:
        with pytest.raises(AssertionError, match="UPDATE flow_runs"):
            statements_of_a_claim(bench)
    finally:
        bench.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_lists_of_a_young_database_read_each_row_once(bench: Bench) -> None:
    """PostgreSQL counted its tables when they had a row each, and joins them in whatever order is cheap then."""
    bench.running()
    engine = create_engine(bench.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for table in ("flow_runs", "flows", "projects", "flow_versions", "requirements"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
            connection.execute(text(f"ANALYZE {table}"))
        for number in range(30):
            project = f"young-{number}"
            bench.store.create_project(project, "").result()
            bench.store.register_flow_version(version(project=project, labels=(f"label-{number}",))).result()
            bench.create(project=project)
        ids = list(connection.scalars(text("SELECT id FROM flow_runs")))
        asked = flow_runs._RUN.where(schema.flow_runs.c.id.in_(ids)).compile(
            dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}
        )
        [plan] = connection.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked}"))
    engine.dispose()
    assert max(_loops(plan["Plan"])) <= len(ids)


def _loops(plan: dict[str, Any]) -> Iterator[int]:
    """How often each part of a plan was gone through."""
    yield plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from _loops(part)
