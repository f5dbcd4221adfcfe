"""Requests of storages that speak HTTP: through the machine's proxy, tried again when it may help, with an end.

A credential goes to the server that it is for and is left behind when a redirection leads elsewhere. Plain HTTP is
spoken to this machine, and to hosts that the setting `storage.insecure_hosts` names. Messages show addresses without
their query, where servers put keys.
"""

from __future__ import annotations

import email.utils
import http.client
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from heliograph.config import config
from heliograph.exceptions import StorageError

__all__ = ["Answer", "HTTPError", "Session", "host_of", "is_near", "may_be_plain"]

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Of what is read as a whole."""

_PIECE_BYTES = 1024 * 1024
_SILENCE_SECONDS = 60.0
_MAX_WAIT_SECONDS = 60.0
_TRIES = 4
_MAX_REDIRECTIONS = 5
_MAX_SAID = 300
_BUSY = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class HTTPError(StorageError):
    """A server's answer is no: `status` says which, 0 when there was none."""

    status = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        status: Its number.
        headers: By name in small letters.
        body: What was read of it; empty when it went into a stream.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


class Session:
    """Requests that end by the setting `storage.http_timeout_seconds`, all of them together.

    Args:
        plain: Hosts that may be spoken to without encryption, besides those of the setting.
    """

    def __init__(self, plain: Container[str] = ()) -> None:
        self._plain = plain
        self._limit = config().storage.http_timeout_seconds
        self._deadline = time.monotonic() + self._limit

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secret: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expect: Container[int] = (200,),
        into: BinaryIO | None = None,
        limit: int = MAX_BODY_BYTES,
        again: bool = True,
    ) -> Answer:
        """Returns an answer of one of the expected statuses.

        Args:
            method: `GET`, `HEAD`, `PUT`, …
            url: The address.
            headers: Sent everywhere.
            secret: Headers that go to the server of `url` only.
            body: What is sent.
            expect: Statuses that are returned.
            into: Where the body of a 200 goes; emptied before each try.
            limit: Most bytes of a body.
            again: False to try only once.

        Raises:
            HTTPError: The server says something else, or cannot be reached.
            StorageError: The answer is too large, or all of it took too long.
        """
        tries = _TRIES if again else 1
        for attempt in range(1, tries + 1):
            try:
                answer = self._once(method, url, {**(headers or {})}, {**(secret or {})}, body, into, limit)
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                problem = _unreachable(url, error)
                if attempt == tries or isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
                    raise problem from None
                self.pause(attempt)
                continue
            if answer.status in expect:
                return answer
            wait = self.wait_for(answer)
            if wait is None or attempt == tries:
                raise self.refusal(url, answer)
            self.pause(attempt, wait)
        raise AssertionError("the last attempt returns or raises")

    def wait_for(self, answer: Answer) -> float | None:
        """Returns for how many seconds at least to wait before asking again; None when that would not help."""
        return (_asked_wait(answer) or 0.0) if answer.status in _BUSY else None

    def refusal(self, url: str, answer: Answer) -> HTTPError:
        """Returns the error for an answer that is none of those that were wanted."""
        return refused(url, answer)

    def _once(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        secret: dict[str, str],
        body: bytes | None,
        into: BinaryIO | None,
        limit: int,
    ) -> Answer:
        origin, home = _origin(url), True
        for _ in range(_MAX_REDIRECTIONS + 1):
            self._check_way(url)
            home = home and _origin(url) == origin
            sent = {"User-Agent": "heliograph", **headers, **(secret if home else {})}
            if body is not None:  # else urllib names a type that is wrong
                sent.setdefault("Content-Type", "application/octet-stream")
            request = urllib.request.Request(url, data=body, headers=sent, method=method)  # noqa: S310 (its way is checked)
            with _opener(url).open(request, timeout=min(_SILENCE_SECONDS, self._left())) as got:
                response = cast("http.client.HTTPResponse", got)
                told = {name.lower(): text for name, text in response.getheaders()}
                place = told.get("location", "")
                if response.status not in _REDIRECTS or not place:
                    return self._read(method, url, response, told, into, limit)
            url = urllib.parse.urljoin(url, place)
            if response.status == 303:
                method, body = "GET", None
        raise StorageError(f"{host_of(url)} redirects from one address to the next without end")

    def _read(
        self,
        method: str,
        url: str,
        response: http.client.HTTPResponse,
        told: Mapping[str, str],
        into: BinaryIO | None,
        limit: int,
    ) -> Answer:
        target = into if response.status == 200 else None
        if target is not None:
            target.seek(0)
            target.truncate()
        pieces: list[bytes] = []
        size = 0
        while piece := response.read(_PIECE_BYTES):
            self._left()
            size += len(piece)
            if size > limit:
                raise StorageError(f"{shown(url)} is larger than {limit:,} bytes")
            if target is None:
                pieces.append(piece)
            else:
                target.write(piece)
        length = told.get("content-length", "")
        if method != "HEAD" and length.isdigit() and size < int(length):
            raise ConnectionError(f"the connection ended {int(length) - size:,} bytes too early")
        return Answer(response.status, told, b"".join(pieces))

    def _check_way(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.username is not None or not parts.hostname:
            raise StorageError(f"{shown(url)} is no address, or has a login in it")
        if parts.scheme == "https" or (parts.scheme == "http" and (host_of(url) in self._plain or may_be_plain(url))):
            return
        raise StorageError(
            f"{shown(url)} is not encrypted, so everybody on the way could read along",
            hint=f"Use https, or name the host in the setting storage.insecure_hosts: {host_of(url)}.",
        )

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise StorageError(
                f"the storage took longer than {self._limit:g} s",
                hint="Raise the setting storage.http_timeout_seconds, or look at the network.",
            )
        return left

    def pause(self, attempt: int, asked: float | None = None) -> None:
        """Waits before a request is tried again: longer from try to try, and as long as the server asked for."""
        backoff = 0.25 * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)
        time.sleep(min(max(backoff, asked or 0.0), _MAX_WAIT_SECONDS, self._left()))


def host_of(url: str) -> str:
    """Returns host and port of an address, as it names them."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2].lower()


def is_near(host: str) -> bool:
    """True for this machine, which needs no encryption. A port may follow the name."""
    from heliograph.client.channel import is_loopback

    return is_loopback(f"{urllib.parse.urlsplit(f'//{host}').hostname}:80")


def may_be_plain(url: str) -> bool:
    """True when the address' host may be spoken to without encryption here."""
    host = host_of(url)
    return is_near(host) or host in {name.lower() for name in config().storage.insecure_hosts}


def shown(url: str) -> str:
    """Returns an address without its query and without what stands before the host."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{host_of(url)}{parts.path}"


def refused(url: str, answer: Answer) -> HTTPError:
    """Returns the error for an answer that is none of those that were wanted."""
    said = _said(answer)
    error = HTTPError(
        f"{shown(url)} answers {answer.status}{f': {said}' if said else ''}",
        hint="The server is in trouble. Try again later." if answer.status in _BUSY else "",
    )
    error.status = answer.status
    return error


def _said(answer: Answer) -> str:
    """Returns the reason that a server gives, in one short line; nothing of pages that are meant for browsers."""
    import json

    if "html" in answer.headers.get("content-type", ""):
        return ""
    text = answer.body.decode("utf-8", "replace")
    with suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
        first = json.loads(text)["errors"][0]  # as registries answer
        text = f"{first['code']}: {first['message']}"
    return " ".join(text.split())[:_MAX_SAID]


def _unreachable(url: str, error: Exception) -> HTTPError:
    reason = getattr(error, "reason", error)
    host = host_of(url)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return HTTPError(
            f"the certificate of {host} is not trusted here: {reason.verify_message}",
            hint="Set SSL_CERT_FILE to the file of the authority that signed it.",
        )
    # What http.client says may quote an address with its query.
    told = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
    if isinstance(reason, ConnectionError | TimeoutError) and not reason.strerror:
        told = str(reason) or told
    return HTTPError(
        f"{host} cannot be reached: {told}", hint="Check the name, the network from here, HTTPS_PROXY and NO_PROXY."
    )


def _asked_wait(answer: Answer) -> float | None:
    text = answer.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else None
    return None


def _origin(url: str) -> tuple[str, str, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Returns what sends requests as they are: it follows nothing and takes every answer for one."""
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler({} if is_near(host_of(url)) else None))
    opener.add_handler(urllib.request.HTTPHandler())
    if url.startswith("https:"):
        opener.add_handler(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    return opener
