"""Whether a failed attempt may be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliograph.engine.state import State

if TYPE_CHECKING:
    from heliograph.core.task import Task


def may_retry(task: Task, failed: State) -> bool:
    """Tells whether `retry_on` lets this failure be retried; how often is the state machine's business.

    Args:
        task: The task.
        failed: The state of the failed attempt, whose result is the exception.
    """
    kinds = task.retry_on
    return kinds is None or isinstance(failed.result, kinds)
