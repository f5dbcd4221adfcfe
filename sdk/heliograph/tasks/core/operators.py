"""Python operators as tasks. `Task`'s own operators make these."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from heliograph.core.task import Task


class _Binary(Task):
    """An operation on two values."""

    auto_generated = True
    takes_defaults = False
    operation: ClassVar[Callable[[Any, Any], Any]]

    def run(self, x: Any, y: Any) -> Any:
        """Returns the operation's value."""
        return type(self).operation(x, y)


class Add(_Binary):
    """`x + y`."""

    operation = operator.add


class Sub(_Binary):
    """`x - y`."""

    operation = operator.sub


class Mul(_Binary):
    """`x * y`."""

    operation = operator.mul


class Div(_Binary):
    """`x / y`."""

    operation = operator.truediv


class FloorDiv(_Binary):
    """`x // y`."""

    operation = operator.floordiv


class Mod(_Binary):
    """`x % y`."""

    operation = operator.mod


class Pow(_Binary):
    """`x ** y`."""

    operation = operator.pow


class Equal(_Binary):
    """`x == y`."""

    operation = operator.eq


class NotEqual(_Binary):
    """`x != y`."""

    operation = operator.ne


class GreaterThan(_Binary):
    """`x > y`."""

    operation = operator.gt


class GreaterThanOrEqual(_Binary):
    """`x >= y`."""

    operation = operator.ge


class LessThan(_Binary):
    """`x < y`."""

    operation = operator.lt


class LessThanOrEqual(_Binary):
    """`x <= y`."""

    operation = operator.le


class And(_Binary):
    """`x and y`; both are computed."""

    def run(self, x: Any, y: Any) -> Any:
        """Returns `x and y`."""
        return x and y


class Or(_Binary):
    """`x or y`; both are computed."""

    def run(self, x: Any, y: Any) -> Any:
        """Returns `x or y`."""
        return x or y


class Not(Task):
    """`not x`."""

    auto_generated = True
    takes_defaults = False

    def run(self, x: Any) -> bool:
        """Returns `not x`."""
        return not x


class GetItem(Task):
    """`task_result[key]`."""

    auto_generated = True
    takes_defaults = False

    def run(self, task_result: Any, key: Any) -> Any:
        """Returns the item."""
        return task_result[key]
