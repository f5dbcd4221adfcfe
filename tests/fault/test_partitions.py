"""Agents and their runs are cut off from the control plane, one way and both, with their connections left half-open.

Runs begin before and during the cuts. Whatever is cut, each run happens once, and its whole story arrives.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc.aio
import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.support import ends
from tests.support.control_plane import control_plane
from tests.support.fault_proxy import DOWN, UP, FaultProxy
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.history import task_states, witness
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.api.v1 import agent_service_pb2
from heliograph.client import channel
from heliograph.client.client import Client
from heliograph.engine.codes import StateCode
from heliograph.exceptions import DeadlineExceededError
from heliograph_agents.link import Link
from heliograph_agents.performer import Stub

pytestmark = pytest.mark.xdist_group("partitions")

SHORT = "short_keepalive"
STEPS = 5


def cut(proxy: FaultProxy, way: str, seconds: float) -> None:
    """Cuts one way or both for so long, or has the connections there are lead nowhere."""
    if way == "half-open":
        proxy.forget()
    else:
        proxy.hold(*{"up": (UP,), "down": (DOWN,), "both": (UP, DOWN)}[way])
    time.sleep(seconds)  # the length of the cut is what is tested
    proxy.release()


WAYS = ("up", "down", "both", "half-open")


def lane(stack: Stack, proxy: FaultProxy, name: str, cuts: list[float], over: threading.Event) -> dict[str, Path]:
    """Cuts one agent off again and again, until it is over. Returns its runs and their witness files."""
    runs: dict[str, Path] = {}
    with Client(stack.address, stack.environment["HELIOGRAPH__CLIENT__TOKEN"]) as client:

        def begin() -> Path:
            file = stack.root / f"{name}-{len(runs)}.jsonl"
            given = {"witness": str(file), "seconds": 0.3}
            runs[client.create_flow_run(f"{PROJECT}/steps", given, labels=[name])] = file
            return file

        for number, seconds in enumerate(cuts):
            if over.is_set():
                break
            file = begin()
            wait_until(lambda file=file: witness(file), "a run begins", seconds=90)  # type: ignore[misc]
            cutting = threading.Thread(target=cut, args=(proxy, WAYS[number % len(WAYS)], seconds), daemon=True)
            cutting.start()
            begin()
            ends.join(cutting, seconds=seconds + 60)
    return runs


def partitions(make_stack: StackFactory, lanes: int, cuts: list[float]) -> int:
    """Cuts several agents off at once, each from its own side of the network. Returns the number of runs."""
    stack = make_stack(planted=SHORT, agent=False)
    stack.register(steps(STEPS))
    over = threading.Event()
    with ThreadPoolExecutor(lanes) as pool, ExitStack() as exits:
        exits.callback(over.set)
        work = []
        for number in range(lanes):
            proxy = exits.enter_context(FaultProxy(stack.port))
            stack.agents_address, stack.agent_args = proxy.address, ["--label", f"lane-{number}"]
            stack.start_agent(f"agent-{number}")
            work.append((proxy, f"lane-{number}", cuts[number::lanes], over))
        runs: dict[str, Path] = {}
        for done in pool.map(lambda one: lane(stack, *one), work):
            runs |= done
        for run, file in runs.items():
            found = stack.wait_for(run, StateCode.SUCCESS, seconds=120)
            lines = witness(file)
            assert [line.step for line in lines] == list(range(STEPS)), "each step ran once"
            assert (found.attempt, found.missing_events) == (1, 0)
            entries = task_states(stack, run)
            assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
            ran = [
                entry.slug for entry in entries if entry.state is StateCode.SUCCESS and entry.slug.startswith("step")
            ]
            assert len(ran) == len(set(ran)) == STEPS, "each step's end is stored, once"
        assert all(agent.poll() is None for agent in stack.agents)
    return len(runs)


@forms("count,lanes,shortest,longest", quick=(6, 2, 0.3, 2.0), full=(200, 8, 1.0, 120.0), seconds=7200)
def test_runs_that_are_cut_off_happen_once(
    make_stack: StackFactory, count: int, lanes: int, shortest: float, longest: float, figure: Figure
) -> None:
    """One way, the other, both, half-open."""
    rng = random.Random(count)
    cuts = [shortest * (longest / shortest) ** rng.random() for _ in range(count)]
    runs = partitions(make_stack, lanes, cuts)
    figure(f"{count} partitions of {min(cuts):.1f} to {max(cuts):.1f} s, {runs} runs: 0 doubled, 0 lost")


# --- how soon a dead connection is noticed ----------------------------------------------------------------------------


def half_open(stack: Stack, within: float) -> None:
    """Has an idle agent's connection lead nowhere; a run must begin before a call's own deadline could have told."""
    with FaultProxy(stack.port) as proxy:
        stack.agents_address = proxy.address
        stack.start_agent()
        stack.register(steps(1))
        before = proxy.accepted
        assert proxy.forget() >= 1
        wait_until(lambda: proxy.accepted > before, "the agent connects anew", seconds=within)
        with Client(stack.address, stack.environment["HELIOGRAPH__CLIENT__TOKEN"]) as client:
            given = {"witness": str(stack.root / "witness.jsonl"), "seconds": 0.0}
            stack.wait_for(client.create_flow_run(f"{PROJECT}/steps", given), StateCode.SUCCESS)


def test_a_dead_connection_is_noticed_within_thirty_seconds() -> None:
    """What a client asks for, by the clock that it really has."""
    assert channel.KEEPALIVE_SECONDS + channel.KEEPALIVE_ANSWER_SECONDS <= 30


@forms("planted,within", quick=(SHORT, 20.0), full=("", 40.0))
def test_an_agent_leaves_a_half_open_connection(
    make_stack: StackFactory, planted: str, within: float, figure: Figure
) -> None:
    """Long before its poll's deadline, since the connection does not answer pings."""
    half_open(make_stack(planted=planted, agent=False), within)
    figure(f"half-open connection: left within {within:.0f} s")


def test_a_client_that_trusts_quiet_connections_is_found(make_stack: StackFactory) -> None:
    """The planted twin: nobody asks a quiet connection whether it lives."""
    with pytest.raises(AssertionError, match="the agent connects anew"):
        half_open(make_stack(planted=f"{SHORT},no_keepalive", agent=False), within=8)


# --- a channel made anew ----------------------------------------------------------------------------------------------


async def made_anew(data_dir: Path) -> None:
    """Has a channel's connection lead nowhere while a call is on it; the channel after it must reach somebody."""
    with control_plane(data_dir) as plane, FaultProxy(int(plane.address.rpartition(":")[2])) as proxy:
        link = Link(proxy.address, plane.token, None, insecure=False)
        register = agent_service_pb2.RegisterAgentRequest(agent_id="one", launcher="local", capacity=1)
        await link.call(Stub, "RegisterAgent", register)
        ask = agent_service_pb2.LeaseFlowRunsRequest(agent="agents/one", request_id="1", max_runs=1)
        ask.wait.FromSeconds(30)
        under_way = asyncio.create_task(link.call(Stub, "LeaseFlowRuns", ask, 40.0))
        await asyncio.sleep(0.2)
        proxy.forget()
        await link.close()
        try:
            await link.call(Stub, "RegisterAgent", register, 4.0)
        finally:
            await link.close()
            await asyncio.gather(under_way, return_exceptions=True)


async def test_a_channel_made_anew_has_a_connection_of_its_own(tmp_path: Path) -> None:
    """It does not take over the one that its predecessor was given up for."""
    await made_anew(tmp_path)


async def test_a_channel_that_takes_over_the_dead_connection_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin: gRPC shares connections between channels, as it does by default."""
    make = grpc.aio.insecure_channel

    def sharing(target: str, *, options: list[tuple[str, object]], interceptors: list[object]) -> grpc.aio.Channel:
        shared = [option for option in options if option[0] != "grpc.use_local_subchannel_pool"]
        return make(target, options=shared, interceptors=interceptors)  # type: ignore[arg-type]

    monkeypatch.setattr(grpc.aio, "insecure_channel", sharing)
    with pytest.raises(DeadlineExceededError):
        await made_anew(tmp_path)
