"""How plain values become tasks: constants, and collections that hold tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliograph.core.task import Task
from heliograph.utilities.edges import EdgeAnnotation

if TYPE_CHECKING:
    from heliograph.core.flow import Flow


def is_constant(value: Any) -> bool:
    """Tells whether there is no task in `value`, however deep its lists, tuples, sets and dictionaries nest."""
    if isinstance(value, Task | EdgeAnnotation):
        return False
    if isinstance(value, dict):
        return all(is_constant(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(is_constant(item) for item in value)
    return True


def as_task(value: Any, flow: Flow | None = None) -> Task:
    """Returns `value` as a task: itself, a collection of tasks, or a constant.

    Collections that hold a task anywhere become tasks that are bound in `flow`; others stay one constant.
    """
    from heliograph.tasks.core.collections import Dict, List, Set, Tuple
    from heliograph.tasks.core.constants import Constant

    if isinstance(value, Task):
        return value
    if isinstance(value, EdgeAnnotation):
        return as_task(value.task, flow)
    if is_constant(value):
        return Constant(value)
    if isinstance(value, dict):
        return Dict().bind(keys=list(value), values=list(value.values()), flow=flow)
    if isinstance(value, list):
        return List().bind(*value, flow=flow)
    if isinstance(value, tuple):
        return Tuple().bind(*value, flow=flow)
    # A set of tasks is iterated in the order in which they were made, so that every build makes the same flow.
    return Set().bind(*sorted(value, key=lambda item: getattr(item, "_created", -1)), flow=flow)
