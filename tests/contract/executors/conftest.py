"""The executors that every flow of this suite runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.engine import LeapingClock, RecordingSink

from heliograph.core.flow import Flow
from heliograph.engine.flow_runner import FlowRunner
from heliograph.engine.state import State
from heliograph.executors import Executor, LocalDaskExecutor, LocalExecutor, ThreadsExecutor

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "local": LocalExecutor,
    "sync": lambda: LocalDaskExecutor(scheduler="sync"),
    "one-thread": lambda: ThreadsExecutor(1),
    "threads": lambda: LocalDaskExecutor(scheduler="threads", num_workers=4),
}


@pytest.fixture(params=sorted(EXECUTORS))
def executor(request: pytest.FixtureRequest) -> Executor:
    return EXECUTORS[request.param]()


class Runner:
    """Runs flows on one executor with a remembering sink and a clock that leaps over pauses."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.sink = RecordingSink()
        self.clock = LeapingClock()

    def __call__(self, flow: Flow, **kwargs: Any) -> State:
        self.sink = RecordingSink()
        return FlowRunner(flow, sink=self.sink, clock=self.clock).run(executor=self.executor, **kwargs)


@pytest.fixture
def run(executor: Executor) -> Runner:
    return Runner(executor)
