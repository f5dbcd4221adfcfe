"""PgBouncer in transaction mode before PostgreSQL: no session is ours for longer than a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from tests.contract.store.helpers import Bench, flow, task
from tests.support.control_plane import control_plane
from tests.support.figures import Figure
from tests.support.hints import brisk_slow_poll
from tests.support.pgbouncer import SESSIONS, PgBouncer, pgbouncer
from tests.support.postgres import PostgresCluster, postgres
from tests.support.scene import Scene
from tests.support.stack import Stack, wait_until

from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.engine.codes import StateCode
from heliograph_control_plane.store import migrate_store, open_store
from heliograph_control_plane.store.notices import CHANNEL, Notices

__all__ = ["postgres"]


@pytest.fixture(scope="module")
def pooler(postgres: PostgresCluster) -> Iterator[PgBouncer]:
    with pgbouncer(postgres) as running:
        yield running


def test_the_store_keeps_its_promises_through_a_pooler(pooler: PgBouncer, postgres: PostgresCluster) -> None:
    """Migrate, claim, report, and lead, by two stores whose transactions share sessions."""
    url = pooler.url(postgres.empty_database())
    migrate_store(url)
    one = Bench(url)
    two = Bench(url, one.clock, scene=False)
    try:
        runs = [one.create() for _ in range(40)]
        claimed = [lease for turn in range(10) for bench in (one, two) for lease in bench.lease(count=2)]
        assert sorted(lease.flow_run.run_id for lease in claimed) == sorted(run.run_id for run in runs)
        assert [lease.epoch for lease in two.lease(count=2, request_id="r1")] == [1, 1], "given again, not anew"
        for number, lease in enumerate(claimed):
            bench = (one, two)[number % 2]
            bench.accept("a", lease.flow_run.run_id, lease.epoch)
            run = bench.get(lease.flow_run.run_id)
            bench.send(run, 1, flow(StateCode.RUNNING), task(0, StateCode.SUCCESS), flow(StateCode.SUCCESS))
        assert all(two.get(run).state is StateCode.SUCCESS for run in runs)
        assert one.store.acquire_leadership("loops", "one", 10_000_000).result() is not None
        assert two.store.acquire_leadership("loops", "two", 10_000_000).result() is None
        one.clock.advance(11)
        assert two.store.acquire_leadership("loops", "two", 10_000_000).result() is not None
    finally:
        one.close()
        two.close()


def left_in_sessions(url: str) -> list[str]:
    """Returns what the pooler's sessions have kept: channels, prepared statements, locks.

    As many transactions as it has sessions are open at once: one looks into each of them.
    """
    kept = []
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(url, prepare_threshold=None)) for _ in range(SESSIONS)]
        for connection in connections:
            connection.execute("SELECT 1")
        for connection in connections:
            kept += [f"listens to {row[0]}" for row in connection.execute("SELECT pg_listening_channels()")]
            kept += [f"prepared {row[0]}" for row in connection.execute("SELECT statement FROM pg_prepared_statements")]
            locks = connection.execute("SELECT objid FROM pg_locks WHERE locktype = 'advisory'")
            kept += [f"locks {row[0]}" for row in locks]
    return kept


def no_session_state(pooler: PgBouncer, direct: str) -> None:
    """Works through the pooler, then looks at its sessions from inside."""
    bench = Bench(pooler.url(direct))
    try:
        notices = bench.store._notices
        assert notices is not None
        wait_until(lambda: notices.pooled.is_set() or notices.listening.is_set(), "it knows what it is connected to")
        for _ in range(12):
            bench.running()
        assert not left_in_sessions(pooler.url(direct))
    finally:
        bench.close()


def test_nothing_stays_in_a_session_that_another_gets(pooler: PgBouncer, postgres: PostgresCluster) -> None:
    """No LISTEN, no prepared statement, no lock outlives its transaction."""
    no_session_state(pooler, postgres.store_database())


def test_a_listener_that_does_not_know_a_pooler_is_found(
    pooler: PgBouncer, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin: LISTEN through the pooler stays behind in a session that others get."""
    monkeypatch.setattr("heliograph_control_plane.store.notices._is_pooled", lambda _: False)
    with pytest.raises(AssertionError, match=f"listens to {CHANNEL}"):
        no_session_state(pooler, postgres.store_database())


def test_without_a_pooler_changes_are_listened_to(postgres: PostgresCluster) -> None:
    """A direct connection is not taken for a pooled one."""
    store = open_store(postgres.store_database())
    try:
        notices: Notices | None = store._notices
        assert notices is not None
        wait_until(notices.listening.is_set, "it listens")
        assert not notices.pooled.is_set()
    finally:
        store.close()


def test_two_control_planes_behind_a_pooler_find_each_others_changes(
    tmp_path: Path, pooler: PgBouncer, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is created at one is leased at the other, by the slow poll."""
    brisk_slow_poll(monkeypatch)
    url = pooler.url(postgres.store_database())
    with (
        control_plane(tmp_path, database=url) as one,
        control_plane(tmp_path, database=url) as two,
        ExitStack() as stack,
    ):
        here, there = Scene(stack, one), Scene(stack, two)
        flow_name = here.flow(here.project()).name
        agent = there.agent()
        run = here.run(flow_name)
        (lease,) = there.lease(agent.name, wait_seconds=25)
        assert lease.flow_run.name == run.name
        there.admin.agents.AcceptFlowRun(
            agents_pb.AcceptFlowRunRequest(agent=agent.name, flow_run=run.name, epoch=lease.epoch)
        )
        watched = there.admin.runs.WatchFlowRuns(
            runs_pb.WatchFlowRunsRequest(parent="projects/-", flow_runs=[run.name])
        )
        stack.callback(watched.cancel)
        here.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=run.name))
        assert any(change.flow_run.cancel_requested for change in watched)


@pytest.mark.timeout(120)
def test_the_whole_stack_runs_behind_a_pooler(
    tmp_path: Path, pooler: PgBouncer, postgres: PostgresCluster, figure: Figure
) -> None:
    """Control plane, agent and flows as processes: twelve runs to their end."""
    direct = postgres.store_database()
    stack = Stack(tmp_path, database=pooler.url(direct))
    try:
        stack.start_control_plane()
        stack.start_agent()
        stack.register(SOURCE)
        with stack.connection() as connection:
            requests = [
                runs_pb.CreateFlowRunRequest(
                    parent="projects/proof", flow="projects/proof/flows/two-steps", request_id=f"r{number}"
                )
                for number in range(12)
            ]
            made = [connection.call(connection.services.flow_runs.CreateFlowRun, request) for request in requests]
        for run in made:
            stack.wait_for(run.name.rpartition("/")[2], StateCode.SUCCESS)
        assert not left_in_sessions(pooler.url(direct))
    finally:
        stack.stop()
    figure(f"{len(made)} runs through PgBouncer: all succeeded, nothing left in its sessions")


SOURCE = """
    from heliograph import Flow, task

    @task
    def one():
        return 1

    @task
    def two(number):
        return number + 1

    with Flow("two-steps") as flow:
        two(one())
"""
