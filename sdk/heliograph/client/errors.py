"""Turns a failed call into the exception that callers choose by.

The control plane answers `google.rpc.Status` with an `ErrorInfo` in the trailing metadata. These messages are
read off the wire here: their stubs are no dependency of a flow's container.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import (
    BY_REASON,
    ClientTooOldError,
    DeadlineExceededError,
    HeliographError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    import grpc

DOMAIN = "heliograph"
DETAILS_KEY = "grpc-status-details-bin"

_CANCELLED_HERE = "Locally cancelled"
"""How gRPC begins the text of a call that this side has cancelled."""

_HINTS = {
    "UNAUTHENTICATED": "sign in with `heliograph auth login`, or set HELIOGRAPH__CLIENT__TOKEN",
    "PERMISSION_DENIED": "`heliograph auth whoami` shows your roles; an admin issues others with "
    "`heliograph tokens create`",
    "CLIENT_TOO_OLD": "upgrade with `pip install -U heliograph`",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that was refused, by its path."""

    field: str
    description: str


@dataclass(slots=True)
class StatusDetails:
    """What the trailing metadata said."""

    message: str = ""
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


def to_error(error: grpc.RpcError, *, address: str = "") -> HeliographError:
    """Returns the exception for a failed call: by reason when the server gave one, else by status code.

    Args:
        error: What the call raised.
        address: Named in the message when the control plane could not be reached.
    """
    import grpc

    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = (error.details() if hasattr(error, "details") else "") or ""
    details = _details_of(error)
    if details is not None and details.domain == DOMAIN and details.reason in BY_REASON:
        message = details.message or text
        if details.violations:
            shown = "; ".join(f"{v.field}: {v.description}" for v in details.violations)
            message = message if shown in message else f"{message} ({shown})" if message else shown
        return BY_REASON[details.reason](
            message,
            hint=details.metadata.get("hint", "") or _HINTS.get(details.reason, ""),
            metadata=dict(details.metadata),
        )
    where = f" at {address}" if address else ""
    if code == grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(f"no control plane answers{where}: {_plain(text)}", hint=_unavailable_hint(text))
    if code == grpc.StatusCode.CANCELLED and not text.startswith(_CANCELLED_HERE):
        # gRPC ends so what comes to a server while it stops: nobody has looked at the call.
        return UnavailableError(f"the control plane{where} ended the call", hint="it may be restarting; try again")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(
            f"the control plane{where} did not answer in time",
            hint="try again, or allow more time with HELIOGRAPH__CLIENT__TIMEOUT_SECONDS",
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return ClientTooOldError(
            f"the server{where} does not know this call: {_plain(text)}",
            hint="is it a Heliograph control plane of the same version? `heliograph version` compares",
        )
    by_code: dict[grpc.StatusCode, type[HeliographError]] = {
        grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    }
    kind = by_code.get(code, InternalError)
    return kind(_plain(text) or f"the call failed with {code.name}", hint=_HINTS.get(kind.reason, ""))


def is_from_control_plane(error: grpc.RpcError) -> bool:
    """True when the control plane itself gave this error; False for the network, gRPC and whatever stands between."""
    details = _details_of(error)
    return details is not None and details.domain == DOMAIN


def parse_status(data: bytes) -> StatusDetails:
    """Reads a serialized `google.rpc.Status`. Unknown details are skipped; broken bytes end it."""
    found = StatusDetails()
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            found.message = _text(value)
        elif number == 3 and isinstance(value, bytes):
            _read_detail(value, found)
    return found


def _details_of(error: Any) -> StatusDetails | None:
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in metadata or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return parse_status(value)
    return None


def _read_detail(data: bytes, found: StatusDetails) -> None:
    parts = dict(_fields(data))
    type_url, value = parts.get(1, b""), parts.get(2, b"")
    if not isinstance(type_url, bytes) or not isinstance(value, bytes):
        return
    name = _text(type_url).rpartition("/")[2]
    if name == "google.rpc.ErrorInfo":
        for number, item in _fields(value):
            if number == 1 and isinstance(item, bytes):
                found.reason = _text(item)
            elif number == 2 and isinstance(item, bytes):
                found.domain = _text(item)
            elif number == 3 and isinstance(item, bytes):
                pair = dict(_fields(item))
                key, text = pair.get(1, b""), pair.get(2, b"")
                if isinstance(key, bytes) and isinstance(text, bytes):
                    found.metadata[_text(key)] = _text(text)
    elif name == "google.rpc.BadRequest":
        for number, item in _fields(value):
            if number == 1 and isinstance(item, bytes):
                pair = dict(_fields(item))
                path, text = pair.get(1, b""), pair.get(2, b"")
                if isinstance(path, bytes) and isinstance(text, bytes):
                    found.violations.append(Violation(_text(path), _text(text)))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of one serialized message. Stops quietly at bytes that are none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind == 2:
            size, at = _varint(data, at)
            if at < 0 or at + size > len(data):
                return
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return
        if at < 0:
            return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a varint and the place behind it; the place is negative when there is none."""
    if at < 0:
        return 0, -1
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, -1


def _plain(text: str) -> str:
    """Shortens the C core's texts to their last clause, which names the cause."""
    for marker in ("Failed to connect to remote host: ", "last error: "):
        if marker in text:
            text = text.rpartition(marker)[2]
    return text.strip().removesuffix(";")


def _unavailable_hint(text: str) -> str:
    if "Hostname Verification" in text or "not in peer certificate" in text:
        return (
            "the server's certificate is for other names: use an address that it names, or give the server a"
            " certificate whose subjectAltName has this one"
        )
    if "CERTIFICATE" in text or "SSL" in text or "handshake" in text.lower():
        return "the server's TLS does not fit: name its authority with HELIOGRAPH__CLIENT__TLS_CA"
    return "start one with `heliograph server start` or `heliograph dev`, or set HELIOGRAPH__CLIENT__ADDRESS"
