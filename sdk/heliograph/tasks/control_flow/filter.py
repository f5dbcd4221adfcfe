"""A task that keeps some of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from heliograph.core.task import Task
from heliograph.triggers import all_finished


def is_result(value: Any) -> bool:
    """Tells whether a value is neither None nor an exception, which a failed or skipped task leaves."""
    return value is not None and not isinstance(value, BaseException)


class FilterTask(Task):
    """Keeps the results for which a function is true: by default those of children that succeeded.

    Args:
        filter_func: The function; by default it drops None and exceptions.
        log_func: Makes a text to log of each result that is dropped.
        **kwargs: The options of `Task`. It runs whatever the upstream states are, and does not skip with them.
    """

    def __init__(
        self,
        filter_func: Callable[[Any], Any] | None = None,
        log_func: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("skip_on_upstream_skip", False)
        kwargs.setdefault("trigger", all_finished)
        self.filter_func = filter_func or is_result
        self.log_func = log_func
        super().__init__(**kwargs)

    def run(self, task_results: Iterable[Any]) -> list[Any]:
        """Returns what is kept, in order."""
        kept = []
        for result in task_results:
            if self.filter_func(result):
                kept.append(result)
            elif self.log_func is not None:
                self.logger.info("Filtered out: %s", self.log_func(result))
        return kept
