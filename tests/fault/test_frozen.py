"""Parts that stand still: agent, supervisor and flow process under SIGSTOP, a flow that holds the GIL, a stuck agent.

With leases of seconds: one lives 1.5 s, and a run that nobody vouches for is given up after 3 s.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fault.conftest import StackFactory
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.history import witness
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.client.client import Client
from heliograph.engine.codes import FailureCode, StateCode

pytestmark = pytest.mark.xdist_group("frozen")

SHORT = "short_leases,short_watch"

STILL = '''
import ctypes, json, os, time
from heliograph import Flow, Parameter, task

@task
def step(witness, number, seconds, hold):
    """Writes down that it ran, then waits in silence: as others do, or so that no other thread of the process runs."""
    with open(witness, "a") as file:
        file.write(json.dumps({"step": number, "seconds": time.time(), "pid": os.getpid()}) + "\\n")
    if hold:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    else:
        time.sleep(seconds)

with Flow("still") as flow:
    arguments = Parameter("witness"), Parameter("seconds"), Parameter("hold", default=False)
    first = step(arguments[0], 0, arguments[1], arguments[2])
    step(arguments[0], 1, 0.0, False, upstream_tasks=[first])
'''


@contextmanager
def begun(stack: Stack, **runs: dict[str, Any]) -> Iterator[tuple[Client, dict[str, str]]]:
    """Registers the flow and starts runs of it by name; each is in its first step."""
    stack.register(STILL)
    with Client(stack.address, stack.environment["HELIOGRAPH__CLIENT__TOKEN"]) as client:
        ids = {
            name: client.create_flow_run(f"{PROJECT}/still", {"witness": str(seen(stack, name)), **parameters})
            for name, parameters in runs.items()
        }
        wait_until(
            lambda: all(
                witness(seen(stack, name)) and client.get_flow_run(run).last_sequence for name, run in ids.items()
            ),
            "all runs are in their first step, and the control plane has heard of it",
        )
        yield client, ids


def seen(stack: Stack, name: str) -> Path:
    """Returns the witness file of a run."""
    return stack.root / f"{name}.jsonl"


def part(stack: Stack, run: str, which: str) -> psutil.Process:
    """Returns the `supervisor` or the `flow` process of a run."""
    (path,) = stack.home.glob(f"agent/agents/*/runs/{run}.*/supervisor.json")
    return psutil.Process(json.loads(path.read_text())[f"{which}_pid"])


# --- standing still for longer than a lease ---------------------------------------------------------------------------


def stand_still(stack: Stack, *, seconds: float) -> None:
    """Freezes the agent, one run's supervisor and another's flow; a third flow holds the GIL. Then all go on.

    The supervisor's run is presumed dead meanwhile, which tells that the time was long enough; no other one is.
    """
    runs: dict[str, dict[str, Any]] = {name: {"seconds": seconds} for name in ("plain", "unsupervised", "stopped")}
    with begun(stack, **runs, holding={"seconds": seconds, "hold": True}) as (client, ids):
        supervisor, flow = part(stack, ids["unsupervised"], "supervisor"), part(stack, ids["stopped"], "flow")
        agent = psutil.Process(stack.agents[0].pid)
        for process in (agent, supervisor, flow):
            process.suspend()
        try:
            stack.start_agent("agent-2")
            wait_until(
                lambda: StateCode(client.get_flow_run(ids["unsupervised"]).state) is not StateCode.RUNNING,
                "the run of the frozen supervisor is given up", seconds=30,
            )  # fmt: skip
            given_up = client.get_flow_run(ids["unsupervised"])
            assert StateCode(given_up.state) is StateCode.CRASHED, "nobody started it again"
            assert given_up.failure.reason == FailureCode.LOST
            for name in ("plain", "stopped", "holding"):
                found = client.get_flow_run(ids[name])
                assert (StateCode(found.state), found.lost) in (
                    (StateCode.RUNNING, False),
                    (StateCode.SUCCESS, False),
                ), f"{name} is vouched for"
            stack.wait_for(ids["plain"], StateCode.SUCCESS)
        finally:
            for process in (agent, supervisor, flow):
                process.resume()
        wait_until(
            lambda: all(StateCode(client.get_flow_run(run).state) is StateCode.SUCCESS for run in ids.values()),
            "all runs end well, also that which was given up",
        )
        for name in ids:
            lines = witness(seen(stack, name))
            assert [line.step for line in lines] == [0, 1], f"{name}: each step ran once"
            assert len({line.pid for line in lines}) == 1, f"{name}: in one process"
        assert {client.get_flow_run(run).attempt for run in ids.values()} == {1}
        wait_until(
            lambda: [one.running for one in stack.agents_seen() if one.online] == [0, 0],
            "the agent that was frozen has noticed all that", seconds=40,
        )  # fmt: skip
        assert stack.agents[0].poll() is None, "and its watchdog did not take it for stuck"


@forms("seconds", quick=5.0, full=60.0)
def test_who_stands_still_loses_nothing_and_nobody_starts_it_twice(
    make_stack: StackFactory, seconds: float, figure: Figure
) -> None:
    """Runs go on beside a frozen agent; their leases are renewed beside a frozen flow and one that holds the GIL."""
    stand_still(make_stack(planted=SHORT), seconds=seconds)
    figure("agent, supervisor and flow frozen, a flow holding the GIL: 1 given up and taken back, 0 lost, 0 doubled")


def test_a_heartbeat_that_needs_the_flow_is_found(make_stack: StackFactory) -> None:
    """The planted twin: leases are renewed only beside a flow that moves."""
    with pytest.raises(AssertionError, match="stopped is vouched for"):
        stand_still(make_stack(planted=f"{SHORT},heartbeat_in_the_flow"), seconds=5.0)


@pytest.mark.full
def test_starting_again_what_is_only_presumed_dead_is_found(make_stack: StackFactory) -> None:
    """The planted twin: a run that nobody vouches for goes back to the queue."""
    with pytest.raises(AssertionError, match=r"nobody started it again|is given up|each step ran once"):
        stand_still(make_stack(planted=f"{SHORT},restart_what_is_lost"), seconds=5.0)


# --- being cancelled while standing still -----------------------------------------------------------------------------


def cancel_what_stands_still(stack: Stack, seconds: float = 90) -> None:
    """Cancels a stopped flow and one that holds the GIL: neither can hear it."""
    with begun(stack, stopped={"seconds": 600}, holding={"seconds": 600, "hold": True}) as (client, ids):
        flows = [part(stack, run, "flow") for run in ids.values()]
        flows[0].suspend()
        for run in ids.values():
            client.cancel_flow_run(run)
        for run in ids.values():
            stack.wait_for(run, StateCode.CANCELLED, seconds=seconds)
        assert not any(flow.is_running() and flow.status() != psutil.STATUS_ZOMBIE for flow in flows)


def test_what_stands_still_is_ended_when_it_is_cancelled(make_stack: StackFactory) -> None:
    """Asked, terminated after the grace period, killed after half of it again."""
    cancel_what_stands_still(make_stack(agent_args=["--grace", "1"]))


@pytest.mark.full
def test_a_supervisor_that_only_asks_is_found(make_stack: StackFactory) -> None:
    """The planted twin."""
    with pytest.raises(AssertionError, match="is finished"):
        cancel_what_stands_still(make_stack(planted="ask_only", agent_args=["--grace", "1"]), seconds=6)


# --- an agent that is alive and does nothing --------------------------------------------------------------------------


def get_stuck(stack: Stack, seconds: float = 90) -> None:
    """Has the agent's event loop wait for ever in the middle of a run."""
    with begun(stack, plain={"seconds": 4}) as (_, ids):
        agent = stack.agents[0]
        agent.send_signal(signal.SIGUSR2)
        wait_until(lambda: agent.poll() is not None, "the stuck agent ends itself", seconds)
        assert agent.returncode == 70
        told = stack.log("agent-1")
        assert "stuck" in told
        assert "most recent call first" in told, "it says where every thread was"
        stack.start_agent()
        found = stack.wait_for(ids["plain"], StateCode.SUCCESS)
        assert found.attempt == 1
        assert [line.step for line in witness(seen(stack, "plain"))] == [0, 1]


def test_a_stuck_agent_ends_itself_and_its_runs_go_on(make_stack: StackFactory) -> None:
    """It leaves with 70 and a trace of every thread; the next agent of its name adopts what it had."""
    get_stuck(make_stack(planted="short_watch,stuck_on_signal"))


@pytest.mark.full
def test_a_watchdog_that_lets_it_be_is_found(make_stack: StackFactory) -> None:
    """The planted twin."""
    with pytest.raises(AssertionError, match="the stuck agent ends itself"):
        get_stuck(make_stack(planted="short_watch,stuck_on_signal,blind_watchdog"), seconds=8)
