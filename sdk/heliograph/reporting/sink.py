"""What the engine and the loggers of a flow process talk to: an append each, and nothing that can fail or wait."""

from __future__ import annotations

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.sink import FailureInfo, NullSink
from heliograph.reporting.writer import OutboxWriter

_RUNNING = StateCode.RUNNING


class OutboxSink(NullSink):
    """A sink that tells the outbox of states, and keeps nothing else. Callable from any thread.

    A task about to run waits here while the outbox is full: that is what stops new tasks.
    """

    def __init__(self, writer: OutboxWriter) -> None:
        self._writer = writer
        self._append = writer.states.append

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
        """Appends the state; waits before a task starts while the outbox is full."""
        writer = self._writer
        if writer.full and state == _RUNNING:
            writer.wait_for_room()
        self._append(
            (task, map_index, state, time_micros, run_count, start_time_micros, child_count, failure, result_stored)
        )
        if writer.idle:
            writer.wake()

    def flow_state(self, state: StateCode, time_micros: int, failure: FailureInfo | None = None) -> None:
        """Appends the state."""
        self._append((state, time_micros, failure))
        if self._writer.idle:
            self._writer.wake()

    def failed(self, error: BaseException, task: int | None, map_index: int | None, reason: FailureCode) -> FailureInfo:
        """Returns class name only: without a ledger there is no place for a text."""
        kind = type(error)
        return FailureInfo(reason, f"{kind.__module__}.{kind.__qualname__}")
