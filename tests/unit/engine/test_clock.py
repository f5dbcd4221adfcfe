"""The engine's clock: time passes in it, whatever is done to the machine's."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from heliograph import Flow, task
from heliograph.engine.clock import SystemClock

DAY_SECONDS = 24 * 3600


@pytest.mark.parametrize("step_seconds", [DAY_SECONDS, -DAY_SECONDS])
def test_setting_the_machines_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch, step_seconds: int) -> None:
    clock, real = SystemClock(), time.time_ns
    assert abs(clock.now() - real() // 1000) < 1_000_000
    before = clock.now()
    monkeypatch.setattr(time, "time_ns", lambda: real() + step_seconds * 10**9)
    assert 0 <= clock.now() - before < 1_000_000
    with (condition := threading.Condition()):
        started = time.monotonic()
        clock.wait(condition, clock.now() + 20_000)
        assert time.monotonic() - started >= 0.02


@pytest.mark.timeout(20)
@pytest.mark.parametrize("step_seconds", [DAY_SECONDS, -DAY_SECONDS])
def test_a_retry_waits_for_its_delay_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch, step_seconds: int) -> None:
    real, tries = time.time_ns, []

    @task(max_retries=1, retry_delay=timedelta(seconds=0.3))
    def fail_once() -> None:
        tries.append(time.monotonic())
        if len(tries) == 1:
            monkeypatch.setattr(time, "time_ns", lambda: real() + step_seconds * 10**9)
            raise RuntimeError("once")

    with Flow("steps") as flow:
        fail_once()
    assert flow.run().is_successful()
    assert 0.25 < tries[1] - tries[0] < 5
