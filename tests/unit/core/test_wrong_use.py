"""Mistakes that authors make are refused where they are made, in words that name them."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from heliograph import Flow, task
from heliograph.engine.results import LocalResult
from heliograph.engine.state import Cancelled, State
from heliograph.exceptions import FlowError
from heliograph.executors import LocalExecutor, ThreadsExecutor
from heliograph.schedules import CronClock, IntervalSchedule


def one() -> int:
    return 1


@pytest.mark.parametrize(
    "options",
    [{"trigger": "all_failed"}, {"result": "s3://bucket/x"}, {"result": LocalResult}, {"cache_for": 10}],
)
def test_options_of_a_task(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))} of one must be"):
        task(one, **options)
    made = task(one)
    with Flow("f"), pytest.raises(TypeError):
        made(task_args=options)


def test_an_async_function_is_no_task() -> None:
    async def later() -> int:
        return 1

    with pytest.raises(FlowError, match="later is an async function") as refused:
        task(later)
    assert "asyncio.run" in refused.value.hint


@pytest.mark.parametrize(
    "options", [{"schedule": "0 * * * *"}, {"schedule": CronClock("0 * * * *")}, {"result": LocalResult}]
)
def test_options_of_a_flow(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"the {next(iter(options))} of"):
        Flow("f", **options)


def flow_of_one() -> Flow:
    with Flow("f") as flow:
        task(one)()
    return flow


@pytest.mark.parametrize("executor", [LocalExecutor, "threads"])
def test_an_executor_must_be_an_object(executor: Any) -> None:
    flow = flow_of_one()
    with pytest.raises(TypeError, match="executor must be an object such as"):
        flow.run(executor=executor)
    flow.executor = executor
    with pytest.raises(TypeError, match="executor must be an object such as"):
        flow.run()


def test_states_and_parameters_of_a_run() -> None:
    flow = flow_of_one()
    (only,) = flow.tasks
    with pytest.raises(TypeError, match="task_states must hold states"):
        flow.run(task_states={only: 1})
    with pytest.raises(TypeError, match="parameters must be a dictionary"):
        flow.run(parameters=["p"])  # type: ignore[arg-type]


def test_ctrl_c_in_a_scheduled_run_ends_the_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    runs: list[str] = []

    class Runner:
        def __init__(self, flow: Flow) -> None:
            pass

        def run(self, **_: Any) -> State:
            runs.append("run")
            return Cancelled("interrupted from the keyboard")

    flow = flow_of_one()
    flow.schedule = IntervalSchedule(interval=timedelta(seconds=0.01))
    state = flow.run(runner_cls=Runner)
    assert isinstance(state, Cancelled)
    assert runs == ["run"]
    assert "Stopped" in capsys.readouterr().out


def test_threads_that_hang_are_waited_for_once_and_not_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliograph.engine.cancellation import Cancellation
    from heliograph.engine.flow_runner import FlowRunner

    monkeypatch.setattr("heliograph.executors.threads._GRACE_SECONDS", 0.5)
    release = threading.Event()
    started = threading.Barrier(5)

    def hang() -> None:
        started.wait(10)
        # Swallows the interrupt, as code that waits in C does.
        while not release.is_set():
            try:
                release.wait(10)
            except BaseException:  # noqa: BLE001
                continue

    with Flow("f") as flow:
        for _ in range(4):
            task(hang)()
    cancel = Cancellation()
    threading.Thread(target=lambda: (started.wait(10), cancel.request()), daemon=True).start()
    waits: list[float] = []

    def waited_for(_: threading.Thread, timeout: float) -> None:
        waits.append(timeout)  # all of it, by the clock below

    monkeypatch.setattr("heliograph.executors.threads.time", SimpleNamespace(monotonic=lambda: sum(waits)))
    monkeypatch.setattr("heliograph.executors.threads._Worker.join", waited_for)
    state = FlowRunner(flow, cancel=cancel).run(executor=ThreadsExecutor(4))
    release.set()
    assert state.is_cancelled()
    assert waits == [0.5, 0.0, 0.0, 0.0]
