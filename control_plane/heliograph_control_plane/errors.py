"""How errors leave the server: `google.rpc.Status` with a reason from the closed list, and nothing of the cause.

A `HeliographError` carries its reason; anything else is a fault of the server and leaves as INTERNAL with the request
id to quote. Texts of unforeseen exceptions are neither sent nor logged: they may quote what users sent.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import PurePath

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from heliograph.api.contract import FieldViolation
from heliograph.exceptions import HeliographError, InvalidArgumentError

DOMAIN = "heliograph"
STATUS_KEY = "grpc-status-details-bin"

# Details travel in trailing metadata, of which clients accept 8 KiB by default.
_MAX_MESSAGE_BYTES = 1_000
_MAX_VIOLATIONS_BYTES = 3_000

_CODES: dict[str, grpc.StatusCode] = {
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_PARAMETER": grpc.StatusCode.INVALID_ARGUMENT,
    "MISSING_PARAMETER": grpc.StatusCode.INVALID_ARGUMENT,
    "CYCLE": grpc.StatusCode.INVALID_ARGUMENT,
    "DUPLICATE_SLUG": grpc.StatusCode.INVALID_ARGUMENT,
    "DEADLINE_REQUIRED": grpc.StatusCode.INVALID_ARGUMENT,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "LEASE_LOST": grpc.StatusCode.FAILED_PRECONDITION,
    "ILLEGAL_TRANSITION": grpc.StatusCode.FAILED_PRECONDITION,
    "CLIENT_TOO_OLD": grpc.StatusCode.FAILED_PRECONDITION,
    "SEQUENCE_GAP": grpc.StatusCode.ABORTED,
    "VERSION_MISMATCH": grpc.StatusCode.ABORTED,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}


class BadRequestError(InvalidArgumentError):
    """A request that breaks rules of its fields; the answer names all of them at once."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.path or 'the request'}: {first.description}{more}")
        self.violations = tuple(violations)


def bad_field(path: str, description: str) -> BadRequestError:
    """The error for one broken field."""
    return BadRequestError([FieldViolation(path, description)])


def code_of(error: HeliographError) -> grpc.StatusCode:
    """The gRPC code that goes with the error's reason."""
    return _CODES.get(error.reason, grpc.StatusCode.INTERNAL)


def to_status(error: HeliographError) -> status_pb2.Status:
    """The wire form of an error."""
    message = str(error).encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
    code: tuple[int, str] = code_of(error).value
    status = status_pb2.Status(code=code[0], message=message)
    metadata = error.metadata | ({"hint": error.hint} if error.hint else {})
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    _pack(status, info)
    if isinstance(error, BadRequestError):
        details, size = error_details_pb2.BadRequest(), 0
        for violation in error.violations:
            size += len(violation.path) + len(violation.description) + 8
            if size > _MAX_VIOLATIONS_BYTES:
                break
            details.field_violations.add(field=violation.path, description=violation.description)
        _pack(status, details)
    return status


def _pack(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def describe_fault(error: BaseException) -> dict[str, object]:
    """What the log may say of an unforeseen exception: its class and place, not its text."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {
        "exception": f"{type(error).__module__}.{type(error).__qualname__}",
        "frames": [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }
