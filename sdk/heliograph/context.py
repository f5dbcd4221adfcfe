"""`heliograph.context`: what a flow's author, a running task and the engine see of their surroundings.

One object, a dictionary whose keys are attributes too, with its own content in every thread. `with context(key=value)`
sets keys for a block and restores everything at its end, whatever the block changed. While a flow is built it holds
`flow`, `case`, `tags`, `mapped` and, while a bundle is loaded, `loading_flow`; a run adds its own keys.

The content of a task run is a `TaskSurroundings`: its dictionary is made when somebody looks, because most tasks never
do. `current_task` tells cheaply which task run a thread is in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol


class TaskSurroundings(Protocol):
    """What a thread knows of the task run that it is in."""

    @property
    def task_index(self) -> int:
        """Number of the task in the compiled graph."""

    @property
    def map_index(self) -> int | None:
        """Index of a mapped child; None otherwise."""

    def values(self) -> dict[str, Any]:
        """Makes the content of the context."""


class _Content(threading.local):
    def __init__(self) -> None:
        self.content: dict[str, Any] | TaskSurroundings = {}
        self.task: TaskSurroundings | None = None


_thread = _Content()


class Context(MutableMapping[str, Any]):
    """The context of the current thread, by attribute or by key."""

    @property
    def _values(self) -> dict[str, Any]:
        content = _thread.content
        if not isinstance(content, dict):
            content = _thread.content = content.values()
        return content

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the context has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self._values[name]
        except KeyError:
            raise AttributeError(f"the context has no {name!r}") from None

    def __repr__(self) -> str:
        return f"<Context: {', '.join(sorted(self))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the context belongs to its thread and cannot be pickled; pickle `context.to_dict()` instead")

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of `key`, or `default`."""
        return self._values.get(key, default)

    def to_dict(self) -> dict[str, Any]:
        """Returns a copy of the content."""
        return dict(self._values)

    @contextmanager
    def __call__(self, *mappings: Mapping[str, Any], **values: Any) -> Iterator[Context]:
        """Sets keys for the duration of a `with` block and restores the whole content at its end."""
        before = self._values
        inside = _thread.content = dict(before)
        for mapping in mappings:
            inside.update(mapping)
        inside.update(values)
        try:
            yield self
        finally:
            _thread.content = before


context = Context()


def current_task() -> TaskSurroundings | None:
    """Returns the task run that this thread is in, or None."""
    return _thread.task


def enter_task(surroundings: TaskSurroundings) -> None:
    """Makes `surroundings` the content of this thread, until the next call; for the engine."""
    _thread.content = _thread.task = surroundings


Entered = tuple[dict[str, Any] | TaskSurroundings, TaskSurroundings | None]


def swap(entered: Entered) -> Entered:
    """Sets content and task run of this thread, and returns what they were; for the engine."""
    before = (_thread.content, _thread.task)
    _thread.content, _thread.task = entered
    return before
