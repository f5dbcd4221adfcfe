"""Two control planes on a PostgreSQL with fifteen connections: calls are answered or refused plainly, none hangs."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest
from tests.support.control_plane import control_plane
from tests.support.figures import Figure
from tests.support.postgres import PostgresCluster, find_binaries
from tests.support.scene import Scene

from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph_control_plane.store import readers

MOST = 15
CLIENTS = 8
RUNS = 15
"""Of each client."""


@pytest.fixture(scope="module")
def small() -> Iterator[PostgresCluster]:
    binaries = find_binaries()
    assert binaries is not None, "PostgreSQL's server is not installed: apt-get install postgresql"
    cluster = PostgresCluster(binaries, f"max_connections = {MOST}\nsuperuser_reserved_connections = 0\n")
    yield cluster
    cluster.stop()


def take_the_rest(stack: ExitStack, url: str) -> int:
    """Holds connections until no more is given; returns how many."""
    for taken in range(MOST + 1):
        try:
            stack.enter_context(psycopg.connect(url))
        except psycopg.OperationalError:
            return taken
    raise AssertionError("connections have no end")


class Clients:
    """Clients that create runs, each call repeated under its request id until it is answered."""

    def __init__(self, scenes: list[Scene], flow: str) -> None:
        self.refused: Counter[grpc.StatusCode] = Counter()
        self.made: list[str] = []
        self.failures: list[BaseException] = []
        self._scenes, self._flow = scenes, flow
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in self._threads), "nobody waits for ever"
        assert not self.failures, self.failures

    def _work(self, number: int) -> None:
        api = self._scenes[number % 2].admin
        parent = "/".join(self._flow.split("/")[:2])
        try:
            for _ in range(RUNS):
                request = runs_pb.CreateFlowRunRequest(parent=parent, flow=self._flow, request_id=uuid.uuid4().hex)
                while (name := self._create(api.runs, request)) is None:
                    time.sleep(0.02)
                self.made.append(name)
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            self.failures.append(error)

    def _create(self, runs: object, request: runs_pb.CreateFlowRunRequest) -> str | None:
        try:
            return str(runs.CreateFlowRun(request, timeout=60).name)  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            self.refused[error.code()] += 1
            return None


def crowded(folder: Path, url: str) -> tuple[int, int]:
    """Has clients work while all other connections are taken, then when they are free again.

    Returns how many calls were refused, and how many connections were held meanwhile.
    """
    with (
        control_plane(folder, database=url) as one,
        control_plane(folder, database=url) as two,
        ExitStack() as stack,
    ):
        scenes = [Scene(stack, plane) for plane in (one, two)]
        project = scenes[0].project()
        flow = scenes[0].flow(project).name
        with ExitStack() as others:
            held = take_the_rest(others, url)
            clients = Clients(scenes, flow)
            clients.start()
            while len(clients.made) < CLIENTS * RUNS // 2 and not clients.refused and not clients.failures:
                time.sleep(0.01)
        clients.join()
        agent = scenes[1].agent()
        leased = [lease.flow_run.name for _ in range(20) for lease in scenes[1].lease(agent.name, max_runs=10)]
        assert len(set(clients.made)) == len(leased) == CLIENTS * RUNS, "each was made once, and given out once"
        assert set(leased) == set(clients.made)
        return clients.refused[grpc.StatusCode.UNAVAILABLE], held


def test_two_control_planes_share_few_connections(tmp_path: Path, small: PostgresCluster, figure: Figure) -> None:
    refused, held = crowded(tmp_path, small.store_database())
    figure(
        f"2 control planes, {MOST} connections, {held} of them taken by others: {CLIENTS * RUNS} runs made once each,"
        f" {refused} calls refused with UNAVAILABLE, none otherwise"
    )


def test_a_control_plane_that_calls_that_its_own_fault_is_found(
    tmp_path: Path, small: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin: what the database refuses is told as an error of the server."""
    monkeypatch.setattr(readers, "DBAPIError", ZeroDivisionError)
    with pytest.raises(Exception, match=r"INTERNAL|internal"):
        crowded(tmp_path, small.store_database())
