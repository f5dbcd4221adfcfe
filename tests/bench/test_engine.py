"""What the engine itself costs per task: CPU time of `flow.run()` with tasks that do nothing.

The figures stand beside a calibration loop of plain Python, and the limits scale with it: a slow or busy machine makes
both slower.
"""

from __future__ import annotations

import gc
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from tests.bench.budgets import measured
from tests.bench.calibration import CALIBRATION_MICROS, calibration

from heliograph.core.flow import Flow
from heliograph.engine.cache_validators import all_inputs
from heliograph.engine.state import State
from heliograph.executors import Executor, LocalDaskExecutor, LocalExecutor
from heliograph.utilities.tasks import task

pytestmark = pytest.mark.bench

BUDGET_MICROS = {"local": 20.0, "threads": 30.0}
EXECUTORS: dict[str, Callable[[], Executor]] = {
    "local": LocalExecutor,
    "threads": lambda: LocalDaskExecutor(num_workers=8),
}


@task
def start() -> int:
    return 0


@task
def same(x: int) -> int:
    return x


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


def chain(count: int) -> Flow:
    with Flow("chain") as flow:
        value = start()
        for _ in range(count - 1):
            value = same(value)
    return flow


def mapped(count: int) -> Flow:
    with Flow("map") as flow:
        same.map(numbers(count))
    return flow


def independent(count: int) -> Flow:
    with Flow("independent") as flow:
        for _ in range(count):
            start()
    return flow


SHAPES = {"chain": chain, "map": mapped, "independent": independent}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("heliograph")
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


def cpu(function: Callable[[], object]) -> float:
    """CPU seconds of a call, in all threads."""
    gc.collect()
    before = time.process_time()
    function()
    return time.process_time() - before


def overhead(flow: Flow, count: int, executor: str) -> float:
    """CPU µs per task, the best of three runs."""
    states: list[State | None] = []
    seconds = min(cpu(lambda: states.append(flow.run(executor=EXECUTORS[executor]()))) for _ in range(3))
    assert all(state is not None and state.is_successful() for state in states)
    return seconds / count * 1e6


@pytest.mark.parametrize("executor", sorted(EXECUTORS))
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_overhead_per_task(shape: str, executor: str) -> None:
    unit = calibration()
    small = overhead(SHAPES[shape](1_000), 1_000, executor)
    large = overhead(SHAPES[shape](10_000), 10_000, executor)
    budget = BUDGET_MICROS[executor] * max(1.0, unit / CALIBRATION_MICROS)
    print(
        f"\n{shape:12} {executor:8} 1,000: {small:5.1f}  10,000: {large:5.1f} CPU µs per task"
        f"  (calibration {unit:.3f} µs, budget {budget:.0f} µs)"
    )
    if executor == "local":
        measured("task in process", f"{shape}, 1,000", small)
        measured("task in process", f"{shape}, 10,000", large)
    assert small <= budget
    assert large <= budget
    assert large <= 1.6 * small + 2  # linear


def test_results_of_a_large_map() -> None:
    flow = mapped(10_000)
    state = flow.run()
    assert state is not None
    (parent,) = (s for s in state.result.values() if s.is_mapped())
    first = cpu(lambda: parent.result) / 10_000 * 1e6
    again = cpu(lambda: parent.result) / 10_000 * 1e6
    print(f"\nresult of 10,000 children: {first:.2f} CPU µs each, again {again:.4f}")
    assert first <= 2 * max(1.0, calibration() / CALIBRATION_MICROS)
    assert again <= 0.1


def test_cached_children() -> None:
    """A child whose inputs are looked up among all that were cached before it costs the same in a large map."""
    told: dict[tuple[int, str], float] = {}
    for count in (400, 3_200):
        kept = task(lambda x: x, name="kept", cache_for=timedelta(hours=1), cache_validator=all_inputs)
        kept.cache_key = str(uuid.uuid4())
        with Flow("cached") as flow:
            kept.map(numbers(count))
        states: list[State | None] = []
        for what in ("new", "found"):
            told[count, what] = cpu(lambda: states.append(flow.run())) / count * 1e6  # noqa: B023 - called at once
        assert all(state is not None and state.is_successful() for state in states)
    for what in ("new", "found"):
        small, large = told[400, what], told[3_200, what]
        print(f"\ncached children, {what}: 400: {small:.0f}, 3,200: {large:.0f} CPU µs each, ratio {large / small:.2f}")
        assert large <= 2 * small
