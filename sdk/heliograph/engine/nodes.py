"""What the engine reads of a task, once per flow run, and what a task run knows of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from heliograph.engine.graph import Graph, Input
from heliograph.engine.sink import StoredResult
from heliograph.engine.transitions import Policy, Record
from heliograph.logging import child_logger, get_logger
from heliograph.triggers import all_successful

if TYPE_CHECKING:
    from heliograph.core.task import Task
    from heliograph.engine.run_loop import RunLoop

_NO_RESULT = StoredResult(None, reason="no result is configured")
_NOWHERE = "but neither the task nor the flow has a result that stores"
ASKED_FOR = StoredResult(None, reason=f"checkpoint=True, {_NOWHERE}")
TARGET_ONLY = StoredResult(None, reason=f"there is a target, {_NOWHERE}")
"""Why a value is not kept although its task asks for it: worth a warning."""
_SWITCHED_OFF = StoredResult(None, reason="checkpoint=False")
_MADE = StoredResult(None, reason="made by Heliograph from its inputs")
NONE_VALUE = StoredResult(None, reason="the value is None")
"""Why a value of None is not kept."""

_PLAIN_POLICY = Policy()


class Node:
    """One task of a flow run, with the decisions that do not depend on the run.

    Attributes:
        plain: True when the short way of the run loop is enough.
        result: The `Result` that values are kept with; None when they are not kept.
        not_kept: Why they are not kept.
    """

    __slots__ = (
        "constants", "crossing_name", "handlers", "index", "inputs", "mapped", "name", "not_kept", "plain", "policy",
        "result", "run", "tags", "task",
    )  # fmt: skip

    def __init__(self, graph: Graph, index: int, task: Task, flow_result: Any) -> None:
        self.index = index
        self.task = task
        self.name: str = task.name
        self.crossing_name: str = task.crossing_name
        self.run: Callable[..., Any] = task.run
        self.inputs: tuple[Input, ...] = graph.inputs[index]
        self.mapped = graph.mapped[index]
        self.constants: Mapping[str, Any] = graph.constants[index]
        self.handlers: list[Callable[..., Any]] = task.state_handlers
        self.tags: tuple[str, ...] | None = tuple(sorted(task.tags)) if task.tags else None
        self.result, self.not_kept = _kept_with(task, flow_result)
        if task.max_retries or self.result is not None:
            delay = (task.retry_delay or timedelta(0)) // timedelta(microseconds=1)
            self.policy = Policy(task.max_retries, delay, self.result is not None)
        else:
            self.policy = _PLAIN_POLICY
        self.plain = (
            self.result is None
            and not self.handlers
            and task.trigger is all_successful
            and task.cache_for is None
            and task.target is None
            and task.timeout is None
            and task.task_run_name is None
            and not task.log_stdout
        )


def _kept_with(task: Task, flow_result: Any) -> tuple[Any, StoredResult]:
    """The one rule: a value is kept when a result can store it and the task does not forbid it."""
    result = task.result if task.result is not None else (None if task.auto_generated else flow_result)
    stores = result is not None and getattr(result, "stores", False)
    if stores and task.checkpoint is not False and not getattr(task, "takes_defaults", True):
        stores = task.result is not None  # parameters are kept only where their author says so
    if not stores:
        if task.checkpoint:
            return None, ASKED_FOR
        if task.target is not None and task.checkpoint is None:
            return None, TARGET_ONLY
        return None, _MADE if task.auto_generated else _NO_RESULT
    if task.checkpoint is False:
        return None, _SWITCHED_OFF
    return result, _NO_RESULT


class TaskFrame:
    """What one task run knows of itself; the content of the context, made when somebody looks."""

    __slots__ = ("loop", "map_index", "node", "record", "resumed", "run", "run_name")

    def __init__(self, loop: RunLoop, node: Node, run: int, map_index: int | None, record: Record) -> None:
        self.loop = loop
        self.node = node
        self.run = run
        self.map_index = map_index
        self.record = record
        self.run_name: str | None = None
        self.resumed = False

    @property
    def task_index(self) -> int:
        """Number of the task in the compiled graph."""
        return self.node.index

    @property
    def run_count(self) -> int:
        """Attempts, this one included."""
        return self.record.run_count

    def values(self) -> dict[str, Any]:
        """Makes the content of the context."""
        node, record, base = self.node, self.record, self.loop.base_context
        name = node.name if self.map_index is None else f"{node.name}[{self.map_index}]"
        slug = self.loop.graph.slugs[node.index]
        child = "" if self.map_index is None else f"[{self.map_index}]"
        content = {
            **base,
            "task_name": node.name,
            "task_full_name": name,
            "task_slug": slug,
            "task_id": slug,
            "task_run_id": f"{base['flow_run_id']}/{slug}{child}",
            "task_tags": set(node.tags or ()),
            "task_run_count": max(1, record.run_count),
            "map_index": self.map_index,
            "checkpointing": node.result is not None,
            "logger": get_logger(node.crossing_name)
            if self.map_index is None
            else child_logger(node.crossing_name, self.map_index),
        }
        if record.loop_count:
            content["task_loop_count"] = record.loop_count + 1
        assert self.loop.runner is not None
        self.loop.runner.add_content(self, content)
        if self.run_name is not None:
            content["task_run_name"] = self.run_name
        return content
