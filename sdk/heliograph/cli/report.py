"""What a run did, as text: the table of its tasks, their Gantt chart, its failures. Pure: messages in, lines out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from heliograph.api.v1 import flow_service_pb2
from heliograph.cli.gantt import Bar, render_gantt
from heliograph.cli.not_run import NotRun, is_not_run
from heliograph.cli.states import reason_words, state_cell, state_color, state_name
from heliograph.cli.table import Cell, Column
from heliograph.cli.text import clean
from heliograph.cli.times import duration
from heliograph.client.refs import to_datetime
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.utilities.hints import failure_hint

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from heliograph.api.v1 import flow_run_service_pb2, states_pb2, task_run_service_pb2

    FlowRun = flow_run_service_pb2.FlowRun
    TaskRun = task_run_service_pb2.TaskRun
    Graph = flow_service_pb2.Graph

MAX_CHILDREN = 10
"""Children of a map that a table names one by one, failed ones first."""

TASK_COLUMNS = (
    Column("task", flexible=True), Column("state"), Column("start", right=True), Column("duration", right=True),
    Column("runs", right=True), Column("note", flexible=True),
)  # fmt: skip


def run_id(run: FlowRun) -> str:
    """Returns the id of a run."""
    return run.name.rpartition("/")[2]


def label_of(task: TaskRun, labels: Sequence[str]) -> str:
    """Returns what a task run is called; a child of a map with its index."""
    label = labels[task.task] if task.task < len(labels) else task.task_slug
    return f"{label}[{task.map_index}]" if task.HasField("map_index") else label


def task_rows(
    run: FlowRun, tasks: Sequence[TaskRun], labels: Sequence[str], graph: Graph | None = None
) -> list[list[Cell | str]]:
    """Returns the rows of the task table: maps as one row, and those of their children that need a look.

    Args:
        run: The run.
        tasks: Its task runs.
        labels: What its tasks are called.
        graph: Its flow's graph, to say why tasks did not run.
    """
    rows: list[list[Cell | str]] = []
    begin = seconds(run.start_time)
    not_run = NotRun(graph or flow_service_pb2.Graph(), labels, tasks)

    def why(task: TaskRun) -> str:
        return not_run.words(task) or failure_words(task.failure)

    for task, children in group(tasks):
        rows.append(_row(task, label_of(task, labels), begin, summary(children) if children else why(task)))
        failed = [child for child in children if StateCode(child.state).is_failed]
        rows.extend(_row(child, "  " + label_of(child, labels), begin, why(child)) for child in failed[:MAX_CHILDREN])
        if len(failed) > MAX_CHILDREN:
            rows.append([f"  and {len(failed) - MAX_CHILDREN} more", Cell("Failed", "red"), "", "", "", ""])
    return rows


def group(tasks: Sequence[TaskRun]) -> Iterator[tuple[TaskRun, list[TaskRun]]]:
    """Yields each task run with its children. A map whose parent is not told yet stands for itself."""
    children: dict[int, list[TaskRun]] = {}
    for task in tasks:
        if task.HasField("map_index"):
            children.setdefault(task.task, []).append(task)
    for task in tasks:
        if not task.HasField("map_index"):
            yield task, children.pop(task.task, [])
    for orphans in children.values():
        yield orphans[0], orphans


def summary(children: Sequence[TaskRun]) -> str:
    """Returns `10 children: 9 Success, 1 Failed`."""
    count = Counter(child.state for child in children)
    told = ", ".join(f"{number} {state_name(state)}" for state, number in sorted(count.items()))
    return f"{len(children)} children: {told}"


def failure_words(failure: states_pb2.Failure) -> str:
    """Returns the kind and place of a failure: `ValueError at flow.py:42 in clean`."""
    if not failure.reason and not failure.exception_class:
        return ""
    words = failure.exception_class.removeprefix("builtins.") or reason_words(failure.reason)
    if failure.frames:
        frame = failure.frames[-1]
        words += f" at {frame.path}:{frame.line} in {frame.function}"
    if failure.HasField("signal"):
        words += f", signal {failure.signal}"
    if failure.HasField("exit_code"):
        words += f" {failure.exit_code}" if words == "exit code" else f", exit code {failure.exit_code}"
    return words


def reason_lines(failure: states_pb2.Failure) -> list[str]:
    """Returns why a run ended as it did: place, meaning, advice; none when nothing but its tasks failed."""
    if not failure.reason or failure.reason == int(FailureCode.TASKS_FAILED):
        return []
    lines = [f"Reason: {clean(failure_words(failure))}"]
    try:
        reason = FailureCode(failure.reason)
    except ValueError:  # a newer server's
        return lines
    if reason is not FailureCode.EXCEPTION:
        meaning, advice = failure_hint(reason, failure.signal if failure.HasField("signal") else None)
        lines.append(f"  {meaning}; {advice}")
    return lines


def failures(run: FlowRun, tasks: Sequence[TaskRun], labels: Sequence[str]) -> list[tuple[str, states_pb2.Failure]]:
    """Returns the failures that have a text on the user's side, each once: of tasks, then the run's own.

    The run's own is left out where it only says that tasks failed.
    """
    # The text of a trigger says less than the table does.
    ran = [task for task in tasks if not is_not_run(task)]
    found = {task.failure.error_id: (label_of(task, labels), task.failure) for task in reversed(ran)}
    told = list(reversed([pair for error_id, pair in found.items() if error_id]))
    own = run.failure
    if own.error_id and own.error_id not in found and not (told and own.reason == int(FailureCode.TASKS_FAILED)):
        told.append(("the flow run", own))
    return told


def gantt_lines(
    tasks: Sequence[TaskRun],
    labels: Sequence[str],
    *,
    columns: int,
    color: bool,
    now: float | None = None,
) -> list[str]:
    """Returns the Gantt chart of a run; a map is one bar from its first child to its last."""
    bars = []
    for task, children in group(tasks):
        parts = [task, *children]
        starts = [at for part in parts if (at := seconds(part.start_time)) is not None]
        ends = [seconds(part.end_time) for part in parts if part.HasField("start_time")]
        start = min(starts, default=None)
        open_end = None in ends or not ends
        end = None if open_end else max(at for at in ends if at is not None)
        until = end if end is not None else now
        note = duration(until - start) if start is not None and until is not None else state_name(task.state)
        bars.append(Bar(label_of(task, labels), start, end, state_color(task.state), note))
    return render_gantt(bars, columns=columns, color=color, now=now)


def seconds(stamp: Timestamp) -> float | None:
    """Returns a time in seconds since 1970, or None when it is not set."""
    time = to_datetime(stamp)
    return time.timestamp() if time else None


def run_length(run: FlowRun) -> str:
    """Returns how long a run took, or has been running."""
    start, end = seconds(run.start_time), seconds(run.end_time)
    return duration(end - start) if start is not None and end is not None else ""


def _row(task: TaskRun, label: str, begin: float | None, note: str) -> list[Cell | str]:
    start, end = seconds(task.start_time), seconds(task.end_time)
    return [
        label,
        state_cell(task.state),
        f"+{duration(max(0.0, start - begin))}" if start is not None and begin is not None else "",
        duration(max(0.0, end - start)) if start is not None and end is not None else "",
        str(task.run_count) if task.run_count else "",
        note,
    ]
