"""Parameters: the values that a run is given from outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from heliograph.context import context
from heliograph.core.options import checked_name
from heliograph.core.task import Task

if TYPE_CHECKING:
    from heliograph.core.flow import Flow


class _NoDefault:
    """Says that a parameter has no default, which `None` would not."""

    def __repr__(self) -> str:
        return "no_default"

    def __reduce__(self) -> str:
        return "no_default"


no_default: Final = _NoDefault()


class Parameter(Task):
    """A task whose result is a value given to the run, or its default.

    Args:
        name: Name of the parameter, unique in a flow.
        default: Value when the run gives none; `None` is a default too.
        required: Whether the run must give a value. By default true exactly when there is no default.
        tags: Words to find it by.

    Raises:
        FlowError: The name is empty or no text.
    """

    takes_defaults = False

    def __init__(
        self,
        name: str,
        default: Any = no_default,
        required: bool | None = None,
        tags: Iterable[str] | None = None,
    ) -> None:
        name = checked_name(name, "a parameter")
        if required and default is not no_default:
            warnings.warn(f"parameter {name!r} is required, so its default is never used", stacklevel=3)
        self.required = default is no_default if required is None else required
        if default is no_default and not self.required:
            default = None
        self.default = default
        super().__init__(name=name, slug=name, tags=tags)

    @property
    def has_default(self) -> bool:
        """True when a run may leave it out."""
        return not self.required

    def __repr__(self) -> str:
        return f"<Parameter: {self.name}>"

    def __setattr__(self, attribute: str, value: Any) -> None:
        if attribute in ("name", "slug") and attribute in self.__dict__:
            raise AttributeError(f"a parameter's {attribute} cannot change; use .copy(name=…)")
        super().__setattr__(attribute, value)

    def __call__(self, flow: Flow | None = None) -> Self:  # type: ignore[override]
        """Adds this parameter, not a copy, to the flow, and returns it."""
        self._flow_for_edges(flow).add_task(self)
        return self

    def copy(self, name: str, **task_args: Any) -> Self:  # type: ignore[override]
        """Returns a copy under another name, which must be given: names are unique in a flow."""
        new = self.__copy__()
        for attribute in ("name", "slug"):
            new.__dict__[attribute] = name
        new.tags = self._own_tags([*self.tags, *task_args.pop("tags", ())])
        for attribute, value in task_args.items():
            if not hasattr(new, attribute):
                raise AttributeError(f"parameter {name} has no option {attribute!r}")
            setattr(new, attribute, value)
        return new

    def run(self) -> Any:
        """Returns the run's value, or the default.

        Raises:
            heliograph.engine.signals.FAIL: It is required and the run gave none.
        """
        given = context.get("parameters") or {}
        if self.name in given:
            return given[self.name]
        if self.required:
            from heliograph.engine.signals import FAIL

            raise FAIL(f"Parameter {self.name!r} is required and was not given.")
        return self.default


class DateTimeParameter(Parameter):
    """A parameter whose value is a date and time: an ISO 8601 text or a datetime, in UTC when it names no zone.

    Unlike in Prefect 1, a default alone makes it optional.
    """

    def run(self) -> datetime | None:
        """Returns the value as an aware datetime.

        Raises:
            ValueError: The value is no date and time.
        """
        return _as_datetime(super().run(), self.name)


def _as_datetime(value: Any, name: str) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"parameter {name!r} takes an ISO 8601 date and time, not {value!r}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"parameter {name!r} takes a date and time, not a {type(value).__name__}")  # noqa: TRY004
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
