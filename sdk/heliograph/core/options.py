"""How the options of a task are checked and stored."""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import PurePath
from typing import Any, cast

from heliograph.exceptions import FlowError


class OnFailure:
    """State handler that calls `function(object, state)` when a task or flow enters a failed state."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, obj: Any, old_state: Any, new_state: Any) -> Any:  # noqa: ARG002 - the shape of a handler
        """Calls the function for a failed state, and keeps the state."""
        if new_state.is_failed():
            self.function(obj, new_state)
        return new_state


def check_state_handlers(
    handlers: Sequence[Callable[..., Any]] | None, on_failure: Callable[..., Any] | None
) -> list[Callable[..., Any]]:
    """Returns all state handlers as a list.

    Raises:
        TypeError: `handlers` is not a sequence, or something cannot be called.
    """
    if handlers is not None and not isinstance(handlers, Sequence):
        raise TypeError(f"state_handlers must be a list of functions, not {handlers!r}")
    found = list(handlers or ())
    for handler in [*found, *([] if on_failure is None else [on_failure])]:
        if not callable(handler):
            raise TypeError(f"a state handler must be callable, which {handler!r} is not")
    if on_failure is not None:
        found.append(OnFailure(on_failure))
    return found


def check_result(result: Any, what: str) -> None:
    """Refuses what is often given for a result: its class, or a location alone.

    Raises:
        TypeError: It is such a thing.
    """
    if isinstance(result, type | str | bytes | PurePath):
        raise TypeError(f"the result of {what} must be an object such as LocalResult(dir=…), not {result!r}")


def checked_trigger(trigger: Any, what: str) -> Callable[..., bool]:
    """Returns `trigger`.

    Raises:
        TypeError: It cannot be called.
    """
    if not callable(trigger):
        raise TypeError(f"the trigger of {what} must be a function, such as triggers.all_finished, not {trigger!r}")
    return cast("Callable[..., bool]", trigger)


def checked_name(name: Any, what: str) -> str:
    """Returns `name`.

    Raises:
        FlowError: It is empty or no text.
    """
    if not isinstance(name, str) or not name:
        raise FlowError(f"{what} needs a name, not {name!r}")
    return name


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_exception_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def checked_count(value: Any, what: str) -> int:
    """Returns `value`.

    Raises:
        FlowError: It is no whole number from 0.
    """
    if not _is_whole(value) or value < 0:
        raise FlowError(f"{what} must be a whole number from 0, not {value!r}")
    return int(value)


def template_fields(template: str) -> set[str]:
    """Returns the names that a `str.format` template uses; attributes and indices are cut off.

    Raises:
        FlowError: The template cannot be parsed.
    """
    try:
        names = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise FlowError(f"the template {template!r} cannot be parsed: {error}") from None
    return {name.split(".")[0].split("[")[0] for name in names}


class TaskOptions:
    """The options of `Task` that need checks, and their meaning as attributes."""

    takes_defaults = True
    """False for tasks that ignore the section `tasks.defaults` of the configuration."""

    name: str
    max_retries: int
    retry_delay: timedelta | None
    retry_on: tuple[type[BaseException], ...] | None
    timeout: float | None
    trigger: Callable[..., bool]
    cache_for: timedelta | None
    cache_validator: Callable[..., bool]
    cache_key: str | None
    result: Any
    target: str | Callable[..., str] | None
    state_handlers: list[Callable[..., Any]]

    def _default(self, name: str) -> Any:
        if not self.takes_defaults:
            return None
        from heliograph.config import config

        return getattr(config().tasks.defaults, name)

    def _warn_of_clashes(self) -> None:
        clashes = sorted(vars(self).keys() & _OPTION_NAMES)
        if clashes:
            warnings.warn(
                f"{type(self).__name__} sets {', '.join(clashes)} before Task.__init__, which will overwrite it;"
                " choose another attribute name",
                stacklevel=4,
            )

    def _set_option(self, name: str, value: Any) -> None:
        """Sets one attribute of a copy, with the checks of the constructor."""
        if name == "timeout":
            self._set_timeout(value, use_default=False)
        elif name == "retry_delay":
            self.retry_delay = _as_delay(value)
        elif name == "retry_on":
            self.retry_on = _as_exception_types(value)
        elif name == "state_handlers":
            self.state_handlers = check_state_handlers(value, None)
        elif name == "result":
            self._set_result(value, self.target)
        elif name == "target":
            self._set_result(self.result, value)
        elif name == "trigger":
            self.trigger = checked_trigger(value, self.name)
        elif name == "cache_for":
            self._set_cache(value, self._chosen_validator() if value is not None else None, self.cache_key)
        else:
            setattr(self, name, value)

    def _set_retries(
        self,
        max_retries: int | None,
        retry_delay: timedelta | float | None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None,
    ) -> None:
        delay = _as_delay(retry_delay)
        if delay is not None and max_retries == 0:
            raise FlowError(f"{self.name} has a retry_delay but max_retries=0")
        if max_retries is None:
            max_retries = self._default("max_retries") or 0
        max_retries = checked_count(max_retries, f"max_retries of {self.name}")
        if max_retries and delay is None:
            delay = _as_delay(self._default("retry_delay_seconds") or None)
            if delay is None:
                raise FlowError(f"{self.name} has max_retries={max_retries} and needs a retry_delay")
        if delay is not None and not max_retries:
            raise FlowError(f"{self.name} has a retry_delay and needs max_retries")
        if retry_on is not None and not max_retries:
            raise FlowError(f"{self.name} has retry_on and needs max_retries")
        self.max_retries = max_retries
        self.retry_delay = delay
        self.retry_on = _as_exception_types(retry_on)

    def _set_timeout(self, timeout: float | timedelta | None, *, use_default: bool = True) -> None:
        if timeout is None:
            self.timeout = (self._default("timeout_seconds") or None) if use_default else None
            return
        if isinstance(timeout, timedelta):
            seconds = timeout.total_seconds()
            timeout = int(seconds) if seconds == int(seconds) else seconds
        elif not _is_whole(timeout):
            raise TypeError(f"timeout of {self.name} must be whole seconds or a timedelta, not {timeout!r}")
        if timeout <= 0:
            raise FlowError(f"timeout of {self.name} must be more than 0 seconds")
        self.timeout = timeout

    def _set_cache(
        self, cache_for: timedelta | None, cache_validator: Callable[..., bool] | None, cache_key: str | None
    ) -> None:
        from heliograph.engine import cache_validators

        if cache_for is not None and not isinstance(cache_for, timedelta):
            raise TypeError(f"cache_for of {self.name} must be a timedelta, not {cache_for!r}")
        if cache_for is None and cache_validator not in (None, cache_validators.never_use):
            warnings.warn(
                f"{self.name} has a cache_validator but no cache_for, so nothing will be cached", stacklevel=4
            )
        default = cache_validators.never_use if cache_for is None else cache_validators.duration_only
        self.cache_for = cache_for
        self.cache_validator = cache_validator or default
        self.cache_key = cache_key

    def _chosen_validator(self) -> Callable[..., bool] | None:
        from heliograph.engine.cache_validators import never_use

        return None if self.cache_validator is never_use else self.cache_validator

    def _set_result(self, result: Any, target: str | Callable[..., str] | None) -> None:
        if isinstance(target, str):
            template_fields(target)
        check_result(result, self.name)
        if target is not None and getattr(result, "location", None):
            warnings.warn(f"{self.name} has a target and a result with a location; the target is used", stacklevel=4)
        self.result = result
        self.target = target


def _as_delay(value: timedelta | float | None) -> timedelta | None:
    if value is None or isinstance(value, timedelta):
        delay = value
    elif _is_number(value):
        delay = timedelta(seconds=value)
    else:
        raise TypeError(f"retry_delay must be a timedelta or seconds, not {value!r}")
    if delay is not None and delay < timedelta(0):
        raise FlowError(f"retry_delay cannot be negative: {delay}")
    return delay


def _as_exception_types(
    value: type[BaseException] | Iterable[type[BaseException]] | None,
) -> tuple[type[BaseException], ...] | None:
    if value is None:
        return None
    types = (value,) if isinstance(value, type) else tuple(value)
    for kind in types:
        if not _is_exception_type(kind):
            raise TypeError(f"retry_on takes exception classes, not {kind!r}")
    return types


_OPTION_NAMES = frozenset(
    {
        "name", "slug", "tags", "max_retries", "retry_delay", "retry_on", "timeout", "trigger", "skip_on_upstream_skip",
        "cache_for", "cache_validator", "cache_key", "checkpoint", "state_handlers", "log_stdout", "result", "target",
        "task_run_name", "nout",
    }
)  # fmt: skip
