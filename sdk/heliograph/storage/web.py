"""Questions to the API of a server that keeps repositories, with a token that no other server gets.

What such servers have in common beyond HTTP: reasons in JSON, limits of requests with an end that they tell, and tokens
of which they do not say whether they are too narrow or whether there is nothing to see.
"""

from __future__ import annotations

import email.utils
import json
import tempfile
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from heliograph.exceptions import StorageError
from heliograph.storage.http_client import Answer, HTTPError, Session

__all__ = ["RateLimitError", "Web", "reason_of", "value_of"]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of lists of a repository's files, mostly."""
_MAX_MEMORY_BYTES = 8 * 1024 * 1024
_MAX_WAIT_SECONDS = 60.0
_MAX_SAID = 200
_SECONDARY = "secondary rate limit"


class RateLimitError(HTTPError):
    """The server wants no more requests for longer than is waited here."""


class Web(Session):
    """The API of one server, for one fetch.

    Args:
        base: Address of the API; the credential goes to its scheme, host and port only.
        host: The server's name, in messages.
        headers: Sent with every request.
        credential: The header with the token; none is sent when not given.
        secret: The token, which no message may repeat.
    """

    def __init__(
        self,
        base: str,
        host: str,
        *,
        headers: Mapping[str, str],
        credential: Mapping[str, str] | None = None,
        secret: str = "",
    ) -> None:
        super().__init__()
        self.base = base.rstrip("/")
        self.host = host
        self._headers = headers
        self._credential = credential or {}
        self._secret = secret

    @property
    def has_login(self) -> bool:
        """True when requests carry a token."""
        return bool(self._credential)

    def get(self, path: str, *, accept: str = "", also: Container[int] = ()) -> Answer:
        """Returns an answer.

        Args:
            path: Below the base, quoted, with its query.
            accept: Form that is wanted, when not the usual one.
            also: Statuses that are returned like a success.

        Raises:
            HTTPError: The server says something else, or cannot be reached.
        """
        return self._ask(path, accept, also, None, MAX_ANSWER_BYTES)

    def value(self, path: str, *, also: Container[int] = ()) -> Any:
        """Returns what an answer in JSON says; None for a status of `also`.

        Raises:
            StorageError: As for `get`, or the answer is no JSON.
        """
        answer = self.get(path, also=also)
        if answer.status in also:
            return None
        value = value_of(answer)
        if value is None:
            raise StorageError(
                f"{self.host} answers {path.partition('?')[0]} with something that is no JSON",
                hint="Is that the address of its API? A page of a proxy or of a login looks like this.",
            )
        return value

    @contextmanager
    def download(self, path: str, limit: int) -> Iterator[BinaryIO]:
        """Yields a file with the body of an answer.

        Args:
            path: Below the base, quoted, with its query.
            limit: Most bytes of it.
        """
        with tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES) as spool:
            stream = cast("BinaryIO", spool)
            self._ask(path, "", (), stream, limit)
            stream.seek(0)
            yield stream

    def _ask(self, path: str, accept: str, also: Container[int], into: BinaryIO | None, limit: int) -> Answer:
        headers = {**self._headers, **({"Accept": accept} if accept else {})}
        expect = {200, *(status for status in range(300, 600) if status in also)}
        url = f"{self.base}/{path.lstrip('/')}"
        return self.send("GET", url, headers=headers, secret=self._credential, expect=expect, into=into, limit=limit)

    # --- when it does not go well ------------------------------------------------------------------------------------

    def wait_for(self, answer: Answer) -> float | None:
        """Returns for how long to wait before asking again; None when that would not help.

        Raises:
            RateLimitError: The server wants to be left alone for longer.
        """
        asked = _asked_wait(answer)
        if asked is None:
            return super().wait_for(answer)
        if asked > _MAX_WAIT_SECONDS:
            raise self._limited(answer, asked)
        return asked

    def refusal(self, url: str, answer: Answer) -> HTTPError:
        """Returns the error for an answer that is none of those that were wanted."""
        del url
        asked = _asked_wait(answer)
        if asked is not None:
            return self._limited(answer, asked)
        said = self._scrubbed(reason_of(answer))
        error = HTTPError(f"{self.host} answers {answer.status}{f': {said}' if said else ''}", hint=self.hint(answer))
        error.status = answer.status
        return error

    def hint(self, answer: Answer) -> str:
        """Returns what to do about an answer."""
        if answer.status in (401, 403) and self.has_login:
            return f"The server refuses the token that is here for {self.host}: is it expired, or too narrow?"
        if answer.status in (401, 403):
            return f"{self.host} wants a token: {self.binding()}"
        return "The server is in trouble. Try again later." if answer.status >= 500 else "Try again later."

    def binding(self) -> str:
        """Returns how a token gets here."""
        return f"name a secret in the setting storage.tokens, {self.host}=NAME_OF_SECRET."

    def _limited(self, answer: Answer, wait: float) -> RateLimitError:
        until = datetime.fromtimestamp(_server_time(answer) + wait, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        way = "Its limit for this token is used up: run fewer at a time, or use another token."
        if not self.has_login:
            way = f"Without a token the limit is low: {self.binding()}"
        error = RateLimitError(f"{self.host} wants no more requests until {until}", hint=way)
        error.status = answer.status
        return error

    def _scrubbed(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def value_of(answer: Answer) -> Any:
    """Returns what an answer in JSON says; None when it is none."""
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def reason_of(answer: Answer) -> str:
    """Returns the reason that an API gives, in one short line."""
    document = value_of(answer)
    told = document
    for _ in range(3):  # {"message": …}, {"error": {"message": …}}, {"errors": [{"message": …}]}
        if isinstance(told, list) and told:
            told = told[0]
        if isinstance(told, dict):
            told = told.get("message") or told.get("error_description") or told.get("error") or told.get("errors")
    return " ".join(told.split())[:_MAX_SAID] if isinstance(told, str) else ""


def _asked_wait(answer: Answer) -> float | None:
    """Returns for how long the server wants no requests; None when it does not say."""
    headers = answer.headers
    if answer.status not in (403, 429, 503):
        return None
    text = headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    if text:
        with suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - _server_time(answer))
    for prefix in ("x-ratelimit", "ratelimit"):
        reset = headers.get(f"{prefix}-reset", "")
        if headers.get(f"{prefix}-remaining") == "0" and reset.isdigit():
            return max(0.0, float(reset) - _server_time(answer))
    # GitHub's limit of requests at once has no header of its own, and asks for a minute.
    return _MAX_WAIT_SECONDS if answer.status == 403 and _SECONDARY in reason_of(answer) else None


def _server_time(answer: Answer) -> float:
    with suppress(KeyError, ValueError, TypeError):
        return email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    return time.time()
