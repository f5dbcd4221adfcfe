"""Mistakes of the control plane at its door: options that nobody set, values that nobody thought of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


def _without(*names: str) -> Callable[[Any], None]:
    def plant(limits: Any) -> None:
        options = limits.channel_options
        limits.channel_options = lambda: tuple(option for option in options() if option[0] not in names)

    return plant


def no_limit_of_messages(limits: Any) -> None:
    """Messages may be of any size, before and after they are unpacked."""
    _without("grpc.max_receive_message_length")(limits)
    options = limits.channel_options
    limits.channel_options = lambda: (*options(), ("grpc.max_receive_message_length", -1))
    limits.MAX_REQUEST_BYTES = limits.MAX_GRAPH_REQUEST_BYTES = 2**40


def no_limit_of_headers(limits: Any) -> None:
    """Headers may be as many and as long as anybody likes."""
    names = ("grpc.max_metadata_size", "grpc.absolute_max_metadata_size")
    _without(*names)(limits)
    options = limits.channel_options
    limits.channel_options = lambda: (*options(), *((name, 2**30) for name in names))
    limits.check_metadata = lambda _: None


def keep_what_came(limits: Any) -> None:
    """The server refuses a flood and keeps memory for it all the same, until it is over."""
    held: list[bytearray] = []
    check = limits.check_metadata

    def hoard(metadata: Any) -> None:
        held.append(bytearray(b"x") * (16 << 20))
        check(metadata)

    limits.check_metadata = hoard


def _on_a_percent_sign(act: Callable[[], object]) -> Callable[[Any], None]:
    """A parser of names that was never tried with one character."""

    def plant(names: Any) -> None:
        match = names._match

        def careless(pattern: Any, path: str, name: str, form: str) -> Any:
            if "%" in name:
                act()
            return match(pattern, path, name, form)

        names._match = careless

    return plant


def _fail() -> None:
    raise ZeroDivisionError


def _hang() -> None:
    """Holds the whole server up, once."""
    if not _held:
        _held.append(b"")
        time.sleep(8)


_held: list[bytes] = []
_NAMES = "heliograph_control_plane.services.names"


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "die_on_a_percent_sign": {_NAMES: _on_a_percent_sign(lambda: os._exit(3))},
    "fail_on_a_percent_sign": {_NAMES: _on_a_percent_sign(_fail)},
    "grow_on_a_percent_sign": {_NAMES: _on_a_percent_sign(lambda: _held.append(b"x" * (8 << 20)))},
    "hang_on_a_percent_sign": {_NAMES: _on_a_percent_sign(_hang)},
    "keep_what_came": {"heliograph_control_plane.limits": keep_what_came},
    "no_limit_of_headers": {"heliograph_control_plane.limits": no_limit_of_headers},
    "no_limit_of_messages": {"heliograph_control_plane.limits": no_limit_of_messages},
    "no_limit_of_streams": {"heliograph_control_plane.limits": _without("grpc.max_concurrent_streams")},
    "no_patience": {"heliograph_control_plane.limits": _without("grpc.server_handshake_timeout_ms")},
}
