"""From what the engine tells to serialized `RunEvent` and `LogEntry` messages. Pure.

Texts are cut to the contract's limits here, so that no batch is ever refused for one of its events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliograph.api.contract import conform_text
from heliograph.api.v1.log_service_pb2 import LogEntry
from heliograph.api.v1.run_reporting_service_pb2 import RunEvent

if TYPE_CHECKING:
    from heliograph.api.v1.states_pb2 import Failure
    from heliograph.engine.sink import FailureInfo

MAX_FRAMES = 50
MAX_MESSAGE_BYTES = 8192
_MAX_UINT32 = 2**32 - 1

TaskItem = tuple[int, int | None, int, int, int, int, int, "FailureInfo | None", bool]
"""Arguments of `RunSink.task_state`, in order."""

FlowItem = tuple[int, int, "FailureInfo | None"]
"""Arguments of `RunSink.flow_state`, in order."""

LogItem = tuple[int, int, str, str, int | None, int | None]
"""Time in µs, level, logger, message, task, map index."""


def task_event(item: TaskItem) -> bytes:
    """Returns the serialized event of one task state."""
    task, map_index, state, time_micros, run_count, start_time_micros, child_count, failure, result_stored = item
    event = RunEvent()
    task_run = event.task_run
    task_run.task = task
    if map_index is not None:
        task_run.map_index = map_index
    task_run.state = state  # type: ignore[assignment]
    task_run.time_unix_micros = time_micros
    task_run.run_count = run_count
    if start_time_micros:
        task_run.start_time_unix_micros = start_time_micros
    if child_count:
        task_run.child_count = child_count
    if failure is not None:
        fill_failure(task_run.failure, failure)
    if result_stored:
        task_run.result_stored = True
    return event.SerializeToString()


def flow_event(item: FlowItem) -> bytes:
    """Returns the serialized event of one flow state."""
    state, time_micros, failure = item
    event = RunEvent()
    flow_run = event.flow_run
    flow_run.state = state  # type: ignore[assignment]
    flow_run.time_unix_micros = time_micros
    if failure is not None:
        fill_failure(flow_run.failure, failure)
    return event.SerializeToString()


def log_entry(item: LogItem, sequence: int) -> bytes:
    """Returns the serialized entry of one log line."""
    time_micros, level, logger, message, task, map_index = item
    entry = LogEntry()
    entry.sequence = sequence
    entry.time_unix_micros = time_micros
    entry.level = min(50, max(10, level // 10 * 10))  # type: ignore[assignment]
    entry.logger = _meta(logger, 200)
    entry.message = _user_text(message)
    if task is not None:
        entry.task = task
    if map_index is not None:
        entry.map_index = map_index
    return entry.SerializeToString()


def fill_failure(target: Failure, failure: FailureInfo) -> None:
    """Copies what may be told of a failure into its message."""
    target.reason = int(failure.reason)  # type: ignore[assignment]
    if failure.exception_class:
        target.exception_class = _meta(failure.exception_class, 200)
    for frame in failure.frames[-MAX_FRAMES:]:
        target.frames.add(
            path=_meta(frame.path, 500), line=min(max(0, frame.line), _MAX_UINT32), function=_meta(frame.function, 200)
        )
    if failure.error_id:
        target.error_id = failure.error_id[:80]
    if failure.exit_code is not None:
        target.exit_code = failure.exit_code
    if failure.signal is not None:
        target.signal = failure.signal
    if failure.text:
        target.text = _user_text(failure.text)


def _meta(text: str, max_bytes: int) -> str:
    """Returns `text` as a metadata field takes it."""
    return conform_text(text, max_bytes, meta=True)


def _user_text(text: str) -> str:
    """Returns `text` as a line or a failure's text may be sent."""
    return conform_text(text, MAX_MESSAGE_BYTES, meta=False)
