"""`apply_map`: maps a function that builds several tasks, not only one task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from heliograph.context import context
from heliograph.core.coercion import as_task
from heliograph.core.flow import Flow
from heliograph.core.task import Task
from heliograph.exceptions import FlowError
from heliograph.tasks.core.constants import Constant
from heliograph.utilities.edges import EdgeAnnotation


def apply_map(func: Callable[..., Any], *args: Any, flow: Flow | None = None, **kwargs: Any) -> Any:
    """Maps everything that `func` builds over its arguments: each of its tasks runs once per element.

    `func` is called once, now, with the arguments as tasks. It may use conditions and merges; it may not map itself.

    Args:
        func: Builds tasks and returns those whose results are wanted: one, or a collection.
        *args: Tasks or values to map over; `unmapped(x)` gives `x` whole to every child.
        flow: The flow; the one of the enclosing block by default.
        **kwargs: More arguments by name.

    Returns:
        What `func` returned.

    Raises:
        FlowError: No flow is being built here, or `func` maps.
    """
    flow = flow if flow is not None else context.get("flow")
    if flow is None:
        raise FlowError("no flow is being built here, so apply_map cannot add tasks to one", hint="give flow=…")
    inner = Flow("apply_map")
    arguments: dict[Task, tuple[bool, bool]] = {}  # the argument's task: mapped, flattened

    def argument(value: Any) -> Task:
        annotations = value.annotations if isinstance(value, EdgeAnnotation) else {}
        task = as_task(value, flow)
        if not isinstance(task, Constant):
            flow.add_task(task)
        arguments[task] = (annotations.get("mapped", True), annotations.get("flattened", False))
        return task

    new_args = [argument(value) for value in args]
    new_kwargs = {key: argument(value) for key, value in kwargs.items()}
    with context(case=None, flow=inner):
        result = func(*new_args, **new_kwargs)
    _move(inner, flow, arguments)
    return result


def _move(inner: Flow, flow: Flow, arguments: dict[Task, tuple[bool, bool]]) -> None:
    """Adds the tasks of `inner` to `flow`, each of them mapped."""
    own = [task for task in inner.sorted_tasks() if task not in arguments]
    constants = {id(task.value): task for task in arguments if isinstance(task, Constant)}
    for task in own:
        if any(edge.mapped for edge in inner.edges_to(task)):
            raise FlowError(f"{task.name} is mapped inside the function of apply_map, which maps it already")
    for task in own:
        if not isinstance(task, Constant):
            flow.add_task(task)
    mapped_tasks: set[Task] = set()
    for task in own:
        if isinstance(task, Constant):
            continue
        for edge in sorted(inner.edges_to(task), key=lambda edge: (edge.key or "", inner.slugs[edge.upstream_task])):
            upstream = edge.upstream_task
            mapped, flattened = arguments.get(upstream, (upstream in mapped_tasks, False))
            flow.add_edge(upstream, task, edge.key, mapped=mapped, flattened=flattened or edge.flattened)
        for key, value in inner.constants.get(task, {}).items():
            _move_constant(flow, task, key, value, constants.get(id(value)), arguments)
        if not any(edge.mapped for edge in flow.edges_to(task)):
            # A task that uses none of the mapped arguments still runs once per element.
            for argument, (mapped, flattened) in arguments.items():
                if mapped:
                    flow.add_edge(argument, task, mapped=True, flattened=flattened)
        mapped_tasks.add(task)


def _move_constant(
    flow: Flow,
    task: Task,
    key: str,
    value: Any,
    argument: Constant | None,
    arguments: dict[Task, tuple[bool, bool]],
) -> None:
    mapped, flattened = arguments[argument] if argument is not None else (False, False)
    if argument is not None and (mapped or flattened):
        flow.add_edge(argument, task, key, mapped=mapped, flattened=flattened)
    else:
        flow.add_edge(Constant(value), task, key)
