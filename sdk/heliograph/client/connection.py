"""A client's connection: settings, channel, and the three ways to call: once, by pages, as a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from heliograph.client.channel import TlsFiles, normalize_address, open_channel
from heliograph.exceptions import HeliographError

if TYPE_CHECKING:
    import grpc

    from heliograph.client.services import Services

Request = TypeVar("Request")
Response = TypeVar("Response")

RETRY_PAUSES_SECONDS = (0.1, 0.3, 0.9)
"""Pauses before the second, third and last attempt of a call that found nobody."""
STREAM_SECONDS = 300.0
"""Deadline of one watching call; a watcher calls again and goes on where it was."""
STREAM_ATTEMPTS = 6
"""Times that a broken stream is opened again without an answer in between."""


class Connection:
    """Calls one control plane. Thread-safe; not to be used across a fork.

    Args:
        address: `host:port`. Default: the setting `client.address`.
        token: Default: the settings `client.token`, `client.token_file`, then what `auth login` saved.
        tls: Certificates. Default: the settings `client.tls_ca`, `tls_cert`, `tls_key`.
        insecure: Allows plaintext off loopback. Default: the setting `client.insecure`.
        timeout_seconds: Deadline of a call. Default: the setting `client.timeout_seconds`.

    Raises:
        ConfigurationError: The address or the token cannot be read.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        tls: TlsFiles | None = None,
        insecure: bool | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        from heliograph.client.credentials import find_token
        from heliograph.config import config

        settings = config().client
        self._given_address = address or settings.address
        self.address = normalize_address(self._given_address)[0]
        if token is None:
            found = find_token(self.address)
            token = found.token if found else None
        self._token = token
        self._tls = tls if tls is not None else TlsFiles(settings.tls_ca, settings.tls_cert, settings.tls_key)
        self._insecure = settings.insecure if insecure is None else insecure
        self.timeout_seconds = float(settings.timeout_seconds if timeout_seconds is None else timeout_seconds)
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel; calls that wait end at once."""
        with self._lock:
            channel, self._channel = self._channel, None
            self.__dict__.pop("services", None)
        if channel is not None:
            channel.close()

    @property
    def channel(self) -> grpc.Channel:
        """The open channel."""
        with self._lock:
            if self._channel is None:
                self._channel = open_channel(self._given_address, self._token, self._tls, insecure=self._insecure)
            return self._channel

    @cached_property
    def services(self) -> Services:
        """The generated stubs, for calls that have no method here. Use them through `call`."""
        from heliograph.client.services import Services

        return Services(self.channel)

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_seconds: float | None = None,
    ) -> Response:
        """Calls one method of a stub; tries again while nobody answers, within the deadline.

        Where nothing listens and nothing ever answered, it does not: a wrong address is told at once.

        Raises:
            HeliographError: The class that belongs to the server's reason.
        """
        import grpc

        deadline = time.monotonic() + (timeout_seconds or self.timeout_seconds)
        pauses = iter(RETRY_PAUSES_SECONDS)
        while True:
            try:
                answer = method(request, timeout=max(0.001, deadline - time.monotonic()))
            except grpc.RpcError as error:
                pause = next(pauses, None)
                again = error.code() == grpc.StatusCode.UNAVAILABLE and pause is not None
                if not self._answered and "Connection refused" in (error.details() or ""):
                    again = False
                if not again or time.monotonic() + (pause or 0.0) >= deadline:
                    raise to_heliograph_error(error, self.address) from None
                time.sleep(pause or 0.0)
            else:
                self._answered = True
                return answer

    def pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Any,
        items: str,
        limit: int | None = None,
    ) -> list[Any]:
        """Collects the field `items` of all pages, or of as many as `limit` needs."""
        found: list[Any] = []
        while True:
            answer: Any = self.call(method, request)
            found.extend(getattr(answer, items))
            if limit is not None and len(found) >= limit:
                return found[:limit]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def stream(self, method: Any, request: Any) -> Iterator[Any]:
        """Yields the answers of a server stream; opens it again when it breaks or its deadline passes."""
        import grpc

        failures = 0
        while True:
            call = method(request, timeout=STREAM_SECONDS)
            try:
                for answer in call:
                    failures = 0
                    yield answer
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    continue
                if error.code() != grpc.StatusCode.UNAVAILABLE or failures >= STREAM_ATTEMPTS:
                    raise to_heliograph_error(error, self.address) from None
                time.sleep(min(5.0, 0.2 * 2**failures))
                failures += 1
            else:
                return
            finally:
                call.cancel()


def to_heliograph_error(error: grpc.RpcError, address: str) -> HeliographError:
    """Returns the exception for a failed call, imported late: most calls do not fail."""
    from heliograph.client.errors import to_error

    return to_error(error, address=address)
