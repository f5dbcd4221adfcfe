"""Figures of a whole Heliograph: real control plane, real agent, real flow processes, on loopback and SQLite.

What a run costs is told as CPU time and memory of the processes concerned; times by the clock are printed and never
asserted, because they say as much about what else this machine does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.bench.budgets import measured
from tests.bench.calibration import slowness
from tests.bench.conftest import Say, cpu_seconds, mebibytes
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.api.v1 import flow_run_service_pb2 as api
from heliograph.api.v1 import task_run_service_pb2 as tasks_api
from heliograph.client.connection import Connection
from heliograph.engine.codes import StateCode

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1_200)]

START = """
import os, time
from heliograph import Flow, task

@task
def first():
    now = time.time_ns()
    run = os.environ["HELIOGRAPH_FLOW_RUN"].rpartition("/")[2]
    with open(os.path.join(os.environ["BENCH_OUT"], run), "w") as file:
        file.write(str(now))

with Flow("start") as flow:
    first()
"""

CHAIN = """
import atexit, json, os, time
from heliograph import Flow, task

COUNT = {count}

def processor_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

@task
def begin():
    return [time.process_time(), processor_seconds(os.getppid())]

@task
def step(x):
    return x

@task
def end(begun):
    run = os.environ["HELIOGRAPH_FLOW_RUN"].rpartition("/")[2]
    path = os.path.join(os.environ["BENCH_OUT"], run)
    spent = {"supervisor": os.getppid(), "supervisor_begun": begun[1], "time": time.time_ns()}
    with open(path, "w") as file:
        json.dump(spent, file)

    @atexit.register
    def exiting():
        with open(path + ".flow", "w") as file:
            file.write(str(time.process_time() - begun[0]))

with Flow("chain_{count}") as flow:
    x = begin()
    for _ in range(COUNT - 2):
        x = step(x)
    end(x)
"""

WAIT = """
import os, time
from heliograph import Flow, task

@task
def wait():
    run = os.environ["HELIOGRAPH_FLOW_RUN"].rpartition("/")[2]
    path = os.path.join(os.environ["BENCH_OUT"], run)
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {os.getppid()}")
    while os.path.exists(path):
        time.sleep(0.05)

with Flow("wait") as flow:
    wait()
"""

CHAINS = {f"chain_{count}": CHAIN.replace("{count}", str(count)) for count in (1_000, 10_000)}
CAPACITY = 8


class Bench:
    """A stack with its flows, and one connection to it.

    Attributes:
        out: Where the flows write what they measured, a file a run.
    """

    def __init__(self, stack: Stack, out: Path, connection: Connection) -> None:
        self.stack, self.out, self.connection = stack, out, connection
        assert stack.control_plane is not None
        self.server = psutil.Process(stack.control_plane.pid)
        self.agent = psutil.Process(stack.agents[0].pid)

    def create(self, flow: str) -> str:
        """Creates a run and returns its id."""
        request = api.CreateFlowRunRequest(
            parent=f"projects/{PROJECT}", flow=f"projects/{PROJECT}/flows/{flow}", request_id=uuid.uuid4().hex
        )
        name: str = self.connection.call(self.connection.services.flow_runs.CreateFlowRun, request).name
        return name.rpartition("/")[2]

    def get(self, run: str) -> api.FlowRun:
        """Returns a run."""
        request = api.GetFlowRunRequest(name=f"projects/-/flowRuns/{run}")
        return self.connection.call(self.connection.services.flow_runs.GetFlowRun, request)

    def finished(self, run: str, seconds: float = 120.0) -> None:
        """Waits until a run has succeeded."""
        limit = time.monotonic() + seconds
        while not StateCode(self.get(run).state).is_finished:
            assert time.monotonic() < limit, f"not within {seconds:.0f} s: run {run} is finished"
            time.sleep(0.03)
        assert StateCode(self.get(run).state) is StateCode.SUCCESS, self.get(run)

    def written(self, run: str) -> str:
        """Waits for what a run wrote."""
        path = self.out / run
        wait_until(lambda: path.exists() and path.read_text(), f"run {run} wrote its figures", 120.0)
        return path.read_text()

    def quiet(self) -> None:
        """Waits until nothing is left of earlier runs but what an idle agent keeps."""
        wait_until(lambda: len(self.family()) <= IDLE_FAMILY, "all processes are gone that an idle agent lets go", 90.0)
        time.sleep(0.5)

    def family(self) -> list[psutil.Process]:
        """Returns everything that descends from the agent."""
        return [self.agent, *self.agent.children(recursive=True)]


IDLE_FAMILY = 4
"""The agent, its warm parent, and one supervisor with its flow process that stand by."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One control plane and one idle agent, shared by the figures."""
    root = tmp_path_factory.mktemp("system")
    out = root / "out"
    out.mkdir()
    stack = Stack(root, agent_args=["--capacity", str(CAPACITY)], environment={"BENCH_OUT": str(out)})
    try:
        stack.start_control_plane()
        for name, source in (("start", START), ("wait", WAIT), *CHAINS.items()):
            stack.register(source, file=f"{name}_flow.py")
        stack.start_agent()
        with stack.connection() as connection:
            made = Bench(stack, out, connection)
            for flow in ("start", "start", "start"):  # the bundle is cached from here on
                made.finished(made.create(flow))
            made.quiet()
            yield made
    finally:
        stack.stop()


def spread(values: list[float]) -> str:
    """Median, 95th percentile and extremes."""
    p50, p95 = share(values, 50), share(values, 95)
    return f"p50 {p50:.0f}, p95 {p95:.0f}, least {min(values):.0f}, most {max(values):.0f} ms"


def share(values: list[float], percent: int) -> float:
    """The value below which so many of a hundred lie."""
    return sorted(values)[len(values) * percent // 100]


@pytest.mark.parametrize("at_once", [1, 4])
def test_from_created_to_the_first_line_of_the_user(bench: Bench, say: Say, at_once: int) -> None:
    total: dict[str, list[float]] = {
        "first line": [],
        "created → answered": [],
        "created → committed": [],
        "flow process begun": [],
    }
    before = cpu_seconds(bench.server, bench.agent)

    def one(_: int) -> None:
        start = time.time_ns()
        run = bench.create("start")
        answered = time.time_ns()
        line = int(bench.written(run))
        bench.finished(run)
        found = bench.get(run)
        total["first line"].append((line - start) / 1e6)
        total["created → answered"].append((answered - start) / 1e6)
        total["created → committed"].append((found.create_time.ToNanoseconds() - start) / 1e6)
        total["flow process begun"].append((found.start_time.ToNanoseconds() - start) / 1e6)
        time.sleep(0.2)  # an idle agent, as the budget says

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(100)))
    spent = (cpu_seconds(bench.server, bench.agent) - before) / 100 * 1e3
    for percent in (50, 95):
        measured(f"run created to first line, p{percent}", f"{at_once} at a time", share(total["first line"], percent))
    say(f"run created → first user line, {at_once} at a time: {spread(total.pop('first line'))} (budget 30, 100)")
    for hop, values in total.items():
        say(f"    {hop}: {spread(values)}")
    say(f"    server and agent: {spent:.1f} ms of CPU a run")
    assert spent <= 120 * slowness()


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_every_state_of_a_chain_is_acknowledged(bench: Bench, say: Say, count: int) -> None:
    bench.quiet()
    server = cpu_seconds(bench.server)
    run = bench.create(f"chain_{count}")
    spent = json.loads(bench.written(run))
    supervisor = psutil.Process(spent["supervisor"])
    last, visible = 0.0, 0
    with contextlib.suppress(psutil.NoSuchProcess):  # its end is what is waited for
        while True:
            last = cpu_seconds(supervisor)
            if not visible and StateCode(bench.get(run).state).is_finished:
                visible = time.time_ns()
    found = bench.get(run)
    flow = float(bench.written(f"{run}.flow")) / count * 1e6
    shipped = (last - spent["supervisor_begun"]) / count * 1e6
    late = ((visible or time.time_ns()) - spent["time"]) / 1e9
    request = tasks_api.ListTaskRunsRequest(parent=found.name, page_size=1)
    assert bench.connection.call(bench.connection.services.task_runs.ListTaskRuns, request).task_runs
    say(
        f"chain of {count:,}, every state acknowledged: {flow + shipped:.0f} µs of CPU a task (budget 50):"
        f" flow process {flow:.0f}, supervisor {shipped:.0f}; the server"
        f" {(cpu_seconds(bench.server) - server) / count * 1e6:.0f}; all visible {late:.2f} s after the last task"
        " (budget 1)"
    )
    measured("task with every state acknowledged", f"chain of {count:,}", flow + shipped)
    measured("all states visible after the last task", f"chain of {count:,}", late)
    assert found.last_sequence >= 2 * count
    assert flow + shipped <= 150 * slowness()


def test_idle(bench: Bench, say: Say) -> None:
    bench.quiet()
    seconds = 10.0
    family = bench.family()
    before = cpu_seconds(bench.server), cpu_seconds(*family)
    time.sleep(seconds)
    server, agent = cpu_seconds(bench.server) - before[0], cpu_seconds(*family) - before[1]
    say(
        f"idle for {seconds:.0f} s: server {server / seconds:.2%} of a core, agent with all that stands by"
        f" {agent / seconds:.2%} (budget 1 %)"
    )
    measured("idle agent, processor", "with all that stands by", agent / seconds * 100)
    assert server / seconds <= 0.05 * slowness()
    assert agent / seconds <= 0.05 * slowness()


def test_memory(bench: Bench, say: Say) -> None:
    bench.quiet()
    family = bench.family()
    measured("idle server, memory", "resident", mebibytes(bench.server, kind="rss"))
    measured("idle agent, memory", "with all that stands by, proportional", mebibytes(*family))
    say(
        f"idle: server {mebibytes(bench.server, kind='rss'):.0f} MB (budget 120),"
        f" agent {mebibytes(*family):.0f} MB (budget 80): itself {mebibytes(bench.agent):.0f},"
        f" its {len(family) - 1} processes {mebibytes(*family[1:]):.0f}"
    )
    runs = [bench.create("wait") for _ in range(CAPACITY)]
    pids = [tuple(map(int, bench.written(run).split())) for run in runs]
    time.sleep(1.0)
    flows, supervisors = ([mebibytes(psutil.Process(pair[which]), kind="uss") for pair in pids] for which in (0, 1))
    for run in runs:
        (bench.out / run).unlink()
        bench.finished(run)
    each = (sum(flows) + sum(supervisors)) / CAPACITY
    say(
        f"a run's own memory: {each:.1f} MB (budget 40): flow process {sum(flows) / CAPACITY:.1f},"
        f" supervisor {sum(supervisors) / CAPACITY:.1f}"
    )
    measured("memory of a local run", "flow process and supervisor, unique", each)
    assert each <= 40
    assert mebibytes(bench.server, kind="rss") <= 240
    assert mebibytes(*family[:2]) <= 160


def test_runs_through_one_agent(bench: Bench, say: Say) -> None:
    bench.quiet()
    processes = bench.server, bench.agent, bench.agent.children()[0]
    first = [mebibytes(process, kind="rss") for process in processes]
    before, start = cpu_seconds(*processes[:2]), time.monotonic()
    runs = [bench.create("start") for _ in range(1_000)]
    for run in runs:
        bench.finished(run, 900.0)
    seconds = time.monotonic() - start
    spent = (cpu_seconds(*processes[:2]) - before) / len(runs) * 1e3
    bench.quiet()
    last = [mebibytes(process, kind="rss") for process in processes]
    say(
        f"{len(runs)} runs through one agent of capacity {CAPACITY}: {len(runs) / seconds:.0f} runs/s on"
        f" {os.cpu_count()} cores, server and agent {spent:.0f} ms of CPU each"
    )
    names = ("server", "agent", "warm parent")
    grown = ", ".join(f"{name} {a:.0f} → {b:.0f} MB" for name, a, b in zip(names, first, last, strict=True))
    say(f"    memory over these runs: {grown}; {(sum(last) - sum(first)) / len(runs) * 1024:.1f} KB a run")
    for name, a, b in zip(names, first, last, strict=True):
        measured(f"memory gained over 1,000 runs, {name}", "resident", b - a)
    assert sum(last) - sum(first) <= 50
