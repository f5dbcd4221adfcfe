"""PostgreSQL is killed with -9 under claims, also between a commit and its answer: nothing is lost, nothing doubled."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.contract.store.helpers import Bench, new_run
from tests.support import ends
from tests.support.control_plane import InProcessControlPlane, control_plane
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.postgres import PostgresCluster, postgres
from tests.support.scene import Scene
from tests.support.stack import wait_until

from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.exceptions import UnavailableError
from heliograph_control_plane.store import leases as leases_module
from heliograph_control_plane.store.records import RequestKey

__all__ = ["postgres"]

CLAIMERS = 6
BATCH = 25


class Claiming:
    """Claimers that repeat each call, with its request id, until it is answered; and the kills.

    Attributes:
        given: How often each run was given to somebody.
        repeated: Calls that were not answered at first.
        recovered: Claims that were committed and not acknowledged, and came again by their request id.
    """

    def __init__(self, bench: Bench, cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bench, self._cluster = bench, cluster
        self.given: Counter[str] = Counter()
        self.repeated = self.recovered = self.kills = 0
        self._lock = threading.Lock()
        self._cut = threading.Event()
        self._alive = threading.Event()
        self._alive.set()
        self._over = threading.Event()
        self._watch_the_commits(monkeypatch)

    def _watch_the_commits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets the server die right after a commit of claims, before the commit's answer is read."""
        dialect = self._bench.store._database.main.dialect
        commit, given = dialect.do_commit, leases_module.LeaseStore._given
        claimed = threading.Event()
        take = leases_module.LeaseStore._take

        def and_die(connection: Any) -> None:
            commit(connection)
            if claimed.is_set() and self._cut.is_set():
                self._cut.clear()
                self._kill()
                raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")
            claimed.clear()

        def taking(*arguments: Any) -> Any:
            rows = take(*arguments)
            if rows:
                claimed.set()
            return rows

        def giving(*arguments: Any) -> Any:
            found = given(*arguments)
            self.recovered += len(found)
            return found

        monkeypatch.setattr(dialect, "do_commit", and_die)
        monkeypatch.setattr(leases_module.LeaseStore, "_take", taking)
        monkeypatch.setattr(leases_module.LeaseStore, "_given", giving)

    def _kill(self) -> None:
        self._alive.clear()
        self._cluster.kill()
        self.kills += 1
        threading.Thread(target=self._start_again, daemon=True).start()

    def _start_again(self) -> None:
        self._cluster.start()
        self._alive.set()

    def claim(self, number: int, total: int) -> None:
        """Claims until all runs are given."""
        turn = empty = 0
        while sum(self.given.values()) < total and empty < 20:
            turn += 1
            while not self._over.is_set():
                try:
                    found = self._bench.store.lease_flow_runs("a", f"{number}-{turn}", BATCH).result(120)
                    break
                except UnavailableError:
                    self.repeated += 1
                    self._alive.wait(60)
            else:
                return
            empty = 0 if found else empty + 1
            with self._lock:
                self.given.update(lease.flow_run.run_id for lease in found)

    def storm(self, total: int, kills: int) -> None:
        """Claims all, while the database dies `kills` times: every other time between a commit and its answer."""
        chance = random.Random(kills)
        marks = sorted(chance.randrange(total // 20, total * 4 // 5) for _ in range(kills))
        threads = [threading.Thread(target=self.claim, args=(number, total), daemon=True) for number in range(CLAIMERS)]
        for thread in threads:
            thread.start()
        try:
            self._strike(marks)
            ends.join(*threads, seconds=1800)
        finally:
            self._over.set()

    def _strike(self, marks: list[int]) -> None:
        for number, mark in enumerate(marks):
            wait_until(lambda at=mark: sum(self.given.values()) >= at, f"{mark} claims", 120)
            assert self._alive.wait(60)
            if number % 2:
                self._kill()
            else:
                self._cut.set()
                wait_until(lambda: not self._cut.is_set(), "a commit to cut", 60)
            assert self._alive.wait(60)


def claims_survive(postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch, total: int, kills: int) -> Claiming:
    """Claims `total` runs under kills; each must have been given once."""
    bench = Bench(postgres.store_database())
    try:
        for first in range(0, total, 1000):  # as many as may wait at once
            numbers = range(first, min(first + 1000, total))
            made = [bench.store.create_flow_run(new_run(f"run-{n}"), RequestKey("c", f"{n}", b"")) for n in numbers]
            for one in made:
                one.result(120)
        claiming = Claiming(bench, postgres, monkeypatch)
        claiming.storm(total, kills)
        with psycopg.connect(bench.url) as connection:
            row = connection.execute("SELECT count(*), max(epoch) FROM flow_runs WHERE phase = 1").fetchone()
    finally:
        bench.close()
    assert claiming.kills == kills
    lost = total - len(claiming.given)
    assert not lost, f"{lost} claims are lost"
    assert set(claiming.given.values()) == {1}, "a run was given twice"
    assert row == (total, 1), "each run was claimed once in the database"
    return claiming


@forms("total,kills", quick=(10_000, 5), full=(200_000, 50), seconds=3600, quick_seconds=180)
def test_claims_survive_a_database_that_is_killed(
    postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch, figure: Figure, total: int, kills: int
) -> None:
    """Every claim that was committed and not acknowledged is had by its request id."""
    claiming = claims_survive(postgres, monkeypatch, total, kills)
    assert claiming.recovered > 0
    figure(
        f"{total:,} claims, {kills} kills of PostgreSQL: 0 lost, 0 doubled, {claiming.repeated} calls repeated, "
        f"{claiming.recovered} claims recovered by their request id"
    )


@pytest.mark.timeout(120)
def test_a_claim_without_its_request_id_is_found(postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: a repeated claim is taken for another one."""
    monkeypatch.setattr(leases_module, "find_effect", lambda *_: None)
    monkeypatch.setattr(leases_module, "record_effects", lambda *_: None)
    with pytest.raises(AssertionError, match="claims are lost"):
        claims_survive(postgres, monkeypatch, 600, 1)


# --- the control plane over it --------------------------------------------------------------------------------------


@pytest.fixture
def plane(tmp_path: Path, postgres: PostgresCluster) -> Iterator[InProcessControlPlane]:
    """A control plane on PostgreSQL."""
    with control_plane(tmp_path, database=postgres.store_database()) as running:
        yield running


@pytest.mark.timeout(120)
def test_a_control_plane_outlives_its_database(plane: InProcessControlPlane, postgres: PostgresCluster) -> None:
    """People are told what is the matter, health shows it, and all goes on when the database is back."""
    with ExitStack() as stack:
        scene = Scene(stack, plane)
        flow = scene.flow(scene.project()).name
        run = scene.run(flow)
        request = runs_pb.GetFlowRunRequest(name=run.name)
        health = health_pb2_grpc.HealthStub(scene.admin.channel)
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=90)
        stack.callback(watched.cancel)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        postgres.kill()
        try:
            for ask in (lambda: scene.admin.runs.GetFlowRun(request), lambda: scene.run(flow)):
                with pytest.raises(grpc.RpcError) as refused:
                    ask()
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "database" in refused.value.details(), refused.value.details()
                assert "psycopg" not in refused.value.details()
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        finally:
            postgres.start()
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        assert scene.admin.runs.GetFlowRun(request).name == run.name
        agent = scene.agent()
        assert [lease.flow_run.name for lease in scene.lease(agent.name, 10)] == [run.name]
