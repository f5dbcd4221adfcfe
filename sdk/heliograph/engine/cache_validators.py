"""Cache validators: whether a cached state may stand in for a run.

A validator is a function `(state, inputs, parameters) -> bool`. Values are compared by their tokens, so that frames
and arrays compare by content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.engine.state import Cached, utc_now
from heliograph.engine.tokens import tokenize

__all__ = [
    "all_inputs",
    "all_parameters",
    "duration_only",
    "never_use",
    "partial_inputs_only",
    "partial_parameters_only",
]

Validator = Callable[[Cached, Mapping[str, Any], Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Compared:
    """What a validator compares between a cached state and a run, beside the duration; one itself.

    Attributes:
        parameters: The flow's parameters rather than the task's inputs.
        names: Those that count; None means all.
    """

    parameters: bool
    names: frozenset[str] | None = None

    def __call__(self, state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
        return duration_only(state, inputs, parameters) and _same(
            self._of_state(state), self._chosen(parameters if self.parameters else inputs)
        )

    def key_of_run(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """The tokens of what is compared, for a run: equal to those of the states that are the same in it."""
        return _key(self._chosen(parameters if self.parameters else inputs))

    def key_of_state(self, state: Cached) -> tuple[Any, ...] | None:
        """The same for a cached state; None where a value is not read yet, and may be later."""
        from heliograph.engine.result import Result

        values = self._of_state(state)
        return None if any(isinstance(value, Result) for value in values.values()) else _key(values)

    def _of_state(self, state: Cached) -> Mapping[str, Any]:
        return self._chosen((state.cached_parameters or {}) if self.parameters else state.cached_inputs)

    def _chosen(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values if self.names is None else {name: values[name] for name in values if name in self.names}


_ALL_INPUTS = Compared(parameters=False)
_ALL_PARAMETERS = Compared(parameters=True)


def compared_by(validator: Validator) -> Compared | None:
    """Returns what a validator of this module compares by tokens; None for one that only itself can tell."""
    if isinstance(validator, Compared):
        return validator
    return _ALL_INPUTS if validator is all_inputs else _ALL_PARAMETERS if validator is all_parameters else None


def never_use(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:  # noqa: ARG001
    """Never uses the cache."""
    return False


def duration_only(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:  # noqa: ARG001
    """Uses the cache until it expires."""
    expires = state.cached_result_expiration
    return expires is None or expires > utc_now()


def all_inputs(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Uses the cache until it expires, for the same inputs."""
    return _ALL_INPUTS(state, inputs, parameters)


def all_parameters(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Uses the cache until it expires, for the same parameters of the flow."""
    return _ALL_PARAMETERS(state, inputs, parameters)


def partial_inputs_only(validate_on: Iterable[str] | None = None) -> Validator:
    """Makes a validator that uses the cache until it expires, while the inputs named are the same.

    Args:
        validate_on: Names of the inputs that count; none by default.
    """
    return Compared(parameters=False, names=_names(validate_on))


def partial_parameters_only(validate_on: Iterable[str] | None = None) -> Validator:
    """Makes a validator that uses the cache until it expires, while the parameters named are the same.

    Args:
        validate_on: Names of the parameters that count; none by default.
    """
    return Compared(parameters=True, names=_names(validate_on))


def _names(validate_on: Iterable[str] | None) -> frozenset[str]:
    if isinstance(validate_on, str):
        raise TypeError(f"validate_on takes a list of names, not the text {validate_on!r}")
    return frozenset(validate_on or ())


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return mine.keys() == theirs.keys() and all(
        tokenize(_value(mine[name])) == tokenize(_value(theirs[name])) for name in mine
    )


def _key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, tokenize(_value(value))) for name, value in values.items()))


def _value(held: Any) -> Any:
    from heliograph.engine.result import Result

    return held.value if isinstance(held, Result) else held
