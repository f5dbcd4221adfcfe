"""Log lines through an agent to a server: how many in a second, what they cost, and how soon states of another run are
seen meanwhile.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.bench.calibration import slowness
from tests.bench.conftest import Say, cpu_seconds
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.api.v1 import flow_run_service_pb2 as api
from heliograph.api.v1 import log_service_pb2 as logs_api
from heliograph.client.connection import Connection
from heliograph.engine.codes import StateCode

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

LINES = 100_000

FLOOD = """
import os, time
from pathlib import Path
import heliograph
from heliograph import Flow, Parameter, task

def processor_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

@task
def flood(count, out):
    logger = heliograph.context.logger
    begun, shipper = time.process_time(), processor_seconds(os.getppid())
    for number in range(count):
        logger.info("line %d of a flood", number)
    shipper = processor_seconds(os.getppid()) - shipper
    Path(out).write_text(f"{time.process_time() - begun} {shipper}")

with Flow("flood") as flow:
    flood(Parameter("count"), Parameter("out"))
"""

STEPS = """
import time
from heliograph import Flow, Parameter, task

@task
def step(before):
    time.sleep(0.02)

with Flow("steps") as flow:
    before = None
    for _ in range(150):
        before = step(before)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path, agent_args=["--capacity", "4"])
    try:
        made.start_control_plane()
        made.register(FLOOD, file="flood_flow.py")
        made.register(STEPS, file="steps_flow.py")
        made.start_agent()
        yield made
    finally:
        made.stop()


def create(connection: Connection, flow: str, parameters: str = "{}") -> str:
    request = api.CreateFlowRunRequest(
        parent=f"projects/{PROJECT}", flow=f"projects/{PROJECT}/flows/{flow}", request_id=uuid.uuid4().hex,
        parameters_json=parameters,
    )  # fmt: skip
    name: str = connection.call(connection.services.flow_runs.CreateFlowRun, request).name
    return name


def state_latencies(stack: Stack) -> list[float]:
    """Runs the steps; returns for each state how many ms after the flow told it a watcher saw it."""
    latencies = []
    with stack.connection() as connection:
        run = create(connection, "steps")
        request = api.WatchFlowRunsRequest(
            parent=f"projects/{PROJECT}", flow_runs=[run], include_task_runs=True, until_finished=True
        )
        for answer in connection.services.flow_runs.WatchFlowRuns(request, timeout=300):
            now = time.time_ns()
            latencies += [
                (now - (task.end_time if task.HasField("end_time") else task.start_time).ToNanoseconds()) / 1e6
                for task in answer.task_runs
                if task.HasField("start_time")
            ]
        found = connection.call(connection.services.flow_runs.GetFlowRun, api.GetFlowRunRequest(name=run))
    assert StateCode(found.state) is StateCode.SUCCESS
    return sorted(latencies)


def spread(values: list[float]) -> str:
    return f"p50 {values[len(values) // 2]:.0f}, p99 {values[len(values) * 99 // 100]:.0f} ms"


def stored(connection: Connection, run: str) -> tuple[int, int, str]:
    """Returns how many lines a run has, how many of them twice, and how many were dropped, by reading all of them."""
    seen, count, dropped, token = set(), 0, 0, ""
    while True:
        page = connection.call(
            connection.services.logs.ListLogEntries,
            logs_api.ListLogEntriesRequest(parent=run, page_size=5_000, page_token=token),
        )
        seen.update(entry.sequence for entry in page.entries)
        count += len(page.entries)
        dropped += sum(entry.dropped_before for entry in page.entries)
        token = page.next_page_token
        if not token:
            return count, count - len(seen), f"{dropped:,}"


def test_a_flood_of_log_lines(stack: Stack, tmp_path: Path, say: Say) -> None:
    assert stack.control_plane is not None
    server = psutil.Process(stack.control_plane.pid)
    quiet = state_latencies(stack)
    with stack.connection() as connection:
        out = tmp_path / "spent"
        before, start = cpu_seconds(server), time.monotonic()
        run = create(connection, "flood", f'{{"count": {LINES}, "out": "{out}"}}')
        beside: list[float] = []
        watching = threading.Thread(target=lambda: beside.extend(state_latencies(stack)))
        watching.start()
        text: str = wait_until(lambda: out.exists() and out.read_text(), "the lines are written", 300.0)
        written = time.monotonic() - start
        seconds, shipped = map(float, text.split())
        get = api.GetFlowRunRequest(name=run)
        while not StateCode(connection.call(connection.services.flow_runs.GetFlowRun, get).state).is_finished:
            time.sleep(0.02)
        taken = time.monotonic() - start
        watching.join()
        spent = cpu_seconds(server) - before
        count, twice, dropped = stored(connection, run)
    each = 1e6 / LINES
    say(
        f"{LINES:,} log lines: written in {written:.1f} s, all stored after {taken:.1f} s ({count / taken:,.0f}/s);"
        f" {count:,} stored, {twice} twice, {dropped} dropped; µs of CPU a line: flow process"
        f" {seconds * each:.0f}, supervisor {shipped * each:.1f}, server {spent * each:.1f}"
    )
    say(f"    states of another run seen: alone {spread(quiet)}, beside the flood {spread(beside)} (budget 1,000)")
    assert twice == 0
    assert count + int(dropped.replace(",", "")) >= LINES
    assert seconds * each <= 200 * slowness()
