"""What both pumps of a supervisor share: the channel to the control plane, made anew after failures; waking, pausing
with jitter, and why a pump ended.

Neither pump ever gives up on a control plane that is away: it tries again, and everything goes out in order.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from heliograph.exceptions import (
    HeliographError,
    LeaseLostError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

if TYPE_CHECKING:
    import grpc

ACK_SECONDS = 20.0
"""How long an acknowledgement may take before the connection is taken for dead."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 4.0
REBUILD_AFTER = 5
"""Failures in a row after which the channel is made anew."""

REFUSALS = 5
"""Refusals of the token in a row that are final once the flow has ended."""

_log = logging.getLogger("heliograph.supervisor")


class Verdict(Enum):
    """Why a pump ended."""

    DONE = "all was acknowledged"
    LEASE_LOST = "the lease belongs to another"
    REFUSED = "the control plane refuses the token"
    STOPPED = "told to stop"


@dataclass(frozen=True, slots=True)
class Writer:
    """Who ships: (run, epoch)."""

    flow_run: str
    epoch: int


class Link:
    """The channel to the control plane, made anew after failures. Shared by the pumps."""

    def __init__(self, connect: Callable[[], grpc.Channel]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._failures = 0
        self._said_down = False

    def channel(self) -> grpc.Channel:
        """Returns the channel."""
        with self._lock:
            if self._channel is None:
                self._channel = self._connect()
            return self._channel

    def failed(self, error: HeliographError) -> None:
        """Notes a failure; says so when the link goes down. Where the token was refused, there may be another now."""
        with self._lock:
            self._failures += 1
            if not self._said_down:
                self._said_down = True
                _log.warning("control plane away: %s; the run goes on, its states are kept here", error)
            again = self._failures % REBUILD_AFTER == 0 or isinstance(error, UnauthenticatedError)
            if again and self._channel is not None:
                self._channel.close()
                self._channel = None

    def answered(self) -> None:
        """Notes an answer; says so when the link comes back."""
        if not self._failures:
            return
        with self._lock:
            self._failures = 0
            if self._said_down:
                self._said_down = False
                _log.warning("control plane is back")

    def close(self) -> None:
        """Closes the channel."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None


class Pump(threading.Thread):
    """What both pumps share: waking, pausing with jitter, ending."""

    def __init__(self, name: str, link: Link) -> None:
        super().__init__(name=name, daemon=True)
        self.verdict: Verdict | None = None
        self._link = link
        self._wake = threading.Event()
        self._no_more = False
        self._stopped = False
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._refusals = 0

    def poke(self) -> None:
        """Says that there may be something new."""
        self._wake.set()

    def finish(self) -> None:
        """Nothing more will be written: end when all that is there was acknowledged."""
        self._no_more = True
        self._wake.set()

    def stop(self) -> None:
        """End now."""
        self._stopped = True
        self._wake.set()

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _back_off(self) -> None:
        """Pauses after a failure, longer each time. New events do not shorten it; `stop` does."""
        limit = time.monotonic() + self._pause_seconds * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        self._pause_seconds = min(LONGEST_PAUSE_SECONDS, self._pause_seconds * 2)
        while not self._stopped and (left := limit - time.monotonic()) > 0:
            self._wait(left)

    def _answered(self) -> None:
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._refusals = 0
        self._link.answered()

    def _judge(self, error: HeliographError) -> Verdict | None:
        """Returns the verdict that an answer means for any pump, or None to try again."""
        if isinstance(error, LeaseLostError):
            return Verdict.LEASE_LOST
        if isinstance(error, (UnauthenticatedError, PermissionDeniedError, NotFoundError)):
            self._refusals += 1
            if self._refusals == REFUSALS:
                _log.error("the control plane refuses this run's token: %s", error)
            if self._refusals >= REFUSALS and self._no_more:
                return Verdict.REFUSED  # the agent ships the rest with its own token
        return None
