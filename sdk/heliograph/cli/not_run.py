"""Why tasks did not run: which tasks before them failed. From the graph and the states that are known; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_service_pb2, task_run_service_pb2

MAX_NAMED = 3
_SIGNAL = "heliograph.engine.signals.TRIGGERFAIL"


class NotRun:
    """Knows which task runs failed, and says so of the task runs after them.

    Args:
        graph: The flow's graph.
        labels: What its tasks are called.
        tasks: Task runs that are known already.
    """

    def __init__(
        self,
        graph: flow_service_pb2.Graph,
        labels: Sequence[str],
        tasks: Iterable[task_run_service_pb2.TaskRun] = (),
    ) -> None:
        self._labels = labels
        self._upstream: dict[int, dict[int, bool]] = {}
        for edge in graph.edges:
            self._upstream.setdefault(edge.downstream, {})[edge.upstream] = edge.mapped
        self._failed: dict[int, dict[int | None, bool]] = {}
        for task in tasks:
            self.learn(task)

    def learn(self, task: task_run_service_pb2.TaskRun) -> None:
        """Takes note of how a task run ended."""
        state = StateCode(task.state)
        if state.is_failed:
            index = task.map_index if task.HasField("map_index") else None
            self._failed.setdefault(task.task, {})[index] = state is not StateCode.TRIGGER_FAILED

    def words(self, task: task_run_service_pb2.TaskRun) -> str:
        """Returns `not run: price_of failed`; an empty text for a task run that ran, or whose own trigger raised."""
        if not is_not_run(task):
            return ""
        index = task.map_index if task.HasField("map_index") else None
        told = []
        for number, mapped in self._upstream.get(task.task, {}).items():
            ends = self._failed.get(number, {})
            if mapped and index in ends:
                ends = {index: ends[index]}
            label = self._labels[number] if number < len(self._labels) else f"task {number}"
            children = [child for child in ends if child is not None]
            ran = any(ends.values())
            if len(children) == 1:
                label += f"[{children[0]}]"
            elif children:
                label = f"{len(children)} of {label}"
            if ends:
                told.append(f"{label} {'failed' if ran else 'did not run'}")
        if len(told) > MAX_NAMED:
            told = [*told[:MAX_NAMED], f"and {len(told) - MAX_NAMED} more"]
        return f"not run: {', '.join(told) or 'its trigger was not satisfied'}"


def is_not_run(task: task_run_service_pb2.TaskRun) -> bool:
    """True for a task run that one of our triggers refused; not where a user's own trigger raised."""
    failure = task.failure
    return task.state == int(StateCode.TRIGGER_FAILED) and failure.exception_class in ("", _SIGNAL)
