"""How an argument of a task call is to be taken: element by element, whole, or with one level of nesting removed."""

from __future__ import annotations

from typing import Any


class EdgeAnnotation:
    """A value together with what is said about the edge that will carry it.

    Annotations nest: `mapped(flatten(x))` says both.

    Attributes:
        task: The annotated value: a task, or anything that becomes one.
        annotations: `mapped` and `flattened`, as far as they were said.
    """

    def __init__(self, task: Any, mapped: bool | None = None, flattened: bool | None = None) -> None:
        self.annotations: dict[str, bool] = {}
        if isinstance(task, EdgeAnnotation):
            self.annotations.update(task.annotations)
            task = task.task
        self.task: Any = task
        if mapped is not None:
            self.annotations["mapped"] = mapped
        if flattened is not None:
            self.annotations["flattened"] = flattened

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task!r})"


class mapped(EdgeAnnotation):  # noqa: N801 - reads as a function where it is used
    """The task is called once per element of this argument, also in a plain call."""

    def __init__(self, task: Any) -> None:
        super().__init__(task, mapped=True)


class unmapped(EdgeAnnotation):  # noqa: N801
    """Every child of a mapped task gets this argument whole."""

    def __init__(self, task: Any) -> None:
        super().__init__(task, mapped=False)


class flatten(EdgeAnnotation):  # noqa: N801
    """One level of nesting is removed from this argument: a list of lists becomes one list."""

    def __init__(self, task: Any) -> None:
        super().__init__(task, flattened=True)
