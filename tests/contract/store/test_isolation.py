"""PostgreSQL as others set it up: whatever isolation it defaults to, and transactions that it asks to run again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from tests.contract.store import checks
from tests.contract.store.helpers import Bench, Clock
from tests.support.postgres import PostgresCluster

from heliograph.exceptions import UnavailableError
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.writer import Transaction


@pytest.fixture
def bench(postgres: PostgresCluster) -> Iterator[Bench]:
    bench = Bench(postgres.clean_database(), Clock())
    yield bench
    bench.close()


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_claims_do_not_depend_on_the_isolation_that_the_database_defaults_to(
    postgres: PostgresCluster, level: str
) -> None:
    url = postgres.store_database()
    name = url.split("/")[3].split("?")[0]
    postgres.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    bench = Bench(url, Clock())
    other = open_store(url, clock=bench.clock)
    try:
        shown = bench.store._write(lambda tx: tx.connection.scalar(text("SHOW transaction_isolation"))).result()
        assert shown == "read committed"
        checks.every_run_starts_once(bench, [bench.store, other], 150, 8)
    finally:
        other.close()
        bench.close()


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_transaction_that_lost_to_another_is_run_again(bench: Bench, state: str) -> None:
    tries: list[int] = []

    def lose_twice(tx: Transaction) -> str:
        tx.connection.execute(text("INSERT INTO projects (name, description, create_micros) VALUES ('q', '', 1)"))
        tries.append(len(tries))
        if len(tries) < 3:
            tx.connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return "done"

    assert bench.store._write(lose_twice).result(60) == "done"
    assert len(tries) == 3
    assert [one.name for one in bench.store.list_projects(None, 10, "").result().items] == ["p", "q"]


def test_one_that_never_wins_is_refused_and_harms_no_other(bench: Bench) -> None:
    def lose(tx: Transaction) -> None:
        tx.connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    refused = bench.store._write(lose)
    run = bench.create()
    with pytest.raises(UnavailableError):
        refused.result(60)
    assert bench.get(run).run_id == run.run_id
