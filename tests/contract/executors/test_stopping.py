"""Time limits, cancellation and interrupts, on every executor."""

from __future__ import annotations

import signal
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.executors.conftest import Runner
from tests.support import ends
from tests.support.engine import RecordingSink

from heliograph.core.flow import Flow
from heliograph.engine.cancellation import Cancellation
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.flow_runner import FlowRunner
from heliograph.engine.state import Cancelled, State, Success, TimedOut
from heliograph.executors import Executor
from heliograph.triggers import manual_only
from heliograph.utilities.edges import unmapped
from heliograph.utilities.tasks import task


@task
def one() -> int:
    return 1


# --- time limits ----------------------------------------------------------------------------------------------------


def test_a_task_that_sleeps_too_long_times_out_in_time(run: Runner) -> None:
    woke: list[bool] = []

    def sleep() -> None:
        time.sleep(60)
        woke.append(True)

    with Flow("f") as flow:
        slow = task(sleep, name="slow", timeout=timedelta(seconds=0.2))()
        quick = task(lambda: 5, name="quick", timeout=60)()
    state = run(flow)
    assert not woke
    assert isinstance(state.result[slow], TimedOut)
    assert isinstance(state.result[slow].result, TimeoutError)
    assert state.result[quick].result == 5
    assert FailureCode.TIMEOUT in {failure[3] for failure in run.sink.failures}


def test_a_busy_task_cannot_swallow_its_limit(run: Runner) -> None:
    def stubborn() -> str:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except Exception:  # noqa: BLE001 - what users write
                continue
        return "swallowed"

    with Flow("f") as flow:
        slow = task(stubborn, name="slow", timeout=timedelta(seconds=0.2))()
    assert isinstance(run(flow).result[slow], TimedOut)


def test_a_limit_counts_per_attempt_and_can_be_retried(run: Runner) -> None:
    attempts: list[int] = []

    def work() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            time.sleep(30)
        return "done"

    with Flow("f") as flow:
        w = task(work, name="w", timeout=timedelta(seconds=0.2), max_retries=1, retry_delay=1)()
    assert run(flow).result[w].result == "done"


def test_children_have_their_own_limits(run: Runner) -> None:
    def work(x: int) -> int:
        if x == 1:
            time.sleep(30)
        return x

    with Flow("f") as flow:
        w = task(work, name="w", timeout=timedelta(seconds=0.3)).map([0, 1, 2])
    assert [type(s).__name__ for s in run(flow).result[w].map_states] == ["Success", "TimedOut", "Success"]


def test_limits_of_a_flow_inside_a_task_do_not_disturb_the_outer_one(run: Runner) -> None:
    with Flow("inner") as inner:
        i = task(lambda: time.sleep(30), name="i", timeout=timedelta(seconds=0.2))()

    def work() -> str:
        state = inner.run()
        assert state is not None
        assert isinstance(state.result[i], TimedOut)
        time.sleep(30)
        return "never"

    with Flow("f") as flow:
        w = task(work, name="w", timeout=timedelta(seconds=0.8))()
    assert isinstance(run(flow).result[w], TimedOut)


def test_a_limited_task_sees_its_context(run: Runner) -> None:
    from heliograph.context import context

    with Flow("f") as flow:
        w = task(lambda: context.task_name, name="w", timeout=5)()
    assert run(flow).result[w].result == "w"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs alarms")
def test_an_alarm_that_was_set_before_still_rings(run: Runner) -> None:
    rang = threading.Event()
    handler = signal.signal(signal.SIGALRM, lambda *_: rang.set())
    remaining = signal.setitimer(signal.ITIMER_REAL, 0.3)[0]
    try:
        with Flow("f") as flow:
            task(lambda: time.sleep(0.5), name="w", timeout=5)()
        assert run(flow).is_successful()
        assert rang.is_set()
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, remaining)


# --- cancellation ---------------------------------------------------------------------------------------------------


class Work:
    """Work that takes a minute, in steps that can be interrupted."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.done = False

    def run(self) -> None:
        """Does it."""
        self.started.set()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.01)
        self.done = True


def run_cancelled(flow: Flow, executor: Executor, started: threading.Event) -> tuple[State, RecordingSink]:
    """Cancels a flow from another thread once `started` is set."""
    cancel, sink = Cancellation(), RecordingSink()

    def ask() -> None:
        started.wait(60)
        cancel.request("by a test")

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    state = FlowRunner(flow, sink=sink, cancel=cancel).run(executor=executor)
    ends.join(asker)
    return state, sink


def test_cancellation_interrupts_what_runs_and_cancels_the_rest(executor: Executor) -> None:
    work = Work()

    with Flow("f") as flow:
        done = one()
        w = task(work.run, name="w")(upstream_tasks=[done])
        after = task(lambda x: x, name="after")(w)
        children = task(lambda x, y: (x, y), name="c").map([1, 2], unmapped(w))
    state, sink = run_cancelled(flow, executor, work.started)
    assert not work.done
    assert isinstance(state, Cancelled)
    assert "by a test" in (state.message or "")
    assert isinstance(state.result[done], Success)
    assert all(isinstance(state.result[t], Cancelled) for t in (w, after, children))
    assert sink.flow_events == [StateCode.RUNNING, StateCode.CANCELLED]
    ends = [event[2] for event in sink.events]
    assert ends.count(StateCode.CANCELLED) == 3


def test_cancellation_of_a_map_cancels_its_open_children(executor: Executor) -> None:
    started = threading.Event()

    def work(x: int) -> int:
        if x == 0:
            return 0
        started.set()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.01)
        return x

    with Flow("f") as flow:
        w = task(work, name="w").map(list(range(20)))
    state, _ = run_cancelled(flow, executor, started)
    assert isinstance(state, Cancelled)
    kinds = [type(s).__name__ for s in state.result[w].map_states]
    assert kinds == ["Success"] + ["Cancelled"] * 19


def test_cancellation_ends_a_pause_between_retries(executor: Executor) -> None:
    started = threading.Event()

    def work() -> None:
        started.set()
        raise ValueError

    with Flow("f") as flow:
        w = task(work, name="w", max_retries=1, retry_delay=timedelta(hours=1))()
    state, _ = run_cancelled(flow, executor, started)
    assert isinstance(state.result[w], Cancelled)


def test_cancellation_before_the_start_runs_nothing(executor: Executor) -> None:
    cancel = Cancellation()
    cancel.request()
    with Flow("f") as flow:
        a = one()
    state = FlowRunner(flow, cancel=cancel).run(executor=executor)
    assert isinstance(state, Cancelled)
    assert isinstance(state.result[a], Cancelled)


def test_cancellation_reaches_a_flow_inside_a_task(executor: Executor) -> None:
    work = Work()
    ended: list[State | None] = []

    with Flow("inner") as inner:
        task(work.run, name="i")()

    def outer() -> None:
        ended.append(inner.run())

    with Flow("f") as flow:
        task(outer, name="o")()
    state, _ = run_cancelled(flow, executor, work.started)
    assert not work.done
    assert isinstance(state, Cancelled)


def test_a_limited_task_can_be_cancelled(executor: Executor) -> None:
    work = Work()

    with Flow("f") as flow:
        w = task(work.run, name="w", timeout=90)()
    state, _ = run_cancelled(flow, executor, work.started)
    assert not work.done
    assert isinstance(state.result[w], Cancelled)


def test_ctrl_c_in_a_task_cancels_the_flow(run: Runner) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with Flow("f") as flow:
        w = task(work, name="w")()
        after = task(lambda x: x, name="after")(w)
    state = run(flow)
    assert isinstance(state, Cancelled)
    assert isinstance(state.result[after], Cancelled)


def test_a_signal_handler_may_cancel(executor: Executor) -> None:
    cancel = Cancellation()
    handler = signal.signal(signal.SIGUSR1, lambda *_: cancel.request("signal"))
    work = Work()

    def kill() -> None:
        work.started.wait(60)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        with Flow("f") as flow:
            task(work.run, name="w")()
        state = FlowRunner(flow, cancel=cancel).run(executor=executor)
    finally:
        killer.join(60)  # before the handler is the old one: the signal would end the process
        signal.signal(signal.SIGUSR1, handler)
    assert isinstance(state, Cancelled)


# --- approval -------------------------------------------------------------------------------------------------------


def test_a_paused_task_goes_on_when_somebody_resumes_it(executor: Executor) -> None:
    paused = threading.Event()

    class Sink(RecordingSink):
        def task_state(self, *args: Any) -> None:
            super().task_state(*args)
            if args[2] is StateCode.PAUSED:
                paused.set()

    sink = Sink()
    with Flow("f") as flow:
        gate = task(lambda: 1, name="gate", trigger=manual_only)()
        after = task(lambda x: x + 1, name="after")(gate)
    runner = FlowRunner(flow, sink=sink, resumable=True)
    answers: list[bool] = []
    over = threading.Event()

    def approve() -> None:
        paused.wait(20)
        answers.append(runner.resume(1))  # not paused
        while not runner.resume(0) and not over.is_set():  # told a moment before it can be resumed
            time.sleep(0.001)

    approver = threading.Thread(target=approve, daemon=True)
    approver.start()
    try:
        state = runner.run(executor=executor)
    finally:
        over.set()
    ends.join(approver)
    assert state.is_successful()
    assert state.result[after].result == 2
    assert answers == [False]
    assert sink.states_of(0) == [StateCode.PAUSED, StateCode.RESUME, StateCode.RUNNING, StateCode.SUCCESS]


def test_the_terminal_is_asked_until_it_says_yes(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliograph.engine import flow_runner

    asked: list[str] = []

    def ask(name: str) -> bool:
        asked.append(name)
        return len(asked) == 2

    monkeypatch.setattr(flow_runner, "_has_terminal", lambda: True)
    monkeypatch.setattr(flow_runner, "_ask_on_terminal", ask)
    with Flow("f") as flow:
        task(lambda: 1, name="gate", trigger=manual_only)()
    assert run(flow).is_successful()
    assert asked == ["gate", "gate"]
