"""The writer: one process, bounded, answers after the commit; a bad call harms nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.contract.store.helpers import Bench, new_run
from tests.support.postgres import PostgresCluster, shared_cluster

from heliograph.exceptions import InternalError, UnavailableError
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store import writer as writer_module
from heliograph_control_plane.store.errors import StoreInUseError
from heliograph_control_plane.store.writer import Transaction

_OPEN = "import sys; from heliograph_control_plane.store import open_store; open_store(sys.argv[1]).close()"


def test_a_bad_call_fails_alone(bench: Bench) -> None:
    gate = threading.Event()
    store = bench.store
    store._write(lambda _tx: gate.wait(30))

    def bad(tx: Transaction) -> None:
        tx.connection.execute(text("INSERT INTO projects (name, description, create_micros) VALUES ('half', '', 1)"))
        tx.connection.execute(text("INSERT INTO projects (name) VALUES ('p')"))

    def worse(_tx: Transaction) -> None:
        raise ZeroDivisionError

    good = [store.create_project(f"g{n}", "") for n in range(3)]
    failing = [store._write(bad), store._write(worse)]
    more = [store.create_project(f"h{n}", "") for n in range(3)]
    gate.set()
    assert [one.result().name for one in good + more] == ["g0", "g1", "g2", "h0", "h1", "h2"]
    with pytest.raises(InternalError):
        failing[0].result()
    with pytest.raises(ZeroDivisionError):
        failing[1].result()
    names = {one.name for one in store.list_projects(None, 100, "").result().items}
    assert names == {"p", "g0", "g1", "g2", "h0", "h1", "h2"}


def test_calls_that_wait_share_one_commit(bench: Bench) -> None:
    gate, started = threading.Event(), threading.Event()
    commits: list[object] = []
    bench.store.subscribe(commits.append)

    def block(_tx: Transaction) -> bool:
        started.set()
        return gate.wait(30)

    bench.store._write(block)
    assert started.wait(30)
    runs = [bench.store.create_flow_run(new_run(f"run-{number}")) for number in range(10)]
    gate.set()
    assert [one.result().run_id for one in runs] == [f"run-{number}" for number in range(10)]
    bench.store.reap().result()
    assert len(commits) == 1


def test_a_subscriber_that_fails_has_nothing_done_again(bench: Bench) -> None:
    """What is committed is committed: calls that shared the transaction are not run again one by one."""
    gate, started = threading.Event(), threading.Event()
    ran: list[int] = []
    told: list[object] = []

    def fail(_changes: object) -> None:
        raise ZeroDivisionError

    def block(_tx: Transaction) -> bool:
        started.set()
        return gate.wait(30)

    def call(number: int) -> Callable[[Transaction], int]:
        def work(tx: Transaction) -> int:
            ran.append(number)
            tx.runs.add(f"run-{number}")
            return number

        return work

    for subscriber in (fail, told.append):
        bench.store.subscribe(subscriber)
    bench.store._write(block)
    assert started.wait(30)
    pendings = [bench.store._write(call(number)) for number in range(3)]
    gate.set()
    assert [pending.result(30) for pending in pendings] == [0, 1, 2]
    assert bench.store.create_project("later", "").result(30).name == "later"
    bench.store.close()
    assert ran == [0, 1, 2]
    assert told, "the others are told all the same"


def test_a_full_queue_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_QUEUED", 5)
    gate, started = threading.Event(), threading.Event()

    def block(_tx: Transaction) -> bool:
        started.set()
        return gate.wait(30)

    blocked = bench.store._write(block)
    assert started.wait(30)
    taken = [bench.store.create_project(f"q{n}", "") for n in range(5)]
    with pytest.raises(UnavailableError):
        bench.store.create_project("one-too-many", "").result()
    gate.set()
    assert blocked.result()
    assert [one.result().name for one in taken] == [f"q{n}" for n in range(5)]


def test_closing_commits_what_is_queued_and_refuses_the_rest(bench: Bench) -> None:
    waiting = [bench.store.create_project(f"q{n}", "") for n in range(20)]
    bench.store.close()
    assert [one.result().name for one in waiting] == [f"q{n}" for n in range(20)]
    bench.store.close()
    with pytest.raises(UnavailableError):
        bench.store.create_project("late", "").result()
    with pytest.raises(UnavailableError):
        bench.store.get_project("p").result()
    bench.store = open_store(bench.url, clock=bench.clock)
    assert len(bench.store.list_projects(None, 100, "").result().items) == 21


def test_a_waiter_may_give_up(bench: Bench) -> None:
    gate = threading.Event()
    pending = bench.store._write(lambda _tx: gate.wait(30))
    with pytest.raises(TimeoutError):
        pending.result(0.01)
    gate.set()
    assert pending.result()


def test_leadership_is_one_holders_until_it_ends(bench: Bench) -> None:
    store = bench.store
    first = store.acquire_leadership("loops", "one", 15_000_000).result()
    assert first is not None
    assert store.acquire_leadership("loops", "two", 15_000_000).result() is None
    bench.clock.advance(10)
    renewed = store.acquire_leadership("loops", "one", 15_000_000).result()
    assert renewed is not None
    assert (renewed.term, renewed.expire_micros) == (first.term, bench.clock.now + 15_000_000)
    bench.clock.advance(16)
    second = store.acquire_leadership("loops", "two", 15_000_000).result()
    assert second is not None
    assert second.term == first.term + 1
    assert store.acquire_leadership("loops", "one", 15_000_000).result() is None
    store.release_leadership("loops", "one").result()
    assert store.acquire_leadership("loops", "one", 15_000_000).result() is None
    store.release_leadership("loops", "two").result()
    assert store.acquire_leadership("loops", "one", 15_000_000).result() is not None
    assert store.acquire_leadership("other", "two", 15_000_000).result() is not None


def test_a_leadership_from_before_the_clock_was_set_back_is_over(bench: Bench) -> None:
    assert bench.store.acquire_leadership("loops", "one", 15_000_000).result() is not None
    bench.clock.advance(-24 * 3600)
    assert bench.store.acquire_leadership("loops", "two", 15_000_000).result() is not None


# --- SQLite alone ---------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_clearly(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.db"
    store = open_store(url)
    try:
        with pytest.raises(StoreInUseError, match=f"process {os.getpid()}"):
            open_store(url)
        other = subprocess.run([sys.executable, "-c", _OPEN, url], capture_output=True, text=True, check=False)
        assert other.returncode != 0
        assert f"in use by another process (process {os.getpid()})" in other.stderr
    finally:
        store.close()
    again = subprocess.run([sys.executable, "-c", _OPEN, url], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr


def test_sqlite_is_durable_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    store = open_store(f"sqlite:///{path}")
    try:
        pragmas = store._write(
            lambda tx: [
                tx.connection.scalar(text(f"PRAGMA {name}"))
                for name in ("synchronous", "journal_mode", "secure_delete", "foreign_keys")
            ]
        ).result()
        assert pragmas == [2, "wal", 1, 1]
        logs = store._log_writer.submit(lambda tx: tx.connection.scalar(text("PRAGMA synchronous"))).result()
        assert logs == 1
        assert store._read(lambda c: c.scalar(text("PRAGMA query_only"))).result() == 1
    finally:
        store.close()
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


# --- PostgreSQL alone -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_database() -> tuple[PostgresCluster, str]:
    """A database of its own on the shared cluster."""
    cluster = shared_cluster()
    return cluster, cluster.store_database()


def test_commits_are_durable_whatever_the_server_is_set_to(own_database: tuple[PostgresCluster, str]) -> None:
    cluster, url = own_database
    name = url.split("/")[3].split("?")[0]
    cluster.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store = open_store(url)
    try:
        assert store._write(lambda tx: tx.connection.scalar(text("SHOW synchronous_commit"))).result() == "on"
    finally:
        store.close()


def test_the_store_goes_on_after_its_database_was_killed(own_database: tuple[PostgresCluster, str]) -> None:
    cluster, url = own_database
    bench = Bench(url)
    try:
        before = [bench.create() for _ in range(5)]
        cluster.sql("CHECKPOINT")  # what the tests before left would be replayed
        cluster.kill()
        with pytest.raises(UnavailableError):
            bench.create()
        with pytest.raises(UnavailableError):
            bench.get(before[0])
        cluster.start()
        after = bench.create()
        assert [bench.get(run).run_id for run in (*before, after)] == [run.run_id for run in (*before, after)]
    finally:
        bench.close()
