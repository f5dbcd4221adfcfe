"""Results: a value together with where it is, or would be, kept in the user's own storage.

`Result` is the base and keeps nothing. Subclasses in `heliograph.engine.results` write to a disk or a bucket. All
methods return new objects; a result is never changed in place. Values and locations never leave the user's side.
"""

# ruff: noqa: ARG002 (one interface for all kinds; not each needs every argument)

from __future__ import annotations

import copy
import string
from collections.abc import Callable
from typing import Any, ClassVar

from heliograph.engine.serializers import PickleSerializer, Serializer
from heliograph.exceptions import ResultStoreError

__all__ = ["NoResult", "NoResultType", "Result", "ResultNotImplementedError"]

Location = str | Callable[..., str]
_PICKLE = PickleSerializer()


class ResultNotImplementedError(ResultStoreError):
    """The result has no storage: its value lives in memory only."""


class Result:
    """A value, where it is kept, and how it becomes bytes. This base keeps values in memory only.

    Args:
        value: The value; None until it is read.
        location: Where it is kept: text, a template (`{task_name}-{today}`, `{date:%Y}`), or a function that takes the
            template's variables and returns text.
        serializer: How the value becomes bytes; cloudpickle when not given.

    Attributes:
        stores: True for kinds that write somewhere.
    """

    stores: ClassVar[bool] = False

    def __init__(
        self, value: Any = None, location: Location | None = None, serializer: Serializer | None = None
    ) -> None:
        self.value = value
        self.location: Any = location
        self.serializer = serializer if serializer is not None else _PICKLE

    # --- storage, by subclasses --------------------------------------------------------------------------------------

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Keeps a value at this result's location, whose template takes `kwargs`; a result without one gets a default.

        The name ends with an underscore so that a template may have the variable `value`.

        Raises:
            ResultStoreError: If it cannot be kept.
        """
        raise ResultNotImplementedError(
            f"{type(self).__name__} keeps values in memory only; give a LocalResult or S3Result"
        )

    def read(self, location: str) -> Result:
        """Returns a result with the value that is kept at `location`.

        Raises:
            ResultStoreError: If there is nothing, or it cannot be read.
        """
        raise ResultNotImplementedError(
            f"{type(self).__name__} keeps values in memory only; there is nothing at {location!r}"
        )

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True when something is kept at `location`, a template that takes `kwargs`.

        Raises:
            ResultStoreError: If the storage cannot tell. Only absence counts as absence.
        """
        raise ResultNotImplementedError(f"{type(self).__name__} keeps values in memory only")

    def describe_config(self) -> dict[str, str]:
        """Returns what besides the location is needed to read the value again. No secrets."""
        return {}

    # --- common ------------------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Size of what was last written or read by this object, in bytes; 0 when unknown."""
        return int(self.__dict__.get("_size_bytes", 0))

    def copy(self) -> Result:
        """Returns a copy."""
        return copy.copy(self)

    def from_value(self, value: Any) -> Result:
        """Returns a copy with another value, which is kept nowhere yet."""
        new = copy.copy(self)
        new.value = value
        new.location = None
        new.__dict__.pop("_size_bytes", None)
        return new

    def format(self, **kwargs: Any) -> Result:
        """Returns a copy whose location is plain text: its template filled with `kwargs`.

        Raises:
            ResultStoreError: If the template has an unknown variable; the message names those that there are.
        """
        new = copy.copy(self)
        if self.location is not None:
            new.location = self._render(self.location, kwargs)
        return new

    def _render(self, template: Any, kwargs: dict[str, Any]) -> str:
        return render_location(template, kwargs)

    def _with(self, value: Any, location: str, size_bytes: int) -> Result:
        new = copy.copy(self)
        new.value = value
        new.location = location
        new.__dict__["_size_bytes"] = size_bytes
        return new

    def _serialize(self, value: Any) -> bytes:
        try:
            data = self.serializer.serialize(value)
        except Exception as error:  # boundary: a serializer may raise anything about a user's value
            raise ResultStoreError(
                f"{type(self.serializer).__name__} cannot serialize a value of type {type(value).__name__}:"
                f" {type(error).__name__}: {error}"
            ) from error
        if not isinstance(data, bytes):
            raise ResultStoreError(f"{type(self.serializer).__name__} returned {type(data).__name__}, not bytes")
        return data

    def _deserialize(self, data: bytes, location: str) -> Any:
        try:
            return self.serializer.deserialize(data)
        except Exception as error:  # boundary: a serializer may raise anything about stored bytes
            raise ResultStoreError(
                f"{type(self.serializer).__name__} cannot read what is at {location}: {type(error).__name__}: {error}"
            ) from error

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        return _public(self) == _public(other)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {self.value!r}>"
            if not self.location
            else f"<{type(self).__name__}: {self.location!r}>"
        )


class NoResultType(Result):
    """The type of `NoResult`: there is no value, not even None."""

    def __init__(self) -> None:
        super().__init__()

    def from_value(self, value: Any) -> Result:
        """Returns a plain result with `value`."""
        return Result(value)

    def copy(self) -> Result:
        """Returns itself: there is one."""
        return self

    def __copy__(self) -> NoResultType:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> NoResultType:
        return self

    def __reduce__(self) -> str:
        return "NoResult"

    def __repr__(self) -> str:
        return "<No result>"

    def __str__(self) -> str:
        return "NoResult"


NoResult = NoResultType()
"""No value was produced; distinct from a result of None."""


def _public(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.__dict__.items() if not name.startswith("_")}


def render_location(template: Any, variables: dict[str, Any]) -> str:
    """Fills a location's template.

    Raises:
        ResultStoreError: If it has an unknown variable, is malformed, or a function returned something else than text.
    """
    if callable(template):
        rendered = template(**variables)
        if not isinstance(rendered, str):
            raise ResultStoreError(f"the function that makes the location returned {type(rendered).__name__}, not text")
        return rendered
    try:
        return str(template).format(**variables)
    except KeyError as error:
        names = ", ".join(sorted(variables)) or "none"
        raise ResultStoreError(
            f"the location {template!r} uses {error.args[0]!r}, which is not known here; there are: {names}"
        ) from error
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        raise ResultStoreError(f"the location {template!r} cannot be filled in: {error}") from error


def literal_prefix(template: str) -> str:
    """Returns the text of a template before its first variable: the part that its author wrote."""
    try:
        return next((text for text, name, *_ in string.Formatter().parse(template) if name is not None), template)
    except ValueError as error:
        raise ResultStoreError(f"the location {template!r} cannot be filled in: {error}") from error
