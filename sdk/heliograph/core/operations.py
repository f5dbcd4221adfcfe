"""Python operators on tasks: each makes a task that does the operation at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliograph.core.task import Task


class Operations:
    """The operators of `Task`.

    Two are not what they look like: `a | b` makes `b` wait for `a` (use `a.or_(b)` for a logical or), and `a == b`
    compares the task objects (use `a.is_equal(b)`).
    """

    @staticmethod
    def _operation(name: str, *operands: Any) -> Task:
        from heliograph.core.task import Task
        from heliograph.tasks.core import operators

        operation: Task = getattr(operators, name)()
        task = next(operand for operand in operands if isinstance(operand, Task))
        return operation.bind(*operands, flow=task._flow_for_edges(None))  # noqa: SLF001 - of this class

    def __getitem__(self, key: Any) -> Task:
        from heliograph.core.task import Task
        from heliograph.tasks.core.operators import GetItem

        assert isinstance(self, Task)
        shown = f"[{key.crossing_name}]" if isinstance(key, Task) else f"[{key!r}]"
        item = GetItem(name=f"{self.name}{shown}", checkpoint=self.checkpoint, result=self.result)
        # A small index says nothing; any other key is a constant, which stays on this side.
        plain = shown if isinstance(key, Task) or (isinstance(key, int) and 0 <= key < 1_000) else "[key]"
        item._generated_name = (item.name, f"{self.crossing_name}{plain}")  # noqa: SLF001 - of this class
        return item.bind(self, key, flow=self._flow_for_edges(None))

    def __add__(self, other: Any) -> Task:
        return self._operation("Add", self, other)

    def __radd__(self, other: Any) -> Task:
        return self._operation("Add", other, self)

    def __sub__(self, other: Any) -> Task:
        return self._operation("Sub", self, other)

    def __rsub__(self, other: Any) -> Task:
        return self._operation("Sub", other, self)

    def __mul__(self, other: Any) -> Task:
        return self._operation("Mul", self, other)

    def __rmul__(self, other: Any) -> Task:
        return self._operation("Mul", other, self)

    def __truediv__(self, other: Any) -> Task:
        return self._operation("Div", self, other)

    def __rtruediv__(self, other: Any) -> Task:
        return self._operation("Div", other, self)

    def __floordiv__(self, other: Any) -> Task:
        return self._operation("FloorDiv", self, other)

    def __rfloordiv__(self, other: Any) -> Task:
        return self._operation("FloorDiv", other, self)

    def __mod__(self, other: Any) -> Task:
        return self._operation("Mod", self, other)

    def __rmod__(self, other: Any) -> Task:
        return self._operation("Mod", other, self)

    def __pow__(self, other: Any) -> Task:
        return self._operation("Pow", self, other)

    def __rpow__(self, other: Any) -> Task:
        return self._operation("Pow", other, self)

    def __and__(self, other: Any) -> Task:
        return self._operation("And", self, other)

    def __rand__(self, other: Any) -> Task:
        return self._operation("And", other, self)

    def __gt__(self, other: Any) -> Task:
        return self._operation("GreaterThan", self, other)

    def __ge__(self, other: Any) -> Task:
        return self._operation("GreaterThanOrEqual", self, other)

    def __lt__(self, other: Any) -> Task:
        return self._operation("LessThan", self, other)

    def __le__(self, other: Any) -> Task:
        return self._operation("LessThanOrEqual", self, other)

    def __or__(self, other: Task) -> Task:
        from heliograph.core.task import Task

        assert isinstance(self, Task)
        self.set_downstream(other)
        return other

    def __ror__(self, other: Any) -> Task:
        from heliograph.core.task import Task

        assert isinstance(self, Task)
        return self.set_upstream(other)
