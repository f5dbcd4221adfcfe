"""`with case(task, value):`, a block of tasks that run only if the result of a task equals a value."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from heliograph.context import context
from heliograph.core.task import Task
from heliograph.exceptions import FlowError
from heliograph.tasks.control_flow.conditional import CompareValue

if TYPE_CHECKING:
    from heliograph.core.flow import Flow


class case:  # noqa: N801 - reads as a statement where it is used
    """Tasks added inside the block run only if the result of `task` equals `value`; else they are skipped.

    Only the roots of the block wait for the comparison; the others are skipped with their upstream tasks. Parameters
    and constants stay outside. Blocks nest.

    Args:
        task: The task whose result decides.
        value: What it is compared with, a plain value.

    Raises:
        TypeError: `value` is a task.
    """

    def __init__(self, task: Task, value: Any) -> None:
        if isinstance(value, Task):
            raise TypeError("the value of a case must be known when the flow is built, so it cannot be a task")
        self.task = task
        self.value = value
        self._tasks: dict[Task, None] = {}
        self._flow: Flow | None = None
        self._block: AbstractContextManager[Any] | None = None

    def add_task(self, task: Task, flow: Flow) -> None:
        """Notes a task that a flow got inside the block.

        Raises:
            FlowError: The block has tasks of another flow already.
        """
        if self._flow is not None and self._flow is not flow:
            raise FlowError(f"one case block cannot hold tasks of two flows, {self._flow.name!r} and {flow.name!r}")
        self._flow = flow
        self._tasks[task] = None

    def __enter__(self) -> Self:
        self._block = context(case=self)
        self._block.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._block is not None
        self._block.__exit__(*exception)
        self._block = None
        tasks, flow = self._tasks, self._flow
        self._tasks, self._flow = {}, None
        if flow is None or exception[0] is not None:
            return
        roots = [task for task in tasks if flow.upstream_tasks(task).isdisjoint(tasks)]
        # Bound outside the block, so that an enclosing block takes the comparison in as one of its own tasks.
        condition = CompareValue(self.value).bind(value=self.task, flow=flow)
        for root in roots:
            root.set_upstream(condition, flow=flow)
