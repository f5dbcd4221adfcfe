"""What the lines of `flow.run()` tell: whose fault it was, where results are, and nothing about the engine itself."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from heliograph import Flow, task
from heliograph.context import context
from heliograph.engine.results import LocalResult
from heliograph.engine.serializers import Serializer
from heliograph.engine.state import State
from heliograph.logging import get_logger


def run(flow: Flow, caplog: pytest.LogCaptureFixture) -> tuple[State, str]:
    """Runs a flow; returns its state and what the terminal showed."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        state = flow.run()
    assert state is not None
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")
    return state, "\n".join(formatter.format(record) for record in caplog.records)


def test_what_the_product_refuses_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    @task(result=LocalResult(dir=str(tmp_path)))
    def lock() -> Any:
        return threading.Lock()

    @task(result=LocalResult(dir=str(tmp_path), location="{nothing}.x"))
    def nowhere() -> int:
        return 1

    @task(result=LocalResult(dir="/proc/none", validate_dir=False))
    def unwritable() -> int:
        return 1

    @task
    def stream() -> Any:
        return iter([1])

    @task
    def one(x: int) -> int:
        return x

    with Flow("f") as flow:
        lock()
        nowhere()
        unwritable()
        one.map(stream())
        one.map(task(lambda: {"a": 1}, name="table")())
    state, lines = run(flow, caplog)
    assert state.is_failed()
    assert "Traceback" not in lines
    assert "cannot serialize a value of type lock" in lines
    assert "uses 'nothing', which is not known here" in lines
    assert "cannot be written to /proc/none" in lines
    assert "'stream' gave a list_iterator, which has no elements by index; let it return a list" in lines
    assert "'table' gave a dict, which has no elements by index (KeyError)" in lines


def test_a_traceback_begins_where_the_users_code_does(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def handler(obj: Any, old: State, new: State) -> None:
        if new.is_running():
            raise RuntimeError("handler broke")

    class Own(Serializer):
        def serialize(self, value: Any) -> bytes:
            raise RuntimeError("serializer broke")

    with Flow("f") as flow:
        task(lambda: 1, name="handled", state_handlers=[handler])()
        task(lambda: 1, name="judged", trigger=lambda _: 1 / 0)()
        task(lambda: 1, name="kept", result=LocalResult(dir=str(tmp_path), serializer=Own()))()
    state, lines = run(flow, caplog)
    assert state.is_failed()
    for text in ("handler broke", "serializer broke", "division by zero"):
        assert text in lines
    first_frames = [after.splitlines()[1] for after in lines.split("Traceback (most recent call last):")[1:]]
    assert sum(__file__ in frame for frame in first_frames) >= 2
    assert "in _handled" not in lines
    assert "in _check_trigger" not in lines


def test_an_exception_that_cannot_be_shown_fails_its_task_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    @task
    def work() -> None:
        raise Mute

    with Flow("f") as flow:
        failed = work()
        other = task(lambda: 1, name="other")()
    state, lines = run(flow, caplog)
    assert state.message == "Some reference tasks failed."
    assert isinstance(state.result[failed].result, Mute)
    assert state.result[other].is_successful()
    assert "Task 'work': Failed (Mute)." in lines or "Task 'work': Failed (Exception)." in lines


def test_a_class_made_from_data_is_not_named_where_it_may_cross(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def work() -> None:
        raise type("customer_4711", (ValueError,), {})("text")

    with Flow("f") as flow:
        work()
    with caplog.at_level(logging.INFO):
        flow.run()
    crossing = [r.getMessage() for r in caplog.records if not getattr(r, "stays_local", False)]
    assert "Task 'work': Failed (ValueError)." in crossing
    assert not any("customer" in line for line in crossing)


def test_where_results_are_is_told_and_stays_local(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    @task(result=LocalResult(dir=str(tmp_path)), target="numbers.pkl")
    def numbers() -> list[int]:
        return [1]

    @task(cache_for=timedelta(hours=1), cache_key="told once")
    def cached() -> int:
        return 1

    with Flow("f") as flow:
        numbers()
        cached()
    place = tmp_path / "numbers.pkl"
    _, lines = run(flow, caplog)
    assert f"INFO heliograph.TaskRunner Task 'numbers': its result is kept in {place}." in lines
    assert all(r.stays_local for r in caplog.records if str(tmp_path) in r.getMessage())  # type: ignore[attr-defined]
    _, lines = run(flow, caplog)
    assert f"Task 'numbers': not run, its result was found in {place}." in lines
    assert "Task 'cached': not run, its result was found in the cache." in lines
    assert all(r.stays_local for r in caplog.records if str(tmp_path) in r.getMessage())  # type: ignore[attr-defined]


def test_a_target_that_nothing_stores_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with Flow("f") as flow:
        task(lambda: 1, name="work", target="work.pkl")()
        task(lambda: 1, name="off", target="off.pkl", checkpoint=False)()
    state, lines = run(flow, caplog)
    assert state.is_successful()
    assert "WARNING heliograph.FlowRunner Task 'work': nothing is kept: there is a target, but neither" in lines
    assert "'off'" not in lines


def test_children_log_under_their_index_and_leave_no_loggers_behind(caplog: pytest.LogCaptureFixture) -> None:
    @task(name="numbered child", log_stdout=True)
    def child(x: int) -> None:
        print("printed", x)
        context.logger.info("said %d", x)

    with Flow("f") as flow:
        child.map(list(range(20)))
    _, lines = run(flow, caplog)
    assert "INFO heliograph.numbered child[7] printed 7" in lines
    assert "INFO heliograph.numbered child[7] said 7" in lines
    assert not [name for name in logging.Logger.manager.loggerDict if name.startswith("heliograph.numbered child[")]
    quiet = get_logger("numbered child")
    quiet.setLevel(logging.ERROR)
    try:
        _, lines = run(flow, caplog)
    finally:
        quiet.setLevel(logging.NOTSET)
    assert "said" not in lines
