"""Collections of tasks as tasks, so that `f([a, b])` gives `f` a list of two results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from heliograph.core.task import Task


class _Elements(Task):
    """A task bound to any number of elements, which keep their order."""

    auto_generated = True
    takes_defaults = False

    def run(self, **elements: Any) -> Any:
        """Returns the elements in order."""
        return self._in_order(elements)

    def bind(self, *args: Any, **kwargs: Any) -> Self:
        """Binds the elements by position."""
        return super().bind(**{f"arg_{index}": value for index, value in enumerate(args, 1)}, **kwargs)

    @staticmethod
    def _in_order(elements: Mapping[str, Any]) -> list[Any]:
        return [value for _, value in sorted(elements.items(), key=lambda item: int(item[0].rpartition("_")[2]))]


class List(_Elements):
    """A list of results."""

    def run(self, **elements: Any) -> list[Any]:
        """Returns the elements as a list."""
        return self._in_order(elements)


class Tuple(_Elements):
    """A tuple of results."""

    def run(self, **elements: Any) -> tuple[Any, ...]:
        """Returns the elements as a tuple."""
        return tuple(self._in_order(elements))


class Set(_Elements):
    """A set of results."""

    def run(self, **elements: Any) -> set[Any]:
        """Returns the elements as a set."""
        return set(self._in_order(elements))


class Dict(Task):
    """A dictionary of results."""

    auto_generated = True
    takes_defaults = False

    def run(self, keys: list[Any], values: list[Any]) -> dict[Any, Any]:
        """Returns `keys` and `values` zipped."""
        return dict(zip(keys, values, strict=True))
