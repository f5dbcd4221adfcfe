"""The call in progress, as the interceptor knows it: its id and who makes it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from heliograph.exceptions import UnauthenticatedError
from heliograph_control_plane.principals import Credential, Principal


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    method: str
    request_id: str
    principal: Principal
    credential: Credential


_current: ContextVar[Call | None] = ContextVar("heliograph_call", default=None)


def set_current(call: Call) -> None:
    """Sets the call that this task serves."""
    _current.set(call)


def current() -> Call:
    """The call that this task serves; without one nobody was authenticated, and nothing is answered."""
    call = _current.get()
    if call is None:
        raise UnauthenticatedError("no valid token")
    return call


def principal() -> Principal:
    """Who makes the call that this task serves."""
    return current().principal
