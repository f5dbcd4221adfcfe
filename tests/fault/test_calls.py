"""Every call that changes something, under everything that a network can do to a call: its effect happens once.

An agent, its supervisors and a client reach the control plane through the gRPC proxy. Each cell of the matrix has one
fault befall one method in the middle of a run's life; then the run's whole story must be there: each step ran once,
each state and each log line is stored once and in order, under one lease, told by the supervisor itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tests.fault.conftest import PLANTED
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.grpc_proxy import Fault, GrpcProxy, Injection
from tests.support.history import task_states, witness
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.api.v1 import agent_service_pb2, run_reporting_service_pb2
from heliograph.client.client import Client
from heliograph.engine.codes import StateCode
from heliograph.exceptions import HeliographError

pytestmark = pytest.mark.xdist_group("network")

FULL = pytest.mark.full
STEPS = 3
SHORT = "short_deadlines"

TALKATIVE = f'''
import json, os, time
from heliograph import Flow, Parameter, context, task

@task
def step(witness, number, seconds):
    """Writes down that it ran, says so, and takes its time."""
    with open(witness, "a") as file:
        file.write(json.dumps({{"step": number, "seconds": time.time(), "pid": os.getpid()}}) + "\\n")
    context.logger.info("step %d ran", number)
    time.sleep(seconds)

with Flow("talkative") as flow:
    witness, seconds = Parameter("witness"), Parameter("seconds", default=0.02)
    before = None
    for number in range({STEPS}):
        before = step(witness, number, seconds, upstream_tasks=[before] if before else None)
'''


@dataclass(frozen=True)
class Cell:
    """One method and one fault.

    Attributes:
        method: Name of the method.
        fault: What befalls it.
        options: More of the injection.
        first: Faults that make the method be called at all.
        epochs: Most leases that the run may have. More than one where the fault takes the first: yet one start.
    """

    method: str
    fault: Fault
    options: dict[str, Any] = field(default_factory=dict)
    first: tuple[tuple[str, Fault, dict[str, Any]], ...] = ()
    epochs: int = 1

    def __str__(self) -> str:
        words = [self.method, self.fault.name]
        if "status" in self.options:
            words.append(self.options["status"].name)
        return " ".join([*words, *(str(number) for key, number in self.options.items() if key in ("times", "skip"))])


def has_events(message: bytes) -> bool:
    """True for a batch with events: the first contact and renewals have none."""
    return bool(run_reporting_service_pb2.RunEventBatch.FromString(message).events)


LATE = {"seconds": 2.5}
"""Later than the deadline of 1.5 s."""

NO_STREAMS = (("StreamRunEvents", Fault.ANSWERED, {"status": grpc.StatusCode.UNIMPLEMENTED}),)
NOT_ACCEPTED = (("AcceptFlowRun", Fault.EATEN, {"times": 100}),)

PERIODIC = ("LeaseFlowRuns", "HeartbeatAgent")
"""Called also when there is no run."""

_CALLS: dict[str, dict[str, Any]] = {
    "LeaseFlowRuns": {"answers": bool},
    "AcceptFlowRun": {},
    "HeartbeatAgent": {},
    "ReportFlowRunExit": {},
    "WriteLogEntries": {},
    "StreamRunEvents": {"only": has_events},
    "ReportRunEvents": {"only": has_events},
    "ReleaseFlowRun": {},
}
_FAULTS: tuple[tuple[Fault, dict[str, Any]], ...] = (
    (Fault.EATEN, {}),
    (Fault.EATEN, {"times": 3}),
    (Fault.HELD, {}),
    (Fault.DUPLICATED, {}),
    (Fault.ECHOED, {"seconds": 0.3}),
    (Fault.DELAYED, {"seconds": 0.3}),
    (Fault.DELAYED, LATE),
    (Fault.OVERTAKEN, {}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.UNAVAILABLE, "times": 3}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.RESOURCE_EXHAUSTED, "times": 2}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.UNIMPLEMENTED, "times": 2}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.PERMISSION_DENIED, "times": 2}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.NOT_FOUND, "times": 2}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.INTERNAL, "times": 2}),
)


def cell(method: str, fault: Fault, **options: Any) -> Cell:
    """Makes a cell, with what its method needs."""
    first = {"ReportRunEvents": NO_STREAMS, "ReleaseFlowRun": NOT_ACCEPTED}.get(method, ())
    # What is given back is leased again: it is what a release is for.
    epochs = 2 if method == "ReleaseFlowRun" else 1
    return Cell(method, fault, {**_CALLS[method], **options}, first, epochs)


def is_empty(message: bytes) -> bool:
    """True for an answer that gives no leases."""
    return not agent_service_pb2.LeaseFlowRunsResponse.FromString(message).leases


# Each poll comes to the server once more when it was answered with nothing, and waits there for runs in front of the
# agent's next one.
BELATED = cell("LeaseFlowRuns", Fault.ECHOED, seconds=1.9, times=100, answers=is_empty)

ALL = (
    *(cell(method, fault, **options) for method in _CALLS for fault, options in _FAULTS),
    BELATED,
    *(cell(method, Fault.DUPLICATED, times=3) for method in ("StreamRunEvents", "ReportRunEvents", *PERIODIC)),
)

SELECTION = (
    cell("LeaseFlowRuns", Fault.EATEN),
    BELATED,
    cell("AcceptFlowRun", Fault.DUPLICATED),
    cell("AcceptFlowRun", Fault.ANSWERED, status=grpc.StatusCode.UNIMPLEMENTED, times=2),
    cell("StreamRunEvents", Fault.EATEN, times=3),
    cell("StreamRunEvents", Fault.HELD),
    cell("StreamRunEvents", Fault.DUPLICATED, times=3),
    cell("StreamRunEvents", Fault.OVERTAKEN),
    cell("ReportRunEvents", Fault.EATEN),
    cell("WriteLogEntries", Fault.DELAYED, **LATE),
    cell("ReportFlowRunExit", Fault.ANSWERED, status=grpc.StatusCode.NOT_FOUND, times=2),
    cell("ReleaseFlowRun", Fault.EATEN),
)
"""One strong cell of each fault, and of each method."""


@dataclass(frozen=True)
class Network:
    """A control plane, a proxy in front of it, and a client that does not go through the proxy."""

    stack: Stack
    proxy: GrpcProxy
    client: Client


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """No agent yet: each test has one of its own."""
    stack = Stack(tmp_path_factory.mktemp("network"))
    stack.environment |= {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": SHORT}
    try:
        stack.start_control_plane()
        stack.register(TALKATIVE)
        token = stack.environment["HELIOGRAPH__CLIENT__TOKEN"]
        with GrpcProxy(stack.address) as proxy, Client(stack.address, token, timeout_seconds=20) as client:
            stack.agents_address = proxy.address
            yield Network(stack, proxy, client)
    finally:
        stack.stop()


@contextmanager
def agent(network: Network, planted: str = "", *, unharmed: bool = True) -> Iterator[str]:
    """An agent behind the proxy, with a planted bug; killed at the end. Faults wait for it where it is not unharmed."""
    if unharmed:
        network.proxy.clear()
    name = f"agent-{planted or len(network.stack.agents)}"
    network.stack.environment["HELIOGRAPH_PLANTED_BUG"] = ",".join(filter(None, (SHORT, "short_accepts", planted)))
    process = network.stack.start_agent(name)
    try:
        yield name
    finally:
        network.proxy.clear()
        process.kill()
        process.wait()


def story(network: Network, found: Any, name: str, *, epochs: int) -> None:
    """Checks that all of a run happened once, and is stored once and in order."""
    stack = network.stack
    run = found.name.rpartition("/")[2]
    assert [line.step for line in witness(stack.root / f"{name}.jsonl")] == list(range(STEPS)), "each step ran once"
    assert found.attempt == 1, f"it was started {found.attempt} times"
    entries = task_states(stack, run)
    assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries}), "in order, once"
    steps = [(entry.slug, entry.state) for entry in entries if entry.slug.startswith("step")]
    for state in (StateCode.RUNNING, StateCode.SUCCESS):
        slugs = [slug for slug, seen in steps if seen is state]
        assert len(slugs) == len(set(slugs)) == STEPS, f"{state.name} of each step is stored once: {steps}"
    assert {entry.epoch for entry in entries} == {epochs}, "no more leases than the fault makes necessary"
    said = [entry.message for entry in network.client.list_logs(run) if "ran" in entry.message]
    assert said == [f"step {number} ran" for number in range(STEPS)], f"each line is there once, in order: {said}"
    assert found.missing_events == 0
    for log in stack.home.glob(f"agent/agents/*/runs/{run}.*/supervisor.log"):
        assert "refuses this run's token" not in log.read_text(), "the supervisor's token was good to the end"


def inject(proxy: GrpcProxy, cell: Cell, **more: Any) -> Injection:
    """Prepares the faults of a cell; returns that which the cell is about."""
    proxy.clear()
    for method, fault, options in cell.first:
        proxy.inject(method, fault, **options)
    return proxy.inject(cell.method, cell.fault, **cell.options, **more)


def befall(network: Network, cell: Cell, name: str, seconds: float = 120.0) -> None:
    """Has a run suffer one cell's fault."""
    stack, proxy = network.stack, network.proxy
    about: list[bytes] = []
    # An earlier run may be given back once more, when its answer was lost: that is not what this is about.
    more = {"only": lambda message: any(run in message for run in about)} if cell.method == "ReleaseFlowRun" else {}
    injection = inject(proxy, cell, **more)
    if cell.method in PERIODIC and cell.fault not in (Fault.EATEN, Fault.HELD, Fault.ECHOED):
        wait_until(injection.happened.is_set, "the fault befell", seconds=30)  # the next one has to do with the run
    if cell is BELATED:
        wait_until(lambda: injection.hits > 1, "a late poll waits in front of the agent's", seconds=60)
    run = network.client.create_flow_run(f"{PROJECT}/talkative", {"witness": str(stack.root / f"{name}.jsonl")})
    about.append(run.encode())
    if cell.method == "ReleaseFlowRun":  # what made the release necessary is over
        wait_until(injection.happened.is_set, "the lease is given back", seconds=60)
        proxy.clear()
    found = stack.wait_for(run, StateCode.SUCCESS, seconds=seconds)
    # A duplicate is no reason to call again, and a stream that is not known is not tried again at once.
    once = cell.fault in (Fault.DUPLICATED, Fault.ECHOED) or injection.status is grpc.StatusCode.UNIMPLEMENTED
    wait_until(lambda: injection.hits >= (1 if once else injection.times), "the fault befell", seconds=30)
    story(network, found, name, epochs=cell.epochs)


def befall_some(network: Network, cell: Cell, name: str) -> None:
    """Has three runs suffer, where the mistake is a matter of who waits in front of whom."""
    for number in range(3):
        befall(network, cell, f"{name}-{number}", seconds=8)


@forms("cells", quick=(SELECTION,), full=(ALL,), seconds=3600)
def test_every_call_of_agent_and_supervisor_takes_effect_once(
    network: Network, cells: tuple[Cell, ...], figure: Figure
) -> None:
    """Lease, accept, heartbeat, events by stream and by single calls, log lines, exit, release, times all faults."""
    before, failures = sum(network.proxy.calls.values()), []
    with agent(network) as name:
        for number, one in enumerate(cells):
            try:
                befall(network, one, f"{name}-{number}")
            except (AssertionError, HeliographError) as error:
                failures.append(f"{one}: {error}")
        assert not failures, "\n".join([*failures, network.stack.log(name)[-5000:]])
        network.proxy.clear()
        wait_until(
            lambda: [seen.running for seen in network.stack.agents_seen() if seen.name == f"agents/{name}"] == [0],
            "its slots are free", seconds=40,
        )  # fmt: skip
    calls = sum(network.proxy.calls.values()) - before
    figure(f"{len(cells)} faults of calls, {calls} calls: 0 lost, 0 doubled, 0 out of order")


@pytest.mark.parametrize(
    ("planted", "cell"),
    [
        pytest.param("number_anew", cell("StreamRunEvents", Fault.EATEN), id="number_anew"),
        pytest.param("new_request_ids", cell("LeaseFlowRuns", Fault.EATEN), id="new_request_ids", marks=FULL),
        pytest.param("forget_empty_polls", BELATED, id="forget_empty_polls"),
        pytest.param("no_deadlines", cell("AcceptFlowRun", Fault.HELD), id="no_deadlines", marks=FULL),
        pytest.param("no_ack_deadline", cell("StreamRunEvents", Fault.HELD), id="no_ack_deadline", marks=FULL),
        pytest.param(
            "believe_the_balancer",
            cell("AcceptFlowRun", Fault.ANSWERED, status=grpc.StatusCode.NOT_FOUND),
            id="believe_the_balancer",
        ),
    ],
)
def test_mistakes_about_calls_are_found(network: Network, planted: str, cell: Cell) -> None:
    """The planted twins: what is sent again is numbered or named anew, is waited for for ever, or by the wrong one."""
    with agent(network, planted), pytest.raises(AssertionError, match=r"is finished|is stored once|is CRASHED|started"):
        befall_some(network, cell, planted)


REGISTER = tuple(Cell("RegisterAgent", fault, options) for fault, options in _FAULTS)
"""Each with an agent of its own: it registers when it starts."""


@forms(
    "cells",
    quick=((Cell("RegisterAgent", Fault.EATEN), Cell("RegisterAgent", Fault.DELAYED, LATE)),),
    full=(REGISTER,),
)
def test_an_agent_whose_registration_suffers_is_there_once_and_works(
    network: Network, cells: tuple[Cell, ...], figure: Figure
) -> None:
    """It registers under one name however often it takes, then takes a run and tells its whole story."""
    for number, one in enumerate(cells):
        injection = inject(network.proxy, one)
        with agent(network, unharmed=False) as name:
            wait_until(lambda injection=injection: injection.happened.is_set(), f"{one}: it befell", seconds=60)  # type: ignore[misc]
            given = {"witness": str(network.stack.root / f"registered-{number}.jsonl")}
            run = network.client.create_flow_run(f"{PROJECT}/talkative", given)
            story(network, network.stack.wait_for(run, StateCode.SUCCESS), f"registered-{number}", epochs=1)
            assert [seen.name for seen in network.stack.agents_seen()].count(f"agents/{name}") == 1, "it is there once"
    figure(f"{len(cells)} faults of registrations: each agent is there once, and works")


def test_an_agent_that_is_forbidden_leaves_and_says_why(network: Network) -> None:
    """403 from whatever stands between, again and again: no limbo, but exit code 4 and a clear line."""
    with agent(network) as name:
        process = network.stack.agents[-1]
        for method in ("LeaseFlowRuns", "HeartbeatAgent"):
            network.proxy.inject(method, Fault.ANSWERED, status=grpc.StatusCode.PERMISSION_DENIED, times=100)
        wait_until(lambda: process.poll() is not None, "the agent leaves", seconds=60)
        assert process.returncode == 4
        assert "refuses this agent's token" in network.stack.log(name)
