"""Hints between control planes over one PostgreSQL: few, soon, and never more than hints."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from tests.contract.store.helpers import Bench, Clock, new_run
from tests.support.postgres import PostgresCluster

from heliograph_control_plane.store import SqlStore, notices, open_store
from heliograph_control_plane.store.records import Changes, Requirement, Upcoming

_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%') AND pid <> pg_backend_pid()"
)


class Heard:
    """Collects what a store tells."""

    def __init__(self, store: SqlStore) -> None:
        self.runs: set[str] = set()
        self.ready: set[Requirement] = set()
        self.calls = 0
        self._condition = threading.Condition()
        store.subscribe(self._hear)

    def _hear(self, changes: Changes) -> None:
        with self._condition:
            self.runs |= changes.runs
            self.ready |= {upcoming.requirement for upcoming in changes.ready}
            self.calls += 1
            self._condition.notify_all()

    def wait_for(self, run_ids: set[str], seconds: float = 20) -> bool:
        """Waits until all these runs were told of."""
        with self._condition:
            return self._condition.wait_for(lambda: run_ids <= self.runs, seconds)


@pytest.fixture
def pair(postgres: PostgresCluster) -> Iterator[tuple[Bench, SqlStore]]:
    """Two stores over one database, both listening."""
    url = postgres.clean_database()
    bench = Bench(url, Clock())
    other = open_store(url, clock=bench.clock)
    for store in (bench.store, other):
        assert store._notices is not None
        assert store._notices.listening.wait(20)
    yield bench, other
    other.close()
    bench.close()


def test_the_other_store_hears_of_every_run_in_few_notices(pair: tuple[Bench, SqlStore]) -> None:
    bench, other = pair
    here, there = Heard(bench.store), Heard(other)
    started = time.monotonic()
    ids = {f"run-{number}" for number in range(300)}
    for name in sorted(ids):
        bench.store.create_flow_run(new_run(name)).result()
    assert there.wait_for(ids)
    assert there.ready == {Requirement("p", "", "", ())}
    assert bench.store._notices is not None
    assert bench.store._notices.sent <= (time.monotonic() - started) / notices.INTERVAL_SECONDS + 1
    assert here.runs == ids
    other.create_flow_run(new_run("back")).result()
    assert here.wait_for({"back"})


def test_a_broken_connection_is_made_again(pair: tuple[Bench, SqlStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_RECONNECT_SECONDS", 0.05)
    bench, other = pair
    there = Heard(other)
    bench.create(run_id="before")
    assert there.wait_for({"before"})
    bench.store._write(lambda tx: tx.connection.execute(text(_END_OTHERS)).all()).result()
    for number in range(400):
        bench.create(run_id=f"after-{number}")
        if there.wait_for({f"after-{number}"}, 0.05):
            return
    pytest.fail("the other store never heard again")


def test_a_notice_that_is_too_long_leaves_labels_to_the_slow_poll() -> None:
    outgoing = notices._Outgoing()
    needed = [Requirement("p", "", "", tuple(f"{letter * 190}-{n}" for n in range(60))) for letter in "ab"]
    ids = frozenset(f"{number:036d}" for number in range(100))
    outgoing.add(Changes(ids, ids, ids, tuple(Upcoming(one, 1) for one in needed), True, False))
    told: set[str] = set()
    while outgoing:
        payload = outgoing.take("me")
        assert len(payload.encode()) < 8_000
        changes = notices.read_notice(payload, "you")
        assert changes is not None
        told |= changes.runs
        assert notices.read_notice(payload, "me") is None
    assert told == ids


@given(
    st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["from", "runs", "tasks", "ready", "flags"]), x),
    ).map(json.dumps)
)
def test_whatever_comes_is_read_or_left(payload: str) -> None:
    found = notices.read_notice(payload, "me")
    assert found is None or isinstance(found, Changes)
