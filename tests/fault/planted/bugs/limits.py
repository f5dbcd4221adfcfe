"""Mistakes of the control plane at its door: options that nobody set, values that nobody thought of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _without(*names: str) -> Callable[[Any], None]:
    def plant(limits: Any) -> None:
        options = limits.channel_options
        limits.channel_options = lambda: tuple(option for option in options() if option[0] not in names)

    return plant


def fail_on_a_percent_sign(names: Any) -> None:
    """A parser of names that was never tried with one character."""
    match = names._match

    def careless(pattern: Any, path: str, name: str, form: str) -> Any:
        if "%" in name:
            raise ZeroDivisionError
        return match(pattern, path, name, form)

    names._match = careless


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "fail_on_a_percent_sign": {"heliograph_control_plane.services.names": fail_on_a_percent_sign},
    "no_limit_of_streams": {"heliograph_control_plane.limits": _without("grpc.max_concurrent_streams")},
    "no_patience": {"heliograph_control_plane.limits": _without("grpc.server_handshake_timeout_ms")},
}
