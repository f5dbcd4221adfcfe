"""A constant where an edge needs a task."""

from __future__ import annotations

from typing import Any

from heliograph.core.task import Task


class Constant(Task):
    """A task whose result is a value known when the flow is built.

    A constant argument needs no task: it is kept in `flow.constants`. This class stands for constants that are mapped
    over, or that are waited for.
    """

    auto_generated = True
    takes_defaults = False

    def __init__(self, value: Any, name: str | None = None, **kwargs: Any) -> None:
        if name is None:
            plain = f"Constant[{type(value).__name__}]"
            name = repr(value)
            if len(name) > 8:
                name = plain
            self._generated_name = (name, plain)
        self.value = value
        super().__init__(name=name, **kwargs)

    def run(self) -> Any:
        """Returns the value."""
        return self.value
