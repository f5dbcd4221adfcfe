"""The agent's connection: a call under way when the channel is made anew fails as one that can be tried again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.exceptions import UnavailableError
from heliograph_agents.link import Link
from heliograph_agents.performer import Stub


@contextlib.asynccontextmanager
async def call_under_way() -> AsyncIterator[tuple[Link, asyncio.Task[Any]]]:
    """Makes a call that somebody takes and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.setblocking(False)
        link = Link(f"127.0.0.1:{mute.getsockname()[1]}", None, None, insecure=True)
        request = pb.LeaseFlowRunsRequest(agent="agents/a")
        call = asyncio.create_task(link.call(Stub, "LeaseFlowRuns", request, 60.0))
        taken, _ = await asyncio.get_running_loop().sock_accept(mute)
        with taken:
            yield link, call
        await link.close()


async def test_a_channel_made_anew_ends_no_loop() -> None:
    async with call_under_way() as (link, call):
        await link.close()
        with pytest.raises(UnavailableError):
            await call


async def test_a_call_can_be_cancelled() -> None:
    async with call_under_way() as (_, call):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
