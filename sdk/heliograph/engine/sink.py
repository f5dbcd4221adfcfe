"""Where the engine tells what happens in a run.

The engine calls a `RunSink` and never knows who listens: nothing (a plain `flow.run()`), the outbox that a supervisor
ships, or a ledger on the user's side. Calls come from any thread, must be cheap (an append), and never raise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from heliograph.engine.codes import FailureCode, StateCode


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """One frame of a traceback: path relative to the bundle (or a module's path), line from 1, function."""

    path: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """What may be told of a failure: its kind and place, never its text.

    `text` is set only where the user's side chose `failure_text = redacted | full`.
    """

    reason: FailureCode
    exception_class: str = ""
    frames: tuple[FrameInfo, ...] = ()
    error_id: str = ""
    exit_code: int | None = None
    signal: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """Where a task's result went: `location` in the user's storage, or why it was not kept.

    Attributes:
        location: Where it is, as its `Result` knows it; None when it was not kept.
        kind: Dotted class path of the `Result`, `heliograph.engine.results.LocalResult`.
        serializer: Dotted class path of the serializer.
        reason: Why it was not kept ("no result configured", "checkpoint=False", "the value is None").
        size_bytes: Size of what was written; 0 when unknown.
        config: What else is needed to read it again (`{"dir": …}`, `{"bucket": …}`): plain JSON values, no secrets.
    """

    location: str | None
    kind: str = ""
    serializer: str = ""
    reason: str = ""
    size_bytes: int = 0
    config: dict[str, str] = field(default_factory=dict)


class RunSink(Protocol):
    """What the engine tells."""

    def task_state(
        self,
        task: int,
        map_index: int | None,
        state: StateCode,
        time_micros: int,
        run_count: int,
        start_time_micros: int = 0,
        child_count: int = 0,
        failure: FailureInfo | None = None,
        result_stored: bool = False,
    ) -> None:
        """A task run entered a state. `task` is its index in the compiled graph; times are µs since the epoch."""

    def flow_state(self, state: StateCode, time_micros: int, failure: FailureInfo | None = None) -> None:
        """The flow run entered a state."""

    def failed(self, error: BaseException, task: int | None, map_index: int | None, reason: FailureCode) -> FailureInfo:
        """Keeps the text of `error` on the user's side, and returns what may be told of it."""

    def result(self, task: int, map_index: int | None, stored: StoredResult) -> None:
        """A task run's result was kept, or not. Comes before the state that has `result_stored`."""

    def mapped_input(self, task: int, map_index: int, inputs: dict[str, StoredResult]) -> None:
        """Where the inputs of a child are, so that a restart can find them."""

    def rendered_name(self, task: int, map_index: int | None, name: str) -> None:
        """The run name of a task run, rendered. It never leaves the user's side."""


class NullSink:
    """A sink that keeps nothing: what `flow.run()` uses without a control plane."""

    def task_state(
        self,
        task: int,
        map_index: int | None,
        state: StateCode,
        time_micros: int,
        run_count: int,
        start_time_micros: int = 0,
        child_count: int = 0,
        failure: FailureInfo | None = None,
        result_stored: bool = False,
    ) -> None:
        """Does nothing."""

    def flow_state(self, state: StateCode, time_micros: int, failure: FailureInfo | None = None) -> None:
        """Does nothing."""

    def failed(
        self,
        error: BaseException,
        task: int | None,  # noqa: ARG002 - a sink's signature
        map_index: int | None,  # noqa: ARG002 - a sink's signature
        reason: FailureCode,
    ) -> FailureInfo:
        """Returns the class name only."""
        return FailureInfo(reason, f"{type(error).__module__}.{type(error).__qualname__}")

    def result(self, task: int, map_index: int | None, stored: StoredResult) -> None:
        """Does nothing."""

    def mapped_input(self, task: int, map_index: int, inputs: dict[str, StoredResult]) -> None:
        """Does nothing."""

    def rendered_name(self, task: int, map_index: int | None, name: str) -> None:
        """Does nothing."""
