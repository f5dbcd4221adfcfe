"""What a server holds for a crowd of idle agents, each with a connection, a parked poll and heartbeats of its own.

Memory and CPU time of the server's process, how long a run waits for one of them, and how they come back when the
server was away: not all in the same second.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import psutil
import pytest
from tests.bench.budgets import BUDGETS, measured
from tests.bench.calibration import slowness
from tests.bench.conftest import Say
from tests.support.control_plane import ControlPlaneProcess, channel
from tests.support.crowd import CrowdProcess, crowd
from tests.support.scene import bundle, graph

from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    flow_run_service_pb2_grpc,
    flow_service_pb2_grpc,
    project_service_pb2_grpc,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(400)]

BUDGET_MEBIBYTES = BUDGETS["server with 1,000 idle agents, memory"].limit
BUDGET_CORE = BUDGETS["server with 1,000 idle agents, processor"].limit / 100
BACK_SECONDS = 30.0
WATCHED_SECONDS = 30.0


def seconds_of_cpu(server: ControlPlaneProcess) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@pytest.mark.parametrize("agents", [200, 1_000])
def test_idle_agents(agents: int, tmp_path: Path, say: Say) -> None:
    server = ControlPlaneProcess(tmp_path)
    server.start()
    try:
        with channel(server.address, server.token) as made:
            project_service_pb2_grpc.ProjectServiceStub(made).CreateProject(
                projects_pb.CreateProjectRequest(project_id="p")
            )
            flow_service_pb2_grpc.FlowServiceStub(made).RegisterFlowVersion(
                flows_pb.RegisterFlowVersionRequest(
                    parent="projects/p", flow_id="f", bundle=bundle(), graph=graph("one")
                )
            )
        empty = psutil.Process(server.pid).memory_info().rss / 2**20
        with crowd(server, agents, spread_seconds=10.0) as loaded:
            loaded.ask("mark")
            before = seconds_of_cpu(server)
            time.sleep(WATCHED_SECONDS)
            core = (seconds_of_cpu(server) - before) / WATCHED_SECONDS
            memory = psutil.Process(server.pid).memory_info().rss / 2**20
            calls = sum(map(len, loaded.ask("mark")["answered"]))
            waits = claim_latencies(server, loaded, 50)
            say(
                f"{agents:,} idle agents, a connection each: server {memory:.0f} MB ({empty:.0f} without them, budget"
                f" {BUDGET_MEBIBYTES:.0f}), {core:.1%} of a core (budget {BUDGET_CORE:.0%}),"
                f" {calls / WATCHED_SECONDS:.0f} calls/s"
            )
            say(
                f"    a run appears → accepted by one of them and launched: p50 {percentile(waits, 0.5):.0f},"
                f" p99 {percentile(waits, 0.99):.0f} ms (budget 500)"
            )
            away = loaded.return_to(server, away_seconds=5.0)
        say(
            f"    server killed and back after 5 s: all polls and heartbeats back within {away.seconds:.0f} s"
            f" (budget {BACK_SECONDS:.0f}), most agents in one second {away.most_agents} (budget 100),"
            f" most calls in one second {away.most_calls}"
        )
        if agents == 1_000:
            measured("server with 1,000 idle agents, memory", "resident", memory)
            measured("server with 1,000 idle agents, processor", f"over {WATCHED_SECONDS:.0f} s", core * 100)
        assert memory <= BUDGET_MEBIBYTES
        assert core <= BUDGET_CORE * slowness()
        assert away.most_agents <= 100
    finally:
        server.kill()


def claim_latencies(server: ControlPlaneProcess, loaded: CrowdProcess, count: int) -> list[float]:
    """Creates runs one after the other; returns the ms from each creation to its launch."""
    created = {}
    with channel(server.address, server.token) as made:
        runs = flow_run_service_pb2_grpc.FlowRunServiceStub(made)
        for _ in range(count):
            begun = time.time_ns() // 1000
            request = runs_pb.CreateFlowRunRequest(
                parent="projects/p", flow="projects/p/flows/f", request_id=uuid.uuid4().hex
            )
            created[runs.CreateFlowRun(request).name.rpartition("/")[2]] = begun
            time.sleep(0.05)
    deadline = time.monotonic() + 60
    while len(launched := dict(loaded.ask("tell")["launched"])) < count:
        assert time.monotonic() < deadline, "every run finds an agent"
        time.sleep(0.1)
    return [(launched[run] - begun) / 1e3 for run, begun in created.items()]
