"""What authors use around tasks: the `task` decorator, `tags`, constants and collections as tasks, `apply_map`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from heliograph.context import context
from heliograph.core.task import Task
from heliograph.exceptions import FlowError
from heliograph.utilities.edges import EdgeAnnotation

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.tasks.core.function import FunctionTask

P = ParamSpec("P")
R = TypeVar("R")


@overload
def task(fn: Callable[..., Any], /) -> FunctionTask: ...
@overload
def task(fn: None = None, /, **task_init_kwargs: Any) -> Callable[[Callable[..., Any]], FunctionTask]: ...
def task(
    fn: Callable[..., Any] | None = None, /, **task_init_kwargs: Any
) -> FunctionTask | Callable[[Callable[..., Any]], FunctionTask]:
    """Makes a task of a function: `@task`, or with the options of `Task`: `@task(max_retries=3, retry_delay=…)`.

    The function stays callable as `.run(…)`.

    Raises:
        FlowError: The function's signature does not fit a task, or options contradict each other.
    """
    from heliograph.tasks.core.function import FunctionTask

    if fn is None:
        return functools.partial(FunctionTask, **task_init_kwargs)
    return FunctionTask(fn, **task_init_kwargs)


@contextmanager
def tags(*words: str) -> Iterator[None]:
    """Gives all tasks made or called in the block these tags, besides their own. Blocks nest."""
    with context(tags=set(words) | (context.get("tags") or set())):
        yield


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


def defaults_from_attrs(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For `run` of a task class: an argument that the caller leaves out is taken from `self`.

    An explicit `None` counts as given.
    """

    def decorate(run: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(run)
        for name in names:
            if name not in signature.parameters:
                raise FlowError(f"{run.__qualname__} has no argument {name!r} to take from an attribute")

        @functools.wraps(run)
        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind_partial(*args, **kwargs).arguments
            for name in names:
                if name not in given:
                    kwargs[name] = getattr(args[0], name)
            return run(*args, **kwargs)

        return method

    return decorate
