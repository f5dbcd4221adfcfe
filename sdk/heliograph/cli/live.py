"""Follows a run: its states and log lines, in the order in which they happened, until it is finished.

Two streams feed one queue: changes of states, and log lines. What arrives is held for a blink and sorted by its time,
so that a task's last line stands before its end.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from heliograph.cli.loglines import COLORS, LEVELS, entry_label
from heliograph.cli.not_run import NotRun
from heliograph.cli.report import failure_words, label_of, seconds
from heliograph.cli.states import state_color, state_name
from heliograph.cli.text import clean, pad, paint, shorten, use_color
from heliograph.cli.times import clock, duration
from heliograph.client.refs import task_labels, to_datetime
from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2, log_service_pb2, task_run_service_pb2
    from heliograph.cli.session import Session

HOLD_SECONDS = 0.15
"""How long an arrival waits for others that happened before it."""
LAST_LINES_SECONDS = 5.0
"""How long to wait for the last log lines of a finished run."""
FIRST_ADVICE_SECONDS, NEXT_ADVICE_SECONDS = 15.0, 30.0
"""When to say why a run does not start, and how often."""
LOADING_SECONDS = 1.0
"""When to say what goes on between an agent's yes and the flow's first words."""
IDLE_SECONDS = 0.5
MAX_LABEL = 32
_NOT_BEGUN = (StateCode.SCHEDULED, StateCode.SUBMITTED)
CHILD_FAILURES = 5
"""Failed children of one map that get a line; the table at the end counts them all."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """One stream ended, well or not."""

    source: str
    error: BaseException | None = None


class Follower:
    """Prints what happens in one run.

    Args:
        session: The command's session.
        run: The run.
        output: `table` for lines of text, `jsonl` for messages, `json` for none while it runs.
        logs: True to print log lines.
    """

    def __init__(
        self, session: Session, run: flow_run_service_pb2.FlowRun, *, output: str = "table", logs: bool = True
    ) -> None:
        self._session = session
        self.run = run
        self.tasks: dict[tuple[int, int | None], task_run_service_pb2.TaskRun] = {}
        self.graph = session.client.get_flow_version(run.flow_version).graph
        self.labels = task_labels(self.graph)
        self._not_run = NotRun(self.graph, self.labels)
        self._submitted_at: float | None = None
        self._output = output
        self._logs = logs
        self._queue: queue.Queue[Any] = queue.Queue()
        self._held: list[tuple[float, int, str]] = []
        self._shown_states: dict[Any, int] = {}
        self._child_failures: dict[int, int] = {}
        self._count = 0
        self._color = use_color(session.color, sys.stdout)
        self._width = min(MAX_LABEL, max([8, *map(len, self.labels)]))

    def follow(self) -> flow_run_service_pb2.FlowRun:
        """Prints until the run is finished, and returns it as it is then.

        Raises:
            KeyboardInterrupt: The person had enough; the run goes on.
        """
        client = self._session.client
        open_streams = {"states"}
        self._start("states", lambda: client.watch_flow_run(self.run.name))
        if self._logs:
            open_streams.add("logs")
            self._start("logs", lambda: client.tail_logs(self.run.name))
        advice_at = time.monotonic() + FIRST_ADVICE_SECONDS
        last_lines_at: float | None = None
        while open_streams and (last_lines_at is None or time.monotonic() < last_lines_at):
            for item in self._arrived():
                if isinstance(item, _Ended):
                    if item.error is not None:
                        raise item.error
                    open_streams.discard(item.source)
                    if item.source == "states":
                        last_lines_at = time.monotonic() + LAST_LINES_SECONDS
                else:
                    self._show(item)
            self._tell_loading()
            self._release()
            if StateCode(self.run.state) in _NOT_BEGUN and time.monotonic() > advice_at:
                advice_at = time.monotonic() + NEXT_ADVICE_SECONDS
                self._advise()
        self._release()
        return self.run

    def _start(self, source: str, open_stream: Callable[[], Iterator[Any]]) -> None:
        def pump() -> None:
            try:
                for item in open_stream():
                    self._queue.put(item)
            except Exception as error:  # noqa: BLE001 - the thread's boundary: the queue's reader raises it
                self._queue.put(_Ended(source, error))
            else:
                self._queue.put(_Ended(source))

        threading.Thread(target=pump, name=f"heliograph-{source}", daemon=True).start()

    def _arrived(self) -> Iterator[Any]:
        """Waits for the first arrival, at most a second, then collects for a blink."""
        try:
            yield self._queue.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            return
        until = time.monotonic() + HOLD_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                yield self._queue.get(timeout=left)
            except queue.Empty:
                return

    def _show(self, item: Any) -> None:
        if self._output == "jsonl":
            from heliograph.cli.output import to_plain

            print(json.dumps(to_plain(item), ensure_ascii=False), flush=True)
        if not hasattr(item, "flow_run"):
            self._hold_log(item)
            return
        if item.HasField("flow_run"):
            self.run = item.flow_run
            self._hold_run()
        for task in item.task_runs:
            key = (task.task, task.map_index if task.HasField("map_index") else None)
            self.tasks[key] = task
            self._hold_task(key, task)

    def _hold_run(self) -> None:
        if self._shown_states.get("run") != self.run.state:
            self._shown_states["run"] = self.run.state
            words = state_name(self.run.state)
            waits = StateCode(self.run.state) is StateCode.SUBMITTED
            self._submitted_at = time.monotonic() if waits else None
            if StateCode(self.run.state) is StateCode.SUBMITTED and self.run.agent:
                words += f" by {self.run.agent.removeprefix('agents/')}"
            if self.run.failure.reason and StateCode(self.run.state) is StateCode.CRASHED:
                words += f": {failure_words(self.run.failure)}"
            self._hold(to_datetime(self.run.state_time), "flow run", words, state_color(self.run.state))

    def _tell_loading(self) -> None:
        if self._submitted_at is not None and time.monotonic() > self._submitted_at + LOADING_SECONDS:
            self._submitted_at = None
            agent = self.run.agent.removeprefix("agents/") or "its agent"
            self._hold(datetime.now(UTC), "flow run", f"loading the bundle on {agent}", "dim")

    def _hold_task(self, key: tuple[int, int | None], task: task_run_service_pb2.TaskRun) -> None:
        state = StateCode(task.state)
        self._not_run.learn(task)
        if self._shown_states.get(key) == task.state:
            return
        self._shown_states[key] = task.state
        if task.HasField("map_index"):
            self._child_failures[task.task] = self._child_failures.get(task.task, 0) + state.is_failed
            if not state.is_failed or self._child_failures[task.task] > CHILD_FAILURES:
                return
        elif state is StateCode.PENDING:
            return
        words = state_name(task.state)
        start, end = seconds(task.start_time), seconds(task.end_time)
        if state.is_finished and start is not None and end is not None:
            words += f" after {duration(end - start)}"
        if state is StateCode.MAPPED:
            words += f", {task.child_count} children"
        if not_run := self._not_run.words(task):
            words += f", {not_run}"
        elif state.is_failed and task.failure.exception_class:
            words += f": {task.failure.exception_class.removeprefix('builtins.')}"
        self._hold(to_datetime(task.state_time), label_of(task, self.labels), words, state_color(task.state))

    def _hold_log(self, entry: log_service_pb2.LogEntry) -> None:
        self._submitted_at = None
        moment = datetime.fromtimestamp(entry.time_unix_micros / 1e6, UTC)
        label = entry_label(entry, self.labels)
        if entry.dropped_before:
            self._hold(moment, label, f"({entry.dropped_before} lines dropped)", "yellow")
        words = f"{LEVELS.get(entry.level, 'INFO')}  {entry.message}"
        self._hold(moment, label, words, COLORS.get(entry.level))

    def _hold(self, moment: datetime | None, label: str, words: str, color: str | None) -> None:
        moment = moment or datetime.now(UTC)
        indent = "\n" + " " * (len(clock(moment)) + self._width + 4)
        shown = clean(words, keep_lines=True).rstrip().replace("\n", indent)
        line = "  ".join(
            (
                paint(clock(moment), "dim", self._color),
                pad(shorten(clean(label), self._width), self._width),
                paint(shown, color, self._color),
            )
        )
        self._count += 1
        self._held.append((moment.timestamp(), self._count, line))

    def _release(self) -> None:
        if self._output == "table":
            for _, _, line in sorted(self._held):
                print(line, flush=True)
        self._held.clear()

    def _advise(self) -> None:
        from heliograph.cli.why import explanation_lines

        answer = self._session.client.explain_flow_run(self.run.name)
        state = StateCode(answer.flow_run.state)
        # Submitted ones are told about already (see `_tell_loading`), but for what their infrastructure waits for.
        if state is StateCode.SCHEDULED or (state is StateCode.SUBMITTED and answer.launch_delay):
            for line in explanation_lines(answer):
                click.echo(line, err=True)
