"""The process's one alarm clock is shared: an alarm that was set around a run is never lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.executors.conftest import Runner

from heliograph.core.flow import Flow
from heliograph.engine.codes import StateCode
from heliograph.engine.flow_runner import FlowRunner
from heliograph.engine.state import TimedOut
from heliograph.executors import Executor, ThreadsExecutor
from heliograph.utilities.tasks import task

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs alarms")


class GivenUp(BaseException):
    """What a watchdog raises, as test runners do: no `except Exception` may hold it up."""


class TooLate(Exception):
    """What a script's own watchdog may raise."""


@pytest.fixture(params=[GivenUp, TooLate])
def watchdog(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """Sets an alarm around the test's run, and gives back the one that was there."""

    def bark(*_: object) -> None:
        raise request.param

    handler = signal.signal(signal.SIGALRM, bark)
    before = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        yield request.param
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)


def hang(seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def test_a_watchdog_around_a_run_ends_it_and_is_heard(run: Runner, watchdog: type[BaseException]) -> None:
    after: list[int] = []
    with Flow("f") as flow:
        w = task(hang, name="w", max_retries=3, retry_delay=timedelta(0))()
        task(lambda: after.append(1), name="after", trigger=lambda _: True)(upstream_tasks=[w])
    with pytest.raises(watchdog):
        run(flow)
    assert not after
    assert run.sink.flow_events == [StateCode.RUNNING, StateCode.FAILED]


def test_a_watchdog_is_heard_while_a_run_waits(executor: Executor, watchdog: type[BaseException]) -> None:
    def fail() -> None:
        raise ValueError

    with Flow("f") as flow:
        task(fail, name="w", max_retries=1, retry_delay=timedelta(hours=1))()
    with pytest.raises(watchdog):
        FlowRunner(flow).run(executor=executor)


def test_a_watchdog_is_heard_in_a_flow_inside_a_task(run: Runner, watchdog: type[BaseException]) -> None:
    with Flow("inner") as inner:
        task(hang, name="i")()
    with Flow("f") as flow:
        task(inner.run, name="o")()
    with pytest.raises(watchdog):
        run(flow)


def test_a_watchdog_is_heard_in_a_state_handler(run: Runner, watchdog: type[BaseException]) -> None:
    def handler(_task: Any, _old: Any, _new: Any) -> None:
        hang(0.5)  # it is called by the engine, which is not interrupted: the alarm is heard after it

    with Flow("f") as flow:
        task(lambda: 1, name="w", state_handlers=[handler])()
    with pytest.raises(watchdog):
        run(flow)


def test_an_alarm_without_a_handler_ends_the_process() -> None:
    code = """
import signal, time
from heliograph import Flow, task
with Flow("f") as flow:
    task(lambda: time.sleep(60), name="w")()
signal.setitimer(signal.ITIMER_REAL, 0.2)
flow.run()
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=False)
    assert done.returncode == -signal.SIGALRM, done.stderr.decode()


def test_a_limit_around_a_flow_with_threads_stops_those(run: Runner) -> None:
    started: list[int] = []
    others = set(threading.enumerate())

    def work(x: int) -> None:
        started.append(x)
        hang()

    with Flow("inner", executor=ThreadsExecutor(2)) as inner:
        task(work, name="i").map(list(range(50)))
    with Flow("f") as flow:
        o = task(inner.run, name="o", timeout=timedelta(seconds=0.5))()
    assert isinstance(run(flow).result[o], TimedOut)
    deadline = time.monotonic() + 30
    while any(thread.name.startswith("heliograph-") for thread in set(threading.enumerate()) - others):
        assert time.monotonic() < deadline, "threads of the inner run go on"
        time.sleep(0.01)
    assert sorted(started) == [0, 1]


def test_a_limit_in_a_worker_thread_leaves_the_process_to_its_tracers() -> None:
    """Debuggers and coverage trace; an exception that CPython waits for in vain keeps a traced thread from any call."""
    code = """
import sys, time
from datetime import timedelta
from heliograph import Flow, task
from heliograph.executors import ThreadsExecutor
def hang():
    for _ in range(6000):
        time.sleep(0.01)
with Flow("f", executor=ThreadsExecutor(2)) as flow:
    task(hang, name="h", timeout=timedelta(seconds=0.2))()
assert flow.run().is_failed()
sys.settrace(lambda *_: None)
(lambda: print("traced"))()
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("traced\n"), done.stderr


def test_a_strike_as_the_seat_closes_leaves_the_process_alive() -> None:
    """The alarm of a cancellation must find our handler, or it ends the process."""
    code = """
import signal, threading
from heliograph.engine.interrupts import Interrupted, MainSeat, RunStopped
inside, go = threading.Event(), threading.Event()
setitimer = signal.setitimer
def slow(*args):
    if threading.current_thread() is not threading.main_thread():
        inside.set()
        go.wait(1)  # the main thread leaves meanwhile, if it can
    return setitimer(*args)
signal.setitimer = slow
seat = MainSeat(lambda error: None)
seat.open()
seat.busy = True
striker = threading.Thread(target=seat.strike, args=(RunStopped,))
striker.start()
inside.wait(60)
try:
    seat.leave()
    seat.close()
except Interrupted:
    seat.close()
go.set()
striker.join()
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"alive\n"), done.stderr.decode()


def test_nothing_of_a_run_is_left_on_the_clock() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    before = signal.getitimer(signal.ITIMER_REAL)
    with Flow("f") as flow:
        task(lambda: 1, name="w", timeout=60)()
    flow.run()
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL)[0] <= before[0]
