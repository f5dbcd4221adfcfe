"""`heliograph.context`: what a flow's author, a running task and the engine see of their surroundings.

One object, a dictionary whose keys are attributes too, with its own content in every thread. `with context(key=value)`
sets keys for a block and restores everything at its end, whatever the block changed. While a flow is built it holds
`flow`, `case`, `tags`, `mapped` and, while a bundle is loaded, `loading_flow`; a run adds its own keys.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn


class _Content(threading.local):
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}


class Context(MutableMapping[str, Any]):
    """The context of the current thread, by attribute or by key."""

    def __init__(self) -> None:
        object.__setattr__(self, "_content", _Content())

    @property
    def _values(self) -> dict[str, Any]:
        content: _Content = object.__getattribute__(self, "_content")
        return content.values

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
        content: _Content = object.__getattribute__(self, "_content")
        before = content.values
        content.values = dict(before)
        for mapping in mappings:
            content.values.update(mapping)
        content.values.update(values)
        try:
            yield self
        finally:
            content.values = before


context = Context()
