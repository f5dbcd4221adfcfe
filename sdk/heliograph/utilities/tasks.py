"""What authors use around tasks: the `task` decorator, `tags`, and helpers for classes of tasks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from heliograph.context import context
from heliograph.core.coercion import as_task, is_constant
from heliograph.exceptions import FlowError

if TYPE_CHECKING:
    from heliograph.tasks.core.function import FunctionTask

__all__ = ["as_task", "defaults_from_attrs", "is_constant", "tags", "task"]

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
