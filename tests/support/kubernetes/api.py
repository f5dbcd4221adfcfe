"""Plain HTTP to a Kubernetes API server: what tests say to it is what the wire carries, with no client in between."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

Json = dict[str, Any]


class Refused(AssertionError):
    """The server refused a call.

    Attributes:
        status: The HTTP status.
        answer: What it said.
    """

    def __init__(self, status: int, answer: Json) -> None:
        super().__init__(f"{status}: {answer.get('message', answer)}")
        self.status, self.answer = status, answer


class Api:
    """Calls as one user.

    Args:
        url: `https://host:port` or `http://host:port`.
        token: The user's bearer token.
        authority: Path of the certificate of the server's authority.
    """

    def __init__(self, url: str, token: str = "", authority: str = "") -> None:
        self.url, self.token = url, token
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._context = ssl.create_default_context(cafile=authority) if parts.scheme == "https" else None

    def ask(
        self, method: str, path: str, body: Json | str | None = None, *, content: str = "application/json"
    ) -> tuple[int, Json]:
        """Returns the status and the decoded answer; text is under `text`."""
        with closing(self._connection()) as connection:
            answer = self._send(connection, method, path, body, content)
            text = answer.read().decode()
            if "json" in answer.headers.get("Content-Type", ""):
                return answer.status, json.loads(text)
            return answer.status, {"text": text}

    def call(self, method: str, path: str, body: Json | str | None = None, **options: str) -> Json:
        """Returns the answer; raises `Refused` for a status that is not 2xx."""
        status, answer = self.ask(method, path, body, **options)
        if status // 100 != 2:
            raise Refused(status, answer)
        return answer

    def get(self, path: str) -> Json:
        """Returns an object or a list."""
        return self.call("GET", path)

    def post(self, path: str, body: Json) -> Json:
        """Creates an object."""
        return self.call("POST", path, body)

    def delete(self, path: str, **options: Any) -> Json:
        """Deletes an object. `options`: fields of `DeleteOptions`."""
        return self.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def watch(self, path: str, *, seconds: int = 60) -> Iterator[Json]:
        """Yields events until the server ends the watch."""
        joint = "&" if "?" in path else "?"
        with closing(self._connection(seconds + 30.0)) as connection:
            answer = self._send(connection, "GET", f"{path}{joint}watch=true&timeoutSeconds={seconds}", None, "")
            if answer.status != 200:
                raise Refused(answer.status, json.loads(answer.read()))
            for line in answer:
                yield json.loads(line)

    def until(self, path: str, look: Callable[[Json], Any], what: str, seconds: float = 120.0) -> Any:
        """Returns the first truthy `look(answer)` of GETs of `path`."""
        limit = time.monotonic() + seconds
        answer: Json = {}
        while time.monotonic() < limit:
            with suppress(OSError):  # it may be starting
                _status, answer = self.ask("GET", path)
            if found := look(answer):
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds:.0f} s: {what}; last: {json.dumps(answer)[-3000:]}")

    def _connection(self, seconds: float = 60.0) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=seconds)
        return http.client.HTTPConnection(self._host, self._port, timeout=seconds)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Json | str | None, content: str
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = content
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        connection.request(method, path, data, headers)
        return connection.getresponse()
