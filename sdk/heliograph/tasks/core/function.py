"""Functions as tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from heliograph.core.signature import check_run_signature
from heliograph.core.task import Task


class FunctionTask(Task):
    """A task that calls a function. `@task` makes it.

    Args:
        fn: The function; its arguments become the task's inputs.
        name: Name for people; the function's name by default.
        **kwargs: The options of `Task`.

    Raises:
        TypeError: `fn` cannot be called.
        FlowError: Its signature does not fit a task.
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None, **kwargs: Any) -> None:
        if not callable(fn):
            raise TypeError(f"a task needs a function, not {fn!r}")
        if name is None:
            name = getattr(fn, "__name__", type(fn).__name__).strip("<>")
        check_run_signature(fn, name)
        self.run = fn  # type: ignore[method-assign]
        self.__doc__ = fn.__doc__
        super().__init__(name=name, **kwargs)
