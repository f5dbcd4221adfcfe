"""Cache validators: whether a cached state may stand in for a run.

A validator is a function `(state, inputs, parameters) -> bool`. Values are compared by their tokens, so that frames
and arrays compare by content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


def never_use(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:  # noqa: ARG001
    """Never uses the cache."""
    return False


def duration_only(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:  # noqa: ARG001
    """Uses the cache until it expires."""
    expires = state.cached_result_expiration
    return expires is None or expires > utc_now()


def all_inputs(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Uses the cache until it expires, for the same inputs."""
    return duration_only(state, inputs, parameters) and _same(state.cached_inputs, inputs)


def all_parameters(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Uses the cache until it expires, for the same parameters of the flow."""
    return duration_only(state, inputs, parameters) and _same(state.cached_parameters or {}, parameters)


def partial_inputs_only(validate_on: Iterable[str] | None = None) -> Validator:
    """Makes a validator that uses the cache until it expires, while the inputs named are the same.

    Args:
        validate_on: Names of the inputs that count; none by default.
    """
    names = _names(validate_on)

    def validator(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
        return duration_only(state, inputs, parameters) and _same(
            _only(state.cached_inputs, names), _only(inputs, names)
        )

    return validator


def partial_parameters_only(validate_on: Iterable[str] | None = None) -> Validator:
    """Makes a validator that uses the cache until it expires, while the parameters named are the same.

    Args:
        validate_on: Names of the parameters that count; none by default.
    """
    names = _names(validate_on)

    def validator(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
        return duration_only(state, inputs, parameters) and _same(
            _only(state.cached_parameters or {}, names), _only(parameters, names)
        )

    return validator


def _names(validate_on: Iterable[str] | None) -> frozenset[str]:
    if isinstance(validate_on, str):
        raise TypeError(f"validate_on takes a list of names, not the text {validate_on!r}")
    return frozenset(validate_on or ())


def _only(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return mine.keys() == theirs.keys() and all(
        tokenize(_value(mine[name])) == tokenize(_value(theirs[name])) for name in mine
    )


def _value(held: Any) -> Any:
    from heliograph.engine.result import Result

    return held.value if isinstance(held, Result) else held
