"""The agent's connection to the control plane: one channel, typed errors, and a line in the log for each change."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from heliograph.exceptions import HeliographError, PermissionDeniedError, UnauthenticatedError, UnavailableError

if TYPE_CHECKING:
    import grpc.aio

    from heliograph.client.channel import TlsFiles

_log = logging.getLogger("heliograph.agent")

Answer = TypeVar("Answer")

CALL_SECONDS = 15.0
"""Deadline of a call that does not wait for work."""

REFUSALS = 5
"""Refusals of the token in a row after which the agent gives up."""

REBUILD_AFTER = 5
"""Failures in a row after which the channel is made anew."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 4.0

_OF_THE_TOKEN = (UnauthenticatedError, PermissionDeniedError)
"""Errors that a token is refused with."""


class AgentRefusedError(HeliographError):
    """The control plane refuses the agent's token: nothing that the agent does can help."""

    reason = "UNAUTHENTICATED"
    exit_code = 4


def worth_another_try(error: HeliographError) -> bool:
    """True for what may pass: also a refused token, after some of which the link raises `AgentRefusedError`.

    Whatever is taken for done is forgotten. What the next agent, with a good token, could still do is not done.
    """
    return error.retryable or isinstance(error, _OF_THE_TOKEN)


class Link:
    """The channel of one agent, made anew after failures. Used by one event loop.

    Args:
        address: `host:port`.
        token: The agent's token.
        tls: Certificates.
        insecure: Allows plaintext off loopback.

    Attributes:
        last_answer: `time.monotonic()` of the newest answer; 0.0 before the first.
    """

    def __init__(self, address: str, token: str | None, tls: TlsFiles | None, *, insecure: bool) -> None:
        self.address = address
        self.last_answer = 0.0
        self._token, self._tls, self._insecure = token, tls, insecure
        self._channel: grpc.aio.Channel | None = None
        self._failures = 0
        self._refusals = 0
        self._down_since = 0.0

    def channel(self) -> grpc.aio.Channel:
        """Returns the channel."""
        from heliograph.client.channel import open_channel

        if self._channel is None:
            self._channel = open_channel(self.address, self._token, self._tls, insecure=self._insecure, aio=True)
        return self._channel

    async def call(
        self, stub: Callable[[Any], Any], method: str, request: Any, timeout_seconds: float = CALL_SECONDS
    ) -> Any:
        """Calls `method` of a stub class once.

        Raises:
            AgentRefusedError: The token was refused too often.
            HeliographError: The call failed.
        """
        return await self._noted(getattr(stub(self.channel()), method)(request, timeout=timeout_seconds))

    async def call_raw(self, path: str, request: bytes, answer: Callable[[bytes], Answer]) -> Answer:
        """Calls a method by its path with a request that is serialized already."""
        method: Any = self.channel().unary_unary(path, request_serializer=None, response_deserializer=answer)
        result: Answer = await self._noted(method(request, timeout=CALL_SECONDS))
        return result

    async def _noted(self, call: Awaitable[Any]) -> Any:
        import grpc

        from heliograph.client.errors import is_from_control_plane, to_error

        try:
            answer = await call
        except grpc.RpcError as error:
            known = to_error(error, address=self.address)
            if not (known.retryable or isinstance(known, _OF_THE_TOKEN) or is_from_control_plane(error)):
                # A balancer while the control plane is away, say. It knows nothing of runs: what it says is no answer.
                known = UnavailableError(str(known), hint=known.hint)
            raise await self._failed(known) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled this call: another one had the channel made anew, which ends all that are under way.
            raise UnavailableError("the connection was made anew") from None
        self.last_answer = time.monotonic()
        self._failures = self._refusals = 0
        if self._down_since:
            _log.warning("control plane %s is back after %.0f s", self.address, time.monotonic() - self._down_since)
            self._down_since = 0.0
        return answer

    async def _failed(self, error: HeliographError) -> HeliographError:
        if isinstance(error, _OF_THE_TOKEN):
            self._refusals += 1
            if self._refusals >= REFUSALS:
                return AgentRefusedError(
                    f"the control plane {self.address} refuses this agent's token: {error}",
                    hint="The token is unknown, expired, revoked, or lacks the role `agent`. "
                    "Make another with `heliograph tokens create --role agent`.",
                )
        elif not error.retryable:
            # An answer, though not the wanted one: the control plane is there.
            self.last_answer = time.monotonic()
            self._refusals = 0
            return error
        self._failures += 1
        if not self._down_since:
            self._down_since = time.monotonic()
            _log.warning("control plane %s is away: %s; trying again", self.address, error)
        if self._failures % REBUILD_AFTER == 0:
            await self.close()
        return error

    async def close(self) -> None:
        """Closes the channel; the next call opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class Pause:
    """Growing pauses with jitter between tries."""

    def __init__(self, longest_seconds: float = LONGEST_PAUSE_SECONDS) -> None:
        self._next, self._longest = FIRST_PAUSE_SECONDS, longest_seconds

    def seconds(self) -> float:
        """Returns how long to wait now."""
        seconds, self._next = self._next, min(self._longest, self._next * 2)
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)

    def reset(self) -> None:
        """After a success: the next pause is short again."""
        self._next = FIRST_PAUSE_SECONDS
