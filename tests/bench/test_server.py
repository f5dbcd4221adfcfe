"""Figures of a whole server: a real process on a durable store, loaded over loopback by clients in another process.

CPU time of the server's process stands beside a calibration loop; rates say what this machine did at that moment.
Limits are generous and only on CPU time per operation.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text
from tests.bench.budgets import measured
from tests.bench.test_store import calibration
from tests.support.control_plane import ControlPlaneProcess, channel
from tests.support.postgres import PostgresCluster, find_binaries, postgres
from tests.support.scene import bundle, graph

from heliograph.api.v1 import (
    agent_service_pb2 as agents_pb,
)
from heliograph.api.v1 import (
    agent_service_pb2_grpc,
    flow_service_pb2_grpc,
    project_service_pb2_grpc,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)

__all__ = ["postgres"]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

AGENTS = 16
_COLUMNS = (
    "uuid, project_id, flow_id, version_id, requirement_id, run_name, parameters_json, created_by, create_micros,"
    " scheduled_micros, state, state_micros, state_ordinal, ready_micros, deadline_micros"
)
_VALUES = (
    "substr(n, 1, 8) || '-0000-4000-8000-' || substr(n, 9), 1, 1, 1, 1, 'run-' || i, '{{}}', 'users/ann',"
    " {now}, {now} + i, 1, {now}, 1, {now} + i, {now} + 600000000000"
)
_FILL_SQLITE = (
    "WITH RECURSIVE given (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM given WHERE i < {count})"
    f" INSERT INTO flow_runs ({_COLUMNS}) SELECT {_VALUES} FROM (SELECT i, printf('%020d', i) AS n FROM given)"
)
_FILL_POSTGRESQL = (
    f"INSERT INTO flow_runs ({_COLUMNS}) SELECT {_VALUES}"
    " FROM (SELECT i, lpad(i::text, 20, '0') AS n FROM generate_series(1, {count}) AS i) AS given"
)


class Server:
    """A server with a flow and agents, and what loads it."""

    def __init__(self, folder: Path, url: str, store: str, data_dir: Path | None = None) -> None:
        self.url = url
        self.store = store
        self.process = ControlPlaneProcess(folder, *(("--database", url) if url else ()))
        self.process.data_dir = data_dir or self.process.data_dir  # where the first token is
        self.process.start()
        with channel(self.process.address, self.process.token) as made:
            project_service_pb2_grpc.ProjectServiceStub(made).CreateProject(
                projects_pb.CreateProjectRequest(project_id="p")
            )
            flow_service_pb2_grpc.FlowServiceStub(made).RegisterFlowVersion(
                flows_pb.RegisterFlowVersionRequest(
                    parent="projects/p", flow_id="f", bundle=bundle(),
                    graph=graph(
                        *(f"t{number}" for number in range(100)), parameters=(flows_pb.ParameterSpec(name="n"),)
                    ),
                )
            )  # fmt: skip
            agents = agent_service_pb2_grpc.AgentServiceStub(made)
            for number in range(AGENTS):
                agents.RegisterAgent(
                    agents_pb.RegisterAgentRequest(agent_id=f"a{number}", launcher="local", capacity=100)
                )

    def fill(self, count: int) -> None:
        """Puts runs into the queue, behind the server's back."""
        now = time.time_ns() // 1000 - 3_600_000_000
        if not self.url:
            self.process.terminate()
            connection = sqlite3.connect(self.process.data_dir / "heliograph.db")
            connection.execute(_FILL_SQLITE.format(now=now, count=count))
            connection.execute("ANALYZE")
            connection.commit()
            connection.close()
            self.process.start()
            return
        engine = create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection_:
            connection_.execute(text(_FILL_POSTGRESQL.format(now=now, count=count)))
            connection_.execute(text("ANALYZE flow_runs"))
        engine.dispose()

    def load(self, scenario: str, *flags: str, clients: int, count: int, at_once: int = 1) -> dict[str, Any]:
        """Loads the server; returns the clients' figures and the server's CPU seconds."""
        command = [
            sys.executable, "-m", "tests.bench.load", scenario, self.process.address, "--clients", str(clients),
            "--count", str(count), "--at-once", str(at_once), *flags,
        ]  # fmt: skip
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loading:
            assert loading.stdin is not None
            assert loading.stdout is not None
            loading.stdin.write(self.process.token + "\n")
            loading.stdin.flush()
            assert loading.stdout.readline() == "ready\n"
            before = self.cpu_seconds()
            loading.stdin.write("go\n")
            loading.stdin.close()
            figures: dict[str, Any] = json.loads(loading.stdout.readline())
            figures["cpu"] = self.cpu_seconds() - before
        return figures

    def cpu_seconds(self) -> float:
        """CPU time of the server's process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@pytest.fixture(scope="session")
def durable() -> Iterator[PostgresCluster]:
    """A PostgreSQL that syncs what it commits, as no other test's does."""
    binaries = find_binaries()
    assert binaries is not None
    cluster = PostgresCluster(binaries)
    for setting in ("fsync", "full_page_writes"):
        cluster.sql(f"ALTER SYSTEM SET {setting} = on")
    cluster.sql("SELECT pg_reload_conf()")
    yield cluster
    cluster.stop()


@pytest.fixture(params=["sqlite", "postgresql", "durable"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server on either store; on PostgreSQL with and without its syncs."""
    url, store = "", "SQLite FULL"
    if request.param != "sqlite":
        cluster: PostgresCluster = request.getfixturevalue(
            "postgres" if request.param == "postgresql" else request.param
        )
        url = cluster.store_database()
        store = "PostgreSQL, fsync on" if request.param == "durable" else "PostgreSQL, fsync off"
    made = Server(tmp_path, url, store)
    yield made
    made.process.terminate()


def tell(capsys: pytest.CaptureFixture[str], server: Server, what: str, figures: dict[str, Any]) -> float:
    """Prints figures; returns CPU seconds of the server per operation."""
    each: float = figures["cpu"] / figures["count"]
    with capsys.disabled():
        print(
            f"\n{what}, {server.store}: {figures['count'] / figures['seconds']:,.0f}/s,"
            f" {each * 1e6:.0f} µs of the server's CPU each, calls p50 {figures['p50'] * 1e3:.1f} ms"
            f" p99 {figures['p99'] * 1e3:.1f} ms (calibration {calibration():.3f} s)"
        )
    return each


def rate(figures: dict[str, Any]) -> float:
    """Operations a second."""
    return float(figures["count"] / figures["seconds"])


def test_creating_runs_by_eight_clients(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    figures = server.load("create", clients=8, count=4_000)
    assert tell(capsys, server, "runs created by 8 clients, one a call", figures) < 4e-3
    measured("runs created a second", f"one a call, {server.store}", rate(figures))
    figures = server.load("create", clients=8, count=16_000, at_once=50)
    assert tell(capsys, server, "runs created by 8 clients, fifty a call", figures) < 1e-3
    measured("runs created a second", f"fifty a call, {server.store}", rate(figures))


@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_claiming_among_many_runs(server: Server, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    server.fill(rows)
    figures = server.load("claim", clients=8, count=20_000, at_once=10)
    assert tell(capsys, server, f"claimed by ten, {rows:,} runs due", figures) < 1e-3
    measured("claims a second", f"{rows:,} due, {server.store}", rate(figures))
    figures = server.load("claim", "--rate", "1500", clients=8, count=9_000, at_once=10)
    tell(capsys, server, f"claimed by ten at 1,500/s, {rows:,} runs due", figures)
    measured("claim at 1,500/s, p99", f"{rows:,} due, {server.store}", figures["p99"] * 1e3)
    figures = server.load("claim", "--accept", clients=8, count=4_000, at_once=4)
    assert tell(capsys, server, f"claimed by four and each accepted, {rows:,} runs due", figures) < 4e-3


def test_acknowledged_transitions(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.fill(AGENTS)
    figures = server.load("report", clients=8, count=160_000, at_once=100)
    assert tell(capsys, server, "transitions in batches of 100 from 8 runs", figures) < 200e-6
    measured("acknowledged transitions a second", f"batches of 100, {server.store}", rate(figures))
