"""The API of a cluster as the launcher uses it: plain JSON with deadlines, tries and a rate, and two kinds of errors.

Manifests of flows go as they are: the typed client of the package refuses what servers take. All methods block. Both
errors are `OSError`: the agent looks again later at what it could not see.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import urllib3.exceptions

from heliograph import __version__
from heliograph.client.cluster import Access, open_pool

_log = logging.getLogger("heliograph.agent")

TRIES = 4
"""How often a request is sent whose trouble may pass."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 30.0

PAGE = 500
"""Most objects of one answer."""

POOL = 32
"""Connections that are kept: as many as threads use them at once."""

_GROUPS = {
    "jobs": "/apis/batch/v1", "pods": "/api/v1", "secrets": "/api/v1", "events": "/api/v1",
    "selfsubjectaccessreviews": "/apis/authorization.k8s.io/v1",
}  # fmt: skip


class ApiAwayError(OSError):
    """The API does not answer, or not now: nothing is known of what it was asked to do."""


class ApiRefusedError(OSError):
    """The API answers, and will not.

    Args:
        status: Its HTTP status.
        reason: Its word for it: `NotFound`, `AlreadyExists`, `Forbidden`, `Invalid`.
        message: What it says.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Rate:
    """Lets so many requests through in a second, and some more at once.

    Args:
        per_second: How many.
        burst: How many at once.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval, self._burst = 1.0 / per_second, burst
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Waits for one's turn."""
        with self._lock:
            now = time.monotonic()
            at = self._next = max(self._next, now - self._interval * (self._burst - 1))
            self._next += self._interval
        if at > now:
            time.sleep(at - now)


class Api:
    """One cluster's API. Threads may share it.

    Args:
        access: The way to it.
        timeout_seconds: Longest wait for one answer.
        rate: Most requests per second.
        burst: Most requests at once.
    """

    def __init__(self, access: Access, *, timeout_seconds: float = 30.0, rate: float = 10.0, burst: int = 20) -> None:
        self._access, self._timeout = access, timeout_seconds
        self._rate = Rate(rate, burst)
        self._pool = open_pool(access, POOL)

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return self._access.host

    def version(self) -> str:
        """Returns the server's version."""
        return str(self._ask("GET", "/version").get("gitVersion", "unknown"))

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Returns one object; None when there is none."""
        try:
            return self._ask("GET", _path(kind, namespace, name))
        except ApiRefusedError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, namespace: str, **query: str) -> tuple[list[dict[str, Any]], str]:
        """Returns all objects that a selector finds, page by page, and the version of the collection."""
        found: list[dict[str, Any]] = []
        following = ""
        while True:
            asked = {**query, "limit": str(PAGE), **({"continue": following} if following else {})}
            try:
                answer = self._ask("GET", _path(kind, namespace), asked)
            except ApiRefusedError as error:
                if error.status != 410 or not following:
                    raise
                found, following = [], ""  # the list that was being read is too old: from the start
                continue
            found += answer.get("items") or []
            meta = answer.get("metadata") or {}
            following = meta.get("continue") or ""
            if not following:
                return found, str(meta.get("resourceVersion", ""))

    def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates an object.

        Raises:
            ApiRefusedError: With status 409, when there is one of that name: also when a lost answer was to this.
        """
        return self._ask("POST", _path(kind, namespace) if namespace else f"{_GROUPS[kind]}/{kind}", body=body)

    def delete(self, kind: str, namespace: str, name: str, options: Mapping[str, Any]) -> bool:
        """Deletes an object. Returns False when there is none."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            self._ask("DELETE", _path(kind, namespace, name), body=body)
        except ApiRefusedError as error:
            if error.status in (404, 409):  # 409: another one than the precondition names
                return False
            raise
        return True

    def log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """Returns the last lines that a container printed; empty when they are not to be had."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(64 * 1024)}
        try:
            answer = self._send("GET", f"{_path('pods', namespace, pod)}/log", query, None)
        except OSError:
            return ""
        return bytes(answer.data).decode("utf-8", "replace") if answer.status == 200 else ""

    def watch(self, kind: str, namespace: str, version: str, seconds: int, **query: str) -> Watching:
        """Opens a stream of changes that begins after a version.

        Raises:
            ApiRefusedError: With status 410, when that version is too old.
            ApiAwayError: The API does not answer.
        """
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds),
                 "resourceVersion": version}  # fmt: skip
        answer = self._send("GET", _path(kind, namespace), asked, None, stream_seconds=seconds + self._timeout)
        if answer.status != 200:
            raise _refusal(answer.status, answer.read())
        return Watching(answer)

    def follow(self, namespace: str, pod: str, container: str) -> Iterator[bytes]:
        """Yields what a container prints, until it ends."""
        query = {"container": container, "follow": "true"}
        answer = self._send("GET", f"{_path('pods', namespace, pod)}/log", query, None, stream_seconds=86400.0)
        try:
            if answer.status == 200:
                yield from answer.stream(8192)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiAwayError(str(error)) from error
        finally:
            answer.close()

    def close(self) -> None:
        """Closes its connections."""
        self._pool.clear()

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Asks, again where trouble may pass. Every request here may be sent twice: names are given by us."""
        pause, data = FIRST_PAUSE_SECONDS, None if body is None else json.dumps(body).encode()
        for left in reversed(range(TRIES)):
            self._rate.wait()
            wanted = 0.0
            try:
                answer = self._send(method, path, query, data)
                if answer.status < 300:
                    found = _mapping(answer.data)
                    if method == "POST":
                        _tell_warning(found, answer.headers.get("Warning"))
                    return found
                error: OSError = _refusal(answer.status, answer.data)
                if answer.status not in (429, 500, 502, 503, 504):
                    raise error
                wanted = _retry_after(answer.headers.get("Retry-After"))
                error = ApiAwayError(f"{self.address} answers {answer.status}: {error}")
            except ApiAwayError as away:
                error = away
            if not left or wanted > LONGEST_PAUSE_SECONDS:
                raise error
            time.sleep(max(wanted, pause * random.uniform(0.5, 1.5)))  # noqa: S311 (jitter)
            pause *= 2
        raise AssertionError("unreachable")

    def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None,
        *, stream_seconds: float = 0.0,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        url = f"{self._access.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "User-Agent": f"heliograph/{__version__}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            headers |= self._access.headers()
        except Exception as error:
            raise ApiAwayError(f"there are no credentials for {self.address}: {error}") from error
        try:
            return self._pool.request(
                method, url, body=data, headers=headers, preload_content=not stream_seconds,
                timeout=urllib3.Timeout(connect=min(10.0, self._timeout), read=stream_seconds or self._timeout),
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiAwayError(f"{self.address} does not answer: {error}") from error


class Watching:
    """A stream of changes. Threads other than the reader's may close it."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer

    def changes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the kind of each change and its object, until the server ends the stream.

        Raises:
            ApiAwayError: The stream breaks.
        """
        rest = b""
        try:
            for piece in self._answer.stream(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        change = json.loads(line)
                        yield str(change["type"]), change["object"]
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ApiAwayError(f"the watch broke: {error}") from error

    def close(self) -> None:
        """Ends it."""
        connection: Any = getattr(self._answer, "connection", None)
        with contextlib.suppress(Exception):  # whatever a connection raises that is being read elsewhere
            if connection is not None and connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._answer.close()


def _path(kind: str, namespace: str, name: str = "") -> str:
    path = f"{_GROUPS[kind]}/namespaces/{quote(namespace, safe='')}/{kind}"
    return f"{path}/{quote(name, safe='')}" if name else path


def _mapping(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ApiAwayError("what answers is no Kubernetes API: no JSON") from error
    if not isinstance(found, dict):
        raise ApiAwayError("what answers is no Kubernetes API: no object")
    return found


def _tell_warning(made: Mapping[str, Any], header: str | None) -> None:
    """Logs what the server warns of in what it made: fields that it does not know, above all."""
    if header:
        said = header.partition('"')[2].rpartition('"')[0] or header
        _log.warning("the cluster says of %s %s: %s", made.get("kind"), (made.get("metadata") or {}).get("name"), said)


def _refusal(status: int, data: bytes) -> ApiRefusedError:
    try:
        said = json.loads(data)
        return ApiRefusedError(status, str(said.get("reason", "")), str(said.get("message", "")) or f"status {status}")
    except (ValueError, AttributeError):
        return ApiRefusedError(status, "", f"status {status}: {data[:200].decode('utf-8', 'replace')}")


def _retry_after(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0
