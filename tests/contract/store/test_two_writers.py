"""Two control planes over one PostgreSQL that change the same rows at once: the second waits, and goes by the first.

The first transaction is held open after its statements until the second one waits for it, or has an answer too early.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from tests.contract.store.helpers import SECOND, Bench, Clock, new_run, version
from tests.contract.store.test_logs import lines
from tests.support.postgres import PostgresCluster

from heliograph_control_plane.store import SqlStore, flows, leases, logs, open_store
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import Occurrence, RequestKey
from heliograph_control_plane.store.requests import record_effects
from heliograph_control_plane.store.writer import Transaction, Writer


class Pair:
    """Two open stores over one database."""

    def __init__(self, url: str) -> None:
        self.bench = Bench(url, Clock())
        self.first = self.bench.store
        self.second = open_store(url, clock=self.bench.clock)

    def close(self) -> None:
        self.second.close()
        self.bench.close()

    def meet(self, writer: Writer, change: Callable[[Transaction], Any], then: Callable[[], Pending[Any]]) -> Any:
        """Makes `change` in the first store, calls the second one before the commit; returns what that answered."""
        made, commit = threading.Event(), threading.Event()

        def held(tx: Transaction) -> None:
            change(tx)
            made.set()
            commit.wait(60)

        one = writer.submit(held)
        try:
            assert made.wait(60)
            other = then()
            while not other.done and not self._waiting():
                continue
        finally:
            commit.set()
        one.result(60)
        return other.result(60)

    def _waiting(self) -> bool:
        """True when a connection waits for a lock of another."""
        waits = text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(self.first._read(lambda connection: connection.scalar(waits)).result(60))


@pytest.fixture
def pair(postgres: PostgresCluster) -> Iterator[Pair]:
    pair = Pair(postgres.clean_database())
    yield pair
    pair.close()


def scheduled(pair: Pair) -> list[Occurrence]:
    """Registers a flow with a schedule; returns an occurrence as a leader plans it."""
    pair.first.register_flow_version(version("timed", schedule=b"hourly")).result()
    schedule = pair.first.get_schedule("p", "timed").result()
    at = pair.bench.clock.now + 3_600 * SECOND
    return [Occurrence(schedule.schedule_id, schedule.version, "run-1", "clock/slot/0", at, "n")]


def waiting_runs(store: SqlStore) -> int:
    """Counts the runs that agents will be given."""
    return sum(1 for _ in store.upcoming().result(60))


@pytest.mark.parametrize("change", ["pause", "replace", "remove"])
def test_no_run_is_made_by_a_schedule_that_changes_at_once(pair: Pair, change: str) -> None:
    """A leader's occurrences are in a transaction when people pause the schedule, or register another one."""
    planned = scheduled(pair)

    def people() -> Pending[Any]:
        if change == "pause":
            return pair.second.set_schedule_paused("p", "timed", True)
        new = b"daily" if change == "replace" else b""
        return pair.second.register_flow_version(version("timed", schedule=new, content_hash="sha256:2"))

    pair.meet(pair.first._writer, lambda tx: flows.insert_occurrences(tx, planned), people)
    assert waiting_runs(pair.first) == 0


@pytest.mark.parametrize("change", ["pause", "replace", "remove"])
def test_a_leader_goes_by_the_change_that_it_waited_for(pair: Pair, change: str) -> None:
    planned = scheduled(pair)

    def people(tx: Transaction) -> None:
        if change == "pause":
            flows.set_schedule_paused(tx, "p", "timed", True)
        else:
            new = b"daily" if change == "replace" else b""
            flows.register_flow_version(tx, version("timed", schedule=new, content_hash="sha256:2"))

    made = pair.meet(pair.first._writer, people, lambda: pair.second.insert_occurrences(planned))
    assert made == ()
    assert waiting_runs(pair.first) == 0


def test_two_leaders_make_an_occurrence_once(pair: Pair) -> None:
    planned = scheduled(pair)
    made = pair.meet(
        pair.first._writer,
        lambda tx: flows.insert_occurrences(tx, planned),
        lambda: pair.second.insert_occurrences([*planned, replace(planned[0], run_id="run-2", key="clock/slot/1")]),
    )
    assert made == ("run-2",)


def test_a_poll_that_comes_again_is_not_given_what_another_agent_was_given_meanwhile(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is released and leased anew at the other control plane before the rows of the answer are read."""
    pair.bench.agent("b")
    run = pair.bench.create()
    [lease] = pair.bench.lease("a", request_id="poll")

    class Late:
        @staticmethod
        def run(*arguments: Any) -> list[Any]:
            monkeypatch.undo()
            pair.second.release_flow_run("a", run.run_id, lease.epoch, b"", 0).result(60)
            [anew] = pair.second.lease_flow_runs("b", "other", 1).result(60)
            assert anew.epoch == lease.epoch + 1
            return leases._RUNS.run(*arguments)

    monkeypatch.setattr(leases, "_RUNS", Late)
    assert pair.first.lease_flow_runs("a", "poll", 1).result(60) == ()


def test_lines_that_come_to_both_at_once_are_stored_once(pair: Pair) -> None:
    """The first lines of a writer: no row of it is there yet that could be locked."""
    sent = tuple(lines(1, 2, 3))
    store = logs.LogStore()
    ack = pair.meet(
        pair.first._log_writer,
        lambda tx: store.write(tx, [("run", 1, sent)]),
        lambda: pair.second.write_log_lines("run", 1, sent),
    )
    assert ack.acked_sequence == 3
    assert [one.sequence for one in pair.first.read_log_lines("run").result().lines] == [1, 2, 3]


def test_a_claim_that_comes_to_both_at_once_is_given_once(pair: Pair) -> None:
    for number in range(2):
        pair.first.create_flow_run(new_run(f"run-{number}")).result()
    claim = leases.Claim("a", "request", 1)
    given: list[Any] = []
    again = pair.meet(
        pair.first._writer,
        lambda tx: given.extend(pair.first._leases.claim(tx, [claim])),
        lambda: pair.second.lease_flow_runs("a", "request", 1),
    )
    ((lease,),) = given
    assert [(one.flow_run.run_id, one.epoch) for one in again] == [(lease.flow_run.run_id, lease.epoch)]


def test_what_is_made_for_the_first_time_by_both_at_once_is_one_thing(pair: Pair) -> None:
    """A project, a flow and what agents must offer for it: whoever comes second finds them there."""
    pair.meet(
        pair.first._writer,
        lambda tx: flows.create_project(tx, "q", ""),
        lambda: pair.second.create_project("q", ""),
    )
    new = version("twin", project="q", labels=("gpu",))
    again = pair.meet(
        pair.first._writer,
        lambda tx: flows.register_flow_version(tx, new),
        lambda: pair.second.register_flow_version(new),
    )
    assert (again.created, again.version.version) == (False, 1)
    pair.meet(
        pair.first._writer,
        lambda tx: flows.requirement_id(tx, 1, "local", "", ["big"]),
        lambda: pair.second.create_flow_run(replace(new_run("run-1"), labels=("big",))),
    )
    assert pair.first.get_flow_run("run-1").result().labels == ("big",)


def test_a_request_that_never_fits_is_refused_in_the_end(pair: Pair) -> None:
    """A row that another transaction made first is looked for again, but not for ever."""
    key = RequestKey("scope", "id", b"")
    pair.first._write(lambda tx: record_effects(tx, [(key, "1")])).result(60)
    refused = pair.second._write(lambda tx: record_effects(tx, [(key, "2")]))
    with pytest.raises(Exception, match="refused a row"):
        refused.result(60)
