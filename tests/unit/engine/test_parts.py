"""Small parts: cancellation, clock, seats, the context of a task run, imports, executors by themselves."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support import ends

from heliograph.context import Context, context, current_task, enter_task, swap
from heliograph.engine import timeouts
from heliograph.engine.cancellation import Cancellation
from heliograph.engine.clock import SystemClock, to_datetime, to_micros
from heliograph.engine.interrupts import Interrupted, RunStopped, Seat, TimeOver
from heliograph.engine.timeouts import call_limited
from heliograph.exceptions import InvalidArgumentError
from heliograph.executors import Executor, LocalDaskExecutor, LocalExecutor, ThreadsExecutor


class Surroundings:
    task_index = 3
    map_index = None

    def __init__(self) -> None:
        self.made = 0

    def values(self) -> dict[str, Any]:
        self.made += 1
        return {"task_name": "t"}


def test_a_cancellation_is_asked_for_once() -> None:
    cancel, calls = Cancellation(), []
    removed = lambda: calls.append("removed")  # noqa: E731
    cancel.add_callback(lambda: calls.append("first"))
    cancel.add_callback(removed)
    cancel.remove_callback(removed)
    assert not cancel.requested
    assert not cancel.wait(0)
    cancel.request("why")
    cancel.request("again")
    assert cancel.requested
    assert cancel.wait(0)
    assert cancel.reason == "why"
    cancel.add_callback(lambda: calls.append("late"))
    assert calls == ["first", "late"]


def test_times() -> None:
    moment = dt.datetime(2020, 9, 7, 12, 0, 0, 5, tzinfo=dt.UTC)
    assert to_datetime(to_micros(moment)) == moment
    assert to_micros(moment.replace(tzinfo=None)) == to_micros(moment)
    assert abs(SystemClock().now() - time.time() * 1e6) < 5e6


def test_the_clock_wakes_for_a_notification_and_at_the_time() -> None:
    condition, clock = threading.Condition(), SystemClock()
    with condition:
        before = time.monotonic()
        clock.wait(condition, clock.now() + 20_000)
        assert 0.01 < time.monotonic() - before < 5
        clock.wait(condition, clock.now() - 1)

        def notify() -> None:
            with condition:
                condition.notify()

        thread = threading.Thread(target=notify, daemon=True)
        thread.start()
        clock.wait(condition, None)
    ends.join(thread)


def test_a_seat_interrupts_only_user_code() -> None:
    seat_ready, over, outcome = threading.Event(), threading.Event(), []
    seats: list[Seat] = []

    def work() -> None:
        seat = Seat(threading.get_ident())
        seats.append(seat)
        try:
            seat.busy = True
            seat_ready.set()
            while not over.is_set():
                time.sleep(0.001)
        except Interrupted as error:
            outcome.append((type(error).__mro__[1], error.owner is seat))
        seat.leave()
        outcome.append((seat.busy, seat.strike(RunStopped)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert seat_ready.wait(60)
        assert seats[0].strike(RunStopped)
        ends.join(thread)
    finally:
        over.set()
    assert outcome == [(RunStopped, True), (False, False)]


def test_an_interrupt_that_comes_as_the_code_ends_is_withdrawn() -> None:
    def work(results: list[str]) -> None:
        seat = Seat(threading.get_ident())
        striker = threading.Thread(target=seat.strike, args=(RunStopped,), daemon=True)
        try:
            seat.busy = True
            striker.start()
            striker.join(60)
            seat.leave()
        except Interrupted:
            seat.leave()
        results.append("survived")
        time.sleep(0)
        results.append("still here")

    for _ in range(200):
        results: list[str] = []
        thread = threading.Thread(target=work, args=(results,), daemon=True)
        thread.start()
        ends.join(thread)
        assert results == ["survived", "still here"]


class Run:
    """A run that nobody ends, until `stopping` is set."""

    def __init__(self) -> None:
        self.stopping = False
        self.watched: list[Seat] = []
        self.watch = self.watched.append
        self.forget = self.watched.remove


def test_limited_calls() -> None:
    run = Run()

    def call(function: Any, seconds: float = 5, **arguments: Any) -> Any:
        return call_limited(function, arguments, seconds, Surroundings(), run)

    assert call(lambda x: x + 1, x=1) == 2
    assert call(lambda: context.task_name) == "t"
    with pytest.raises(KeyError):
        call(lambda: {}["x"])
    woke: list[bool] = []

    def sleep() -> None:
        time.sleep(60)
        woke.append(True)

    with pytest.raises(TimeOver):
        call(sleep, seconds=0.05)
    assert woke == run.watched == []


def test_a_limited_call_begins_no_more_when_its_run_is_ending() -> None:
    run, called = Run(), []
    run.stopping = True  # after the run looked for what it has to interrupt
    with pytest.raises(RunStopped):
        call_limited(lambda: called.append(1), {}, 60, Surroundings(), run)
    assert called == run.watched == []


def test_a_limited_call_that_comes_too_late_to_begin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    helpers: list[threading.Thread] = []
    given_up = threading.Event()

    def slow(_surroundings: Any) -> None:
        helpers.append(threading.current_thread())
        given_up.wait(60)

    monkeypatch.setattr(timeouts, "enter_task", slow)
    with pytest.raises(TimeOver):
        call_limited(lambda: called.append(1), {}, 0.05, Surroundings(), Run())
    given_up.set()
    helpers[0].join(60)
    assert called == []


# --- context --------------------------------------------------------------------------------------------------------


def test_the_content_of_a_task_is_made_when_somebody_looks() -> None:
    here = Surroundings()
    before = swap(({"outer": 1}, None))
    try:
        enter_task(here)
        assert current_task() is here
        assert here.made == 0
        assert context.task_name == "t"
        assert context.get("outer") is None
        context.mine = 5
        with context(more=1):
            assert (context.mine, context.more) == (5, 1)
        assert "more" not in context
        assert here.made == 1
        assert current_task() is here
    finally:
        swap(before)
    assert current_task() is before[1]


def test_the_context_is_by_thread_and_restores_everything() -> None:
    found: list[Any] = []
    with context(a=1) as inside:
        assert isinstance(inside, Context)
        ends.together([lambda: found.append(context.get("a"))])
        context.a, context["b"] = 2, 3
        del context.a
    assert found == [None]
    assert "a" not in context
    assert "b" not in context
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = context.nothing_like_it
    with pytest.raises(TypeError, match="to_dict"):
        pickle.dumps(context)


# --- executors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [LocalExecutor(), ThreadsExecutor(2), LocalDaskExecutor("threads", 2)])
def test_functions_by_themselves(executor: Executor) -> None:
    with executor.start():
        one = executor.submit(lambda x: x + 1, 1, extra_context={"task_name": "t"})
        two = executor.submit(lambda x, y: x * y, one, y=10)
        assert executor.wait([one, two, {"k": two}]) == [2, 20, {"k": 20}]


def test_executors_check_their_options_and_travel() -> None:
    assert ThreadsExecutor().num_workers >= 4
    with pytest.raises(InvalidArgumentError, match="num_workers"):
        ThreadsExecutor(0)
    with pytest.raises(InvalidArgumentError, match="processes"):
        LocalDaskExecutor(scheduler="processes")
    with pytest.raises(RuntimeError, match="start"):
        ThreadsExecutor(1).submit(print)
    assert pickle.loads(pickle.dumps(LocalDaskExecutor(num_workers=3))).num_workers == 3


def test_the_engine_is_light() -> None:
    code = (
        "import sys, heliograph.engine.flow_runner, heliograph.executors\n"
        "heavy = {'grpc', 'google.protobuf', 'sqlalchemy', 'boto3', 'croniter', 'cloudpickle', 'asyncio', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fault_of_the_engine_ends_the_run_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliograph.core.flow import Flow
    from heliograph.engine.run_loop import RunLoop
    from heliograph.utilities.tasks import task

    def broken(self: RunLoop, *args: Any) -> None:
        raise RuntimeError("engine fault")

    monkeypatch.setattr(RunLoop, "step", broken)
    with Flow("f") as flow:
        task(lambda: 1, name="t")()
    for executor in (LocalExecutor(), ThreadsExecutor(2)):
        state = flow.run(executor=executor)
        assert state is not None
        assert state.is_failed()
        assert isinstance(state.result, RuntimeError)


def test_a_frame_needs_no_loop_to_be_small() -> None:
    from heliograph.engine.nodes import TaskFrame

    frame = TaskFrame(SimpleNamespace(), SimpleNamespace(index=2), 5, 1, SimpleNamespace(run_count=1))  # type: ignore[arg-type]
    assert (frame.task_index, frame.map_index, frame.run_count) == (2, 1, 1)
    assert not hasattr(frame, "__dict__")


# --- what is said on this side --------------------------------------------------------------------------------------


def test_log_lines_with_texts_of_errors_are_marked_as_local(caplog: pytest.LogCaptureFixture) -> None:
    from heliograph.core.flow import Flow
    from heliograph.utilities.tasks import task

    def work() -> None:
        raise ValueError("a private text")

    with Flow("f") as flow:
        w = task(work, name="w", max_retries=1, retry_delay=0)()
    with caplog.at_level("DEBUG"):
        state = flow.run()
    assert state is not None
    for record in caplog.records:
        if record.exc_info or "private" in record.getMessage():
            assert record.stays_local  # type: ignore[attr-defined]
    lines = [record.getMessage() for record in caplog.records]
    assert "Task 'w': attempt 1 of 2 failed (ValueError); the next one follows in 0 s." in lines
    assert "Task 'w': Failed (ValueError)." in lines
    trace = state.result[w].result.__traceback__
    assert trace.tb_frame.f_code.co_name == "work"  # the engine's own frames are cut off


def test_tasks_without_trouble_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from heliograph.core.flow import Flow
    from heliograph.utilities.tasks import task

    with Flow("f") as flow:
        for _ in range(20):
            task(lambda: 1, name="t")()
    with caplog.at_level("INFO"):
        flow.run()
    assert [record.getMessage() for record in caplog.records] == [
        "Beginning flow run of 'f'.",
        "Flow run of 'f' ended: Success.",
    ]
