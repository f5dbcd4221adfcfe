"""Two control planes over one PostgreSQL go by the database's time: a host's clock that is off changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.contract.store.helpers import SECOND, Bench
from tests.support.figures import Figure
from tests.support.postgres import PostgresCluster

from heliograph_control_plane.store import SqlStore, database, open_store

DAY_SECONDS = 86_400
LEASE_SECONDS = 600


class HostTime:
    """The time as a host has it: its clock is off, and it was started at another time than this machine."""

    def __init__(self, off_seconds: int) -> None:
        self._off = off_seconds

    def time_ns(self) -> int:
        """Reads the clock."""
        return time.time_ns() + self._off * 1_000_000_000

    def monotonic(self) -> float:
        """Reads the seconds since its start."""
        return time.monotonic() + abs(self._off)

    def monotonic_ns(self) -> int:
        """Reads the nanoseconds since its start."""
        return time.monotonic_ns() + abs(self._off) * 1_000_000_000


def by_the_database(url: str, off_seconds: int) -> None:
    """Has a host that is right and one that is off ask the same database, each answered before the next is asked."""
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def host(off: int) -> Iterator[None]:
            patch.setattr(database, "time", HostTime(off))
            yield

        def ask(store: SqlStore, off: int) -> bool:
            with host(off):
                return store.acquire_leadership("loops", f"{off}", LEASE_SECONDS * SECOND).result(60) is not None

        def give_up(store: SqlStore, off: int) -> None:
            with host(off):
                store.release_leadership("loops", f"{off}").result(60)

        def micros() -> int:
            with psycopg.connect(url) as connection:
                row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone()
            assert row is not None
            return int(row[0])

        stores: list[SqlStore] = []
        try:
            for off in (0, off_seconds):
                with host(off):
                    stores.append(open_store(url))
            right, wrong = stores
            with host(off_seconds):
                before, said, after = micros(), wrong.now(), micros()
            assert before - SECOND <= said <= after + SECOND, f"its time is {(said - after) // SECOND} s off"
            for one, other in (((right, 0), (wrong, off_seconds)), ((wrong, off_seconds), (right, 0))):
                assert ask(*one)
                assert not ask(*other), "a leadership that goes on was taken"
                give_up(*one)
                assert ask(*other), "one that was given up was not to be had"
                give_up(*other)
        finally:
            for off, store in zip((0, off_seconds), stores, strict=False):
                with host(off):
                    store.close()


@pytest.mark.parametrize("off_seconds", [DAY_SECONDS, -DAY_SECONDS])
def test_a_leadership_goes_by_the_database_and_not_by_a_host(
    postgres: PostgresCluster, off_seconds: int, figure: Figure
) -> None:
    url = postgres.clean_database()
    Bench(url).close()
    by_the_database(url, off_seconds)
    figure(f"PostgreSQL: a host's clock {off_seconds // 3600} h off: time and leadership are the database's")


def test_a_store_by_its_hosts_clock_is_found(postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: nobody asks the database."""
    url = postgres.clean_database()
    monkeypatch.setattr(database.Database, "now", lambda _self: database.time.time_ns() // 1000)
    with pytest.raises(AssertionError, match="s off"):
        by_the_database(url, DAY_SECONDS)


def test_a_leadership_by_a_hosts_clock_is_found(postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: the time that is told is right, and the one that decides is the host's."""
    url = postgres.clean_database()
    monkeypatch.setattr(SqlStore, "now", lambda _self: time.time_ns() // 1000)
    monkeypatch.setattr(database.Database, "now", lambda _self: database.time.time_ns() // 1000)
    with pytest.raises(AssertionError, match="was taken"):
        by_the_database(url, DAY_SECONDS)
