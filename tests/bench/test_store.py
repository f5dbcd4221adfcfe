"""Figures of the store: CPU time of one process, beside a calibration loop."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.contract.store.helpers import TOKEN, Bench, new_run

from heliograph.engine.codes import StateCode
from heliograph_control_plane.store.records import EventBatch, TaskEvent

pytestmark = pytest.mark.bench

_RUNNING, _SUCCESS = int(StateCode.RUNNING), int(StateCode.SUCCESS)


def calibration() -> float:
    """Returns the CPU seconds of a fixed loop, so that figures of two machines compare."""
    start = time.process_time()
    total = 0
    for number in range(2_000_000):
        total += number
    return time.process_time() - start


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A SQLite store."""
    return Bench(f"sqlite:///{tmp_path}/bench.db")


def test_transitions_in_batches_of_a_hundred(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [bench.submitted() for _ in range(8)]
    batches = [
        EventBatch(
            run.run_id, run.epoch, first,
            tuple(TaskEvent((first + n) // 2, -1, _SUCCESS if n % 2 else _RUNNING, first + n, 1) for n in range(100)),
        )
        for first in range(1, 5_001, 100)
        for run in runs
    ]  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    pending = [bench.store.apply_event_batch(batch) for batch in batches[:160]]
    for one in pending:
        one.result()
    for start in range(160, len(batches), 8):
        for one in [bench.store.apply_event_batch(batch) for batch in batches[start : start + 8]]:
            one.result()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = len(batches) * 100
    bench.close()
    with capsys.disabled():
        print(
            f"\ntransitions, SQLite FULL, batches of 100: {cpu / count * 1e6:.1f} µs CPU each,"
            f" {count / wall:,.0f}/s (calibration {calibration():.3f} s)"
        )
    assert cpu / count <= 50e-6


def test_creating_and_claiming(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    count = 1_000
    cpu = time.process_time()
    for one in [bench.store.create_flow_run(new_run(f"r{n}")) for n in range(count)]:
        one.result()
    created = time.process_time() - cpu
    cpu = time.process_time()
    claimed = 0
    while leases := bench.lease(count=10):
        claimed += len(leases)
        for one in [bench.store.accept_flow_run("a", x.flow_run.run_id, x.epoch, TOKEN) for x in leases]:
            one.result()
    taken = time.process_time() - cpu
    bench.close()
    assert claimed == count
    with capsys.disabled():
        each = [f"{seconds / count * 1e6:.0f} µs CPU" for seconds in (created, taken)]
        print(f"\nruns created: {each[0]}; leased by ten and accepted: {each[1]}")
