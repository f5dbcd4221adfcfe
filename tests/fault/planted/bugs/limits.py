"""Mistakes of the control plane's limits: options that nobody set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _without(*names: str) -> Callable[[Any], None]:
    def plant(limits: Any) -> None:
        options = limits.channel_options
        limits.channel_options = lambda: tuple(option for option in options() if option[0] not in names)

    return plant


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "no_limit_of_streams": {"heliograph_control_plane.limits": _without("grpc.max_concurrent_streams")},
    "no_patience": {"heliograph_control_plane.limits": _without("grpc.server_handshake_timeout_ms")},
}
