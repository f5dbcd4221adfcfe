"""How much of the server anybody may take: sizes, connections, streams, calls. `docs/security.md` lists them.

gRPC enforces those of the wire, before a token is known; the interceptor enforces those of tokens.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Sequence
from typing import Final

from heliograph.exceptions import ResourceExhaustedError
from heliograph_control_plane.principals import Principal

MAX_REQUEST_BYTES: Final = 1024 * 1024 + 64 * 1024
"""Limit of one request: a batch of 1 MiB and what is around it."""
MAX_GRAPH_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Limit of a registration, whose graph may have 10,000 tasks."""
MAX_METADATA_BYTES: Final = 16 * 1024
"""Metadata of one call. gRPC refuses it within one frame, the interceptor when it came in several."""
MAX_DEADLINE_SECONDS: Final = 120.0
"""Longest deadline of a call that changes something."""

HANDSHAKE_SECONDS: Final = 10
"""A connection that has not said by then what HTTP/2 begins with, TLS included, is closed."""
IDLE_SECONDS: Final = 15 * 60
"""A connection without a call is closed after so long."""
AGE_SECONDS: Final = 12 * 3_600
"""A connection is asked to make way for a new one after so long (give or take a tenth)…"""
AGE_GRACE_SECONDS: Final = 3_600
"""… and its calls have so long to end. Streams of events and long polls end within it by themselves."""
MAX_CONNECTIONS: Final = 8_000
"""Connections at once; fewer where the process may open fewer files."""
MAX_STREAMS: Final = 1_000
"""Calls at once on one connection."""
MAX_CALLS: Final = 20_000
"""Calls at once on the server."""
MAX_CALLS_PER_TOKEN: Final = 5_000
"""Calls at once with one token: room for thousands of agents that share one, and for others beside them."""
MAX_CALLS_PER_RUN: Final = 64
"""Calls at once with the token of a run, whose holder is one flow."""

_FILES_FOR_OTHERS: Final = 200


def channel_options() -> tuple[tuple[str, int], ...]:
    """Returns what gRPC is told for each connection."""
    files = raise_file_limit()
    return (
        # Without this a second server on the port starts silently and takes half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_GRAPH_REQUEST_BYTES + 64 * 1024),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        # A client that vanished is known after 30 s: no run is offered to its long poll after that. (What gRPC goes by
        # is the timeout of pings.)
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients ping every 20 s, and may do so every 10 s; whoever does it more often is sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 9_000),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1_000),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1_000),
        ("grpc.max_connection_age_ms", AGE_SECONDS * 1_000),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1_000),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", max(min(MAX_CONNECTIONS, files - _FILES_FOR_OTHERS), 100)),
    )


def check_metadata(metadata: Sequence[tuple[str, str | bytes]]) -> None:
    """Refuses more metadata than a call may have, counted as HTTP/2 does. gRPC counts each frame of it by itself.

    Raises:
        ResourceExhaustedError: It is more.
    """
    if sum(len(key) + len(value) + 32 for key, value in metadata) > MAX_METADATA_BYTES:
        raise ResourceExhaustedError(f"the call has more than {MAX_METADATA_BYTES:,} bytes of metadata")


def raise_file_limit() -> int:
    """Lets this process open as many files as it may, and returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _FILES_FOR_OTHERS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MAX_CONNECTIONS + _FILES_FOR_OTHERS if soft == resource.RLIM_INFINITY else soft


class CallCounter:
    """Counts the calls that are open with each token, those whose request never comes included."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def enter(self, principal: Principal) -> None:
        """Counts the call that the current task serves, until that task ends.

        Raises:
            ResourceExhaustedError: The token has as many calls open as it may.
        """
        token = principal.token_id
        if self._open[token] >= (MAX_CALLS_PER_TOKEN if principal.run is None else MAX_CALLS_PER_RUN):
            raise ResourceExhaustedError("the token has too many calls open")
        task = asyncio.current_task()
        assert task is not None
        self._open[token] += 1
        task.add_done_callback(lambda _: self._leave(token))

    def _leave(self, token: str) -> None:
        self._open[token] -= 1
        if not self._open[token]:
            del self._open[token]
