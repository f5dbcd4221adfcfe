"""Failed calls become the exception of their reason; bytes that are no status harm nobody."""

from __future__ import annotations

import pickle
import time
import traceback
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from heliograph.api.v1 import admin_service_pb2, errors_pb2
from heliograph.client.connection import Connection
from heliograph.client.errors import DETAILS_KEY, parse_status, to_error
from heliograph.exceptions import (
    BY_REASON,
    DeadlineExceededError,
    HeliographError,
    InternalError,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)


class FakeRpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> None:
        super().__init__()
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing


def status(reason: str, *extra: Any, domain: str = "heliograph", **metadata: str) -> bytes:
    message = status_pb2.Status(code=3, message="the message")
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata), *extra):
        packed = any_pb2.Any()
        packed.Pack(detail)
        message.details.append(packed)
    return message.SerializeToString()


def failed(code: grpc.StatusCode, data: bytes) -> HeliographError:
    return to_error(FakeRpcError(code, "plain text", ((DETAILS_KEY, data),)))


def test_every_reason_of_the_api_has_its_class() -> None:
    names = {n.removeprefix("ERROR_REASON_") for n in errors_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert names == set(BY_REASON)
    for name in names:
        error = failed(grpc.StatusCode.FAILED_PRECONDITION, status(name))
        assert type(error) is BY_REASON[name]
        assert str(error) == "the message"


def test_metadata_and_the_servers_hint_arrive() -> None:
    error = failed(grpc.StatusCode.ABORTED, status("SEQUENCE_GAP", expected_sequence="17", hint="go on there"))
    assert error.metadata["expected_sequence"] == "17"
    assert error.hint == "go on there"
    assert error.retryable


def test_violations_are_told_with_their_paths() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="graph.tasks[3].slug", description="is too long")
    error = failed(grpc.StatusCode.INVALID_ARGUMENT, status("INVALID_ARGUMENT", bad))
    assert isinstance(error, InvalidArgumentError)
    assert "graph.tasks[3].slug: is too long" in str(error)


def test_reasons_of_other_domains_are_not_ours() -> None:
    error = failed(grpc.StatusCode.UNAUTHENTICATED, status("NOT_FOUND", domain="example.org"))
    assert isinstance(error, UnauthenticatedError)
    assert "heliograph auth login" in error.hint


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (grpc.StatusCode.UNAVAILABLE, UnavailableError, 7),
        (grpc.StatusCode.CANCELLED, UnavailableError, 7),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError, 8),
        (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError, 4),
        (grpc.StatusCode.UNKNOWN, InternalError, 1),
    ],
)
def test_without_details_the_code_decides(code: grpc.StatusCode, kind: type, exit_code: int) -> None:
    error = to_error(FakeRpcError(code, "text"), address="127.0.0.1:1")
    assert type(error) is kind
    assert error.exit_code == exit_code


def test_an_unreachable_server_is_told_without_the_cores_prose() -> None:
    text = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
    text += "Failed to connect to remote host: Connection refused"
    error = to_error(FakeRpcError(grpc.StatusCode.UNAVAILABLE, text), address="127.0.0.1:1")
    assert str(error) == "no control plane answers at 127.0.0.1:1: Connection refused"
    assert "heliograph dev" in error.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.", "names"),
        ("Tls handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self signed certificate", "TLS_CA"),
    ],
)
def test_a_certificate_that_does_not_fit_is_no_missing_server(text: str, told: str) -> None:
    error = to_error(FakeRpcError(grpc.StatusCode.UNAVAILABLE, text), address="example.org:4480")
    assert told in error.hint
    assert "server start" not in error.hint


def test_a_traceback_shows_the_hint_once() -> None:
    error = UnavailableError("no control plane answers", hint="start one")
    copy = pickle.loads(pickle.dumps(error))
    for shown in (error, copy):
        assert str(shown) == "no control plane answers"
        assert "".join(traceback.format_exception(shown)).count("Hint: start one") == 1


def test_where_nothing_ever_listened_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with Connection("127.0.0.1:1", "token") as connection, pytest.raises(UnavailableError):
        connection.call(connection.services.admin.WhoAmI, admin_service_pb2.WhoAmIRequest())
    assert not pauses


def test_a_control_plane_that_answered_before_is_waited_for() -> None:
    asked = []

    def method(request: object, timeout: float) -> object:
        asked.append(timeout)
        if len(asked) == 2:
            raise FakeRpcError(grpc.StatusCode.UNAVAILABLE, "Connection refused")
        return request

    with Connection("127.0.0.1:1", "token") as connection:
        assert [connection.call(method, number) for number in range(2)] == [0, 1]  # type: ignore[arg-type]
    assert len(asked) == 3


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    parse_status(data)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_damaged_statuses_are_read_without_an_error(at: int, noise: bytes) -> None:
    data = status("NOT_FOUND", project="p")
    parse_status(data[:at] + noise + data[at:])
    parse_status(data[:at])
