"""What the engine and the loggers of a flow process talk to: some microseconds a call, and nothing that can fail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from heliograph.engine.codes import StateCode
from heliograph.engine.sink import FailureInfo
from heliograph.failures import FailureText
from heliograph.ledger import LedgerSink, LedgerWriter, open_store
from heliograph.logging import LogMode, attach_sink, crossing_record, detach_sink
from heliograph.reporting.writer import OutboxWriter

_RUNNING = StateCode.RUNNING


class RunReporter(LedgerSink):
    """The sink of a run under an agent: states to the outbox, texts and places of values to the ledger.

    Callable from any thread. A task about to run waits here while the outbox is full: that is what stops new tasks.

    Args:
        outbox: The outbox.
        ledger: The run's record on the user's side.
        bundle_root: Folder of the bundle: paths of frames are relative to it.
        failure_text: What of a failure's text may cross.
    """

    def __init__(
        self,
        outbox: OutboxWriter,
        ledger: LedgerWriter,
        bundle_root: Path | None = None,
        failure_text: FailureText = "local",
    ) -> None:
        super().__init__(ledger, bundle_root, failure_text)
        self._outbox = outbox
        self._put, self._put_start = outbox.put_state, outbox.put_start

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
        """Tells the state; waits before a task starts while the outbox is full."""
        outbox = self._outbox
        put = self._put
        if state == _RUNNING:
            put = self._put_start
            if outbox.full:
                outbox.wait_for_room()
        put((task, map_index, state, time_micros, run_count, start_time_micros, child_count, failure, result_stored))

    def flow_state(self, state: StateCode, time_micros: int, failure: FailureInfo | None = None) -> None:
        """Tells the state."""
        put = self._outbox.put_end if state.is_finished else self._put_start
        put((state, time_micros, failure))


class OutboxLogHandler(logging.Handler):
    """Gives log lines to the outbox, as far as they may cross.

    Args:
        outbox: The outbox.
        mode: What of a line may cross.
        bundle_root: Folder of the bundle.
    """

    def __init__(self, outbox: OutboxWriter, mode: LogMode, bundle_root: Path | None = None) -> None:
        super().__init__()
        self._outbox, self._mode = outbox, mode
        self._root = str(bundle_root) if bundle_root is not None else None

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the line; `crossing_record` decides what of it."""
        crossing = crossing_record(record, self._mode, self._root)
        if crossing is None:
            return
        level, name, message = crossing
        task, map_index = getattr(record, "task_index", None), getattr(record, "map_index", None)
        self._outbox.logs.append((int(record.created * 1_000_000), level, name, message, task, map_index))
        if self._outbox.idle:
            self._outbox.wake()


class Reporting:
    """Everything that a flow process reports through, opened before its code is loaded and closed after its end.

    Args:
        folder: The outbox's folder.
        poke_descriptor: Where the supervisor is poked.
        flow_run_id: Id of the run.
        epoch: Its epoch.
        ledger: Where the ledger is, as the launch settings describe it.
        bundle_root: Folder of the bundle.
        failure_text: What of a failure's text may cross.
        log_mode: What of a log line may cross.

    Attributes:
        sink: For the engine.
    """

    def __init__(
        self,
        folder: Path,
        poke_descriptor: int,
        *,
        flow_run_id: str,
        epoch: int,
        ledger: Mapping[str, str],
        bundle_root: Path,
        failure_text: FailureText,
        log_mode: LogMode,
    ) -> None:
        self._outbox = OutboxWriter(folder, poke_descriptor)
        self._ledger = LedgerWriter(open_store(ledger), flow_run_id, epoch)
        self.sink = RunReporter(self._outbox, self._ledger, bundle_root, failure_text)
        self._handler = OutboxLogHandler(self._outbox, log_mode, bundle_root)
        attach_sink(self._handler)

    def close(self, timeout_seconds: float) -> bool:
        """Writes what is left. False when it could not within the time."""
        detach_sink(self._handler)
        kept = self._ledger.close(timeout_seconds)
        return self._outbox.close(timeout_seconds) and kept
