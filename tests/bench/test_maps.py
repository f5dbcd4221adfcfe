"""Large maps: in a process of their own, and under an agent with every state acknowledged.

Memory is the peak of the process that runs the flow, the driver; CPU time is told for each child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.bench.budgets import BUDGETS, measured
from tests.bench.calibration import slowness
from tests.bench.conftest import Say, cpu_seconds, mebibytes
from tests.support.history import task_runs
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import StateCode

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SIZES = [10_000, 50_000]
BUDGET_MEBIBYTES = BUDGETS["driver of a map of 50,000, memory"].limit
BUDGET_MICROS = {"in process": 20, "under an agent": 50}

FLOW = """
import atexit, json, os, re, time
from heliograph import Flow, Parameter, task

def processor_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

@task
def numbers(count, out):
    begun, supervisor = time.process_time(), processor_seconds(os.getppid())

    @atexit.register
    def spent():
        told = {
            "cpu": time.process_time() - begun,
            "supervisor": processor_seconds(os.getppid()) - supervisor,
            "mebibytes": int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024,
        }
        with open(out, "w") as file:
            json.dump(told, file)

    return list(range(count))

@task
def same(x):
    return x

@task
def total(xs):
    assert len(xs) > 1
    return sum(xs)

with Flow("map") as flow:
    total(same.map(numbers(Parameter("count"), Parameter("out"))))
"""


def words(what: str, size: int, told: dict[str, float]) -> str:
    each = (told["cpu"] + told.get("supervisor", 0.0)) / size * 1e6
    return (
        f"map of {size:,} children {what}: driver {told['mebibytes']:.0f} MB (budget {BUDGET_MEBIBYTES:.0f}),"
        f" {each:.1f} µs of CPU a child (budget {BUDGET_MICROS[what]})"
    )


def check(what: str, size: int, told: dict[str, float]) -> None:
    if size == max(SIZES):
        measured("driver of a map of 50,000, memory", what, told["mebibytes"])
    assert told["mebibytes"] <= BUDGET_MEBIBYTES
    assert (told["cpu"] + told.get("supervisor", 0.0)) / size * 1e6 <= 3 * BUDGET_MICROS[what] * slowness()


@pytest.mark.parametrize("size", SIZES)
def test_a_large_map_in_process(size: int, tmp_path: Path, say: Say) -> None:
    file, out = tmp_path / "map_flow.py", tmp_path / "out"
    end = f"assert flow.run(parameters=dict(count={size}, out={str(out)!r})).is_successful()"
    file.write_text(f"{FLOW}\n{end}\n")
    environment = {**os.environ, "HELIOGRAPH__LOGGING__LEVEL": "WARNING"}
    subprocess.run([sys.executable, str(file)], check=True, env=environment, timeout=300)
    told = json.loads(out.read_text())
    told.pop("supervisor")
    say(words("in process", size, told))
    check("in process", size, told)


@pytest.mark.parametrize("size", SIZES)
def test_a_large_map_under_an_agent(size: int, tmp_path: Path, say: Say) -> None:
    stack = Stack(tmp_path, environment={"HELIOGRAPH__LOGGING__LEVEL": "WARNING"})
    try:
        stack.start_control_plane()
        stack.register(FLOW)
        stack.start_agent()
        assert stack.control_plane is not None
        server = psutil.Process(stack.control_plane.pid)
        out = tmp_path / "out"
        before, idle = cpu_seconds(server), mebibytes(server, kind="rss")
        run = stack.run("map", f"count={size}", f"out={out}")
        told = json.loads(wait_until(lambda: out.exists() and out.read_text(), "the flow ends", 300.0))
        ended = time.monotonic()
        stack.wait_for(run, StateCode.SUCCESS, seconds=120.0)
        late = time.monotonic() - ended
        spent = (cpu_seconds(server) - before) / size * 1e6
        children = [found for found in task_runs(stack, run) if found.HasField("map_index")]
        say(
            f"{words('under an agent', size, told)}: flow process {told['cpu'] / size * 1e6:.1f}, supervisor"
            f" {told['supervisor'] / size * 1e6:.1f}; server {spent:.1f}, memory {idle:.0f} →"
            f" {mebibytes(server, kind='rss'):.0f} MB; the run seen ended {late:.2f} s after the process"
        )
        assert {child.map_index for child in children} == set(range(size))
        assert {StateCode(child.state) for child in children} == {StateCode.SUCCESS}
        check("under an agent", size, told)
    finally:
        stack.stop()
