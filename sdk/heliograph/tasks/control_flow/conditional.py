"""`switch`, `ifelse` and `merge`: branches that are all declared, of which those not taken are skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from heliograph.core.task import Task
from heliograph.engine.signals import SKIP
from heliograph.exceptions import FlowError
from heliograph.triggers import not_all_skipped
from heliograph.utilities.tasks import tags

if TYPE_CHECKING:
    from heliograph.core.flow import Flow


class CompareValue(Task):
    """Succeeds when its input equals a value, and skips otherwise.

    Args:
        value: The value; compared with `==`, so `1` equals `True`.
        **kwargs: The options of `Task`.
    """

    def __init__(self, value: Any, **kwargs: Any) -> None:
        self.value = value
        generated = f"CompareValue: {_short(value)}"
        self._generated_name = (generated, "CompareValue")
        kwargs.setdefault("name", generated)
        kwargs.setdefault("checkpoint", False)
        super().__init__(**kwargs)

    def run(self, value: Any) -> None:
        """Raises SKIP unless `value` equals that of the task."""
        if value != self.value:
            raise SKIP(f"Provided value {value!r} did not match {self.value!r}")


class _AsBool(Task):
    """The truth of a value."""

    def run(self, value: Any) -> bool:
        """Returns `bool(value)`."""
        return bool(value)


class Merge(Task):
    """The first result that is there, of branches of which most were skipped."""

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.setdefault("skip_on_upstream_skip", False):
            raise FlowError("a merge cannot skip with its upstream tasks: skipped branches are what it is for")
        kwargs.setdefault("trigger", not_all_skipped)
        super().__init__(**kwargs)

    def bind(self, *args: Any, **kwargs: Any) -> Self:
        """Binds the branches by position."""
        return super().bind(**{f"task_{index}": value for index, value in enumerate(args, 1)}, **kwargs)

    def run(self, **task_results: Any) -> Any:
        """Returns the first result in the order of the call that is neither None nor a skip."""
        for key in sorted(task_results, key=lambda key: int(key.rpartition("_")[2])):
            value = task_results[key]
            if value is not None and not isinstance(value, SKIP):
                return value
        return None


def switch(condition: Any, cases: Mapping[Any, Task], mapped: bool = False) -> None:
    """Runs the task whose case equals the condition's value, and skips the others and what is behind them.

    Args:
        condition: A task, or a value.
        cases: Task by value. Values are compared with `==`.
        mapped: True to decide element by element.
    """
    with tags("switch"):
        for value, branch in cases.items():
            branch.set_dependencies(
                upstream_tasks=[CompareValue(value).bind(value=condition, mapped=mapped)], mapped=mapped
            )


def ifelse(condition: Any, true_task: Task | None, false_task: Task | None, mapped: bool = False) -> None:
    """Runs one of two tasks by the truth of a condition, and skips the other.

    Args:
        condition: A task, or a value.
        true_task: Runs when it is true; None for nothing.
        false_task: Runs when it is false; None for nothing.
        mapped: True to decide element by element.
    """
    cases = {value: branch for value, branch in ((True, true_task), (False, false_task)) if branch is not None}
    if cases:
        switch(_AsBool(name="as_bool").bind(value=condition, mapped=mapped), cases, mapped=mapped)


def merge(*tasks: Task, flow: Flow | None = None, mapped: bool = False, **kwargs: Any) -> Task:
    """Joins branches: gives the first result, in the order of this call, that is neither None nor skipped.

    It is skipped when every branch was, and fails when one failed.

    Args:
        *tasks: The branches.
        flow: The flow; the one of the enclosing block by default.
        mapped: True to merge element by element.
        **kwargs: The options of `Task`.

    Raises:
        FlowError: `skip_on_upstream_skip=True` was given.
    """
    return Merge(**kwargs).bind(*tasks, flow=flow, mapped=mapped)


def _short(value: Any) -> str:
    # Names have no < or >, which the representation of many objects has.
    text = repr(value) if isinstance(value, str | int | float | bool | bytes | None) else type(value).__name__
    return (text if len(text) <= 40 else f"{text[:37]}...").replace("<", "(").replace(">", ")")
