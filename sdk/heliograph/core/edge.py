"""One dependency between two tasks."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliograph.exceptions import FlowError

if TYPE_CHECKING:
    from heliograph.core.task import Task


@dataclass(frozen=True, slots=True)
class Edge:
    """`downstream_task` waits for `upstream_task`, and takes its result as argument `key` when there is one.

    Attributes:
        upstream_task: The task that runs first.
        downstream_task: The task that waits.
        key: Name of the argument that takes the result; None for a dependency of order only.
        mapped: True when the downstream task runs once per element of the result.
        flattened: True when one level of nesting is removed from the result first.

    Raises:
        FlowError: `key` cannot be the name of an argument.
    """

    upstream_task: Task
    downstream_task: Task
    key: str | None = None
    mapped: bool = False
    flattened: bool = False

    def __post_init__(self) -> None:
        if self.key is not None and (not self.key.isidentifier() or keyword.iskeyword(self.key)):
            raise FlowError(f"{self.key!r} cannot be the name of an argument, so no edge can carry a value to it")

    @property
    def tasks(self) -> set[Task]:
        """Both ends."""
        return {self.upstream_task, self.downstream_task}

    def __repr__(self) -> str:
        key = f" as {self.key}" if self.key else ""
        return f"<Edge: {self.upstream_task.name} to {self.downstream_task.name}{key}>"
