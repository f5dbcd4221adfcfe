"""What people's programs and commands change, under everything that a network can do to a call: it happens once.

The client asks again, with the same request id, when the network says that nobody answered. When no answer comes within
its deadline it says so, and the caller may ask again with an idempotency key of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.fault.planted.bugs import network
from tests.support.cli import Cli
from tests.support.control_plane import control_plane
from tests.support.figures import Figure
from tests.support.grpc_proxy import Fault, GrpcProxy
from tests.support.history import witness
from tests.support.scene import Scene, bundle, graph, unique
from tests.support.stack import wait_until

from heliograph.api.v1 import agent_service_pb2, flow_service_pb2, options_pb2
from heliograph.client import connection
from heliograph.client.client import Client
from heliograph.engine.codes import StateCode
from heliograph.exceptions import DeadlineExceededError
from heliograph_agents import start_code
from heliograph_agents.sealing import derive_key, seal
from heliograph_agents.start_code import Start, collect
from heliograph_control_plane import principals
from heliograph_control_plane.services import agents

pytestmark = pytest.mark.xdist_group("client-calls")


@dataclass(frozen=True)
class World:
    """A control plane, a proxy in front of it, and a client on either side of that."""

    scene: Scene
    proxy: GrpcProxy
    far: Client
    near: Client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """`far` calls through the proxy, `near` does not."""
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane(tmp_path_factory.mktemp("plane")))
        proxy = stack.enter_context(GrpcProxy(plane.address))
        far = stack.enter_context(Client(proxy.address, plane.token, timeout_seconds=10))
        near = stack.enter_context(Client(plane.address, plane.token, timeout_seconds=10))
        far.whoami()
        yield World(Scene(stack, plane), proxy, far, near)


def create_run(world: World) -> Callable[[], None]:
    """Creates a run; there must be one."""
    flow = world.scene.flow(world.scene.project()).name.partition("/versions/")[0]

    def check() -> None:
        assert len(world.near.list_flow_runs(flow=flow)) == 1, "one run was created"

    world.far.create_flow_run(flow)
    return check


def register(world: World) -> Callable[[], None]:
    """Registers a flow; there must be one version."""
    project, flow = world.scene.project(), unique("flow")
    request = flow_service_pb2.RegisterFlowVersionRequest(parent=project, flow_id=flow, graph=graph(), bundle=bundle())

    def check() -> None:
        listed = flow_service_pb2.ListFlowVersionsRequest(parent=f"{project}/flows/{flow}")
        found = world.near.call(world.near.services.flows.ListFlowVersions, listed).flow_versions
        assert len(found) == 1, "one version was registered"

    world.far.call(world.far.services.flows.RegisterFlowVersion, request)
    return check


def create_token(world: World) -> Callable[[], None]:
    """Issues a token; there must be one, and it must be good."""
    name = f"users/{unique('ann')}"

    def check() -> None:
        found = [token for token in world.near.list_tokens() if token.principal == name]
        assert len(found) == 1, "one token was issued"
        with Client(world.near.address, made.secret) as client:
            assert client.whoami().principal == name

    made = world.far.create_token(name, [options_pb2.ROLE_VIEWER])
    return check


def cancel(world: World) -> Callable[[], None]:
    """Cancels a run that waits."""
    run = world.scene.run(world.scene.flow(world.scene.project()).name)

    def check() -> None:
        states = [StateCode(record.state) for record in world.near.list_flow_run_states(run.name)]
        assert states == [StateCode.SCHEDULED, StateCode.CANCELLED], f"it was cancelled once: {states}"

    world.far.cancel_flow_run(run.name)
    return check


ACTS = {
    "CreateFlowRun": create_run,
    "RegisterFlowVersion": register,
    "CreateToken": create_token,
    "CancelFlowRun": cancel,
}
FAULTS: tuple[tuple[Fault, dict[str, Any]], ...] = (
    (Fault.EATEN, {}),
    (Fault.EATEN, {"times": 3}),
    (Fault.DUPLICATED, {}),
    (Fault.ECHOED, {"seconds": 0.1}),
    (Fault.DELAYED, {"seconds": 0.3}),
    (Fault.ANSWERED, {"status": grpc.StatusCode.UNAVAILABLE, "times": 2}),
)


def suffer(world: World, method: str, fault: Fault, options: dict[str, Any]) -> None:
    """Has one act suffer one fault, and checks what came of it once all has arrived."""
    world.proxy.clear()
    before = world.proxy.delivered[method]
    injection = world.proxy.inject(method, fault, **options)
    check = ACTS[method](world)
    assert injection.happened.is_set(), "the fault befell"
    if fault in (Fault.DUPLICATED, Fault.ECHOED):
        wait_until(lambda: world.proxy.delivered[method] == before + 2, "the duplicate arrives")
    check()


@pytest.mark.parametrize("method", ACTS)
def test_what_a_client_changes_happens_once(world: World, method: str, figure: Figure) -> None:
    """Its answer is eaten, once or three times; the request is doubled, at once or later; late; refused on the way."""
    for fault, options in FAULTS:
        suffer(world, method, fault, options)
    figure(f"{method}: {len(FAULTS)} faults, each time one effect")


@pytest.mark.parametrize("method", ["CreateFlowRun", "CreateToken"])
def test_a_client_that_asks_again_with_a_new_request_id_is_found(
    world: World, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin."""
    monkeypatch.setattr(connection.Connection, "call", connection.Connection.call)
    network.BUGS["new_client_request_ids"]["heliograph.client.connection"](connection)
    with pytest.raises(AssertionError, match=r"one run was created|one token was issued"):
        suffer(world, method, Fault.EATEN, {})


def test_no_answer_within_the_deadline_is_said_and_asking_again_by_key_finds_the_run(world: World) -> None:
    """The run was created though nobody heard of it: the same key gives it."""
    flow = world.scene.flow(world.scene.project()).name.partition("/versions/")[0]
    world.proxy.clear()
    with Client(world.proxy.address, world.scene.plane.token, timeout_seconds=1) as client:
        world.proxy.inject("CreateFlowRun", Fault.HELD)
        with pytest.raises(DeadlineExceededError, match="did not answer in time"):
            client.create_flow_run(flow, idempotency_key="monday")
        run = client.create_flow_run(flow, idempotency_key="monday")
    assert [found.name.rpartition("/")[2] for found in world.near.list_flow_runs(flow=flow)] == [run]


# --- an acceptance that arrives twice ---------------------------------------------------------------------------------


def accepted_twice(world: World) -> None:
    """An agent's accept is doubled on the way; the token that the agent heard of must be good."""
    scene = world.scene
    run = scene.run(scene.flow(scene.project()).name, labels=[label := unique("label")], override_labels=True)
    agent = scene.agent(label).name
    (lease,) = [lease for lease in scene.lease(agent, max_runs=100) if lease.flow_run.name == run.name]
    world.proxy.clear()
    world.proxy.inject("AcceptFlowRun", Fault.DUPLICATED)
    request = agent_service_pb2.AcceptFlowRunRequest(agent=agent, flow_run=run.name, epoch=lease.epoch)
    answer = world.far.call(world.far.services.agents.AcceptFlowRun, request)
    with Client(world.near.address, answer.run_token) as client:
        assert client.whoami().principal == run.name, "the run's token is good"


def test_the_token_of_an_acceptance_that_arrives_twice_is_good(world: World) -> None:
    """The second arrival does not replace what the first one's answer said."""
    accepted_twice(world)


def test_a_token_replaced_by_each_arrival_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: every acceptance makes another secret."""
    monkeypatch.setattr(agents, "repeatable_secret", lambda *_: principals.make_secret())
    with pytest.raises(Exception, match=r"no valid token"):
        accepted_twice(world)


# --- a start code whose answers are lost ------------------------------------------------------------------------------


EXCHANGE_FAULTS = [(Fault.EATEN, 3), (Fault.DUPLICATED, 1), (Fault.DELAYED, 1)]


def exchanged_over_a_bad_network(world: World, fault: Fault, times: int) -> None:
    """What a container does with its start code is done to by the network: it has a good token in the end."""
    scene = world.scene
    run = scene.run(scene.flow(scene.project()).name, labels=[label := unique("label")], override_labels=True)
    agent = scene.agent(label).name
    (lease,) = [lease for lease in scene.lease(agent, max_runs=100) if lease.flow_run.name == run.name]
    near = world.near.services.agents
    held = {"agent": agent, "flow_run": run.name, "epoch": lease.epoch}
    world.near.call(near.AcceptFlowRun, agent_service_pb2.AcceptFlowRunRequest(**held))
    key = derive_key("token", "test")
    sealed = seal(key, b'{"launch": "all of it", "files": {}}')
    request = agent_service_pb2.CreateStartCodeRequest(**held, sealed_launch=sealed)
    world.proxy.clear()
    world.proxy.inject("CreateStartCode", fault, times=1)
    code = world.far.call(world.far.services.agents.CreateStartCode, request).start_code
    world.proxy.inject("ExchangeStartCode", fault, times=times)
    found = collect(Start(world.proxy.address, code, key.hex(), seconds=60), tell=lambda _: None)
    assert found.launch == "all of it"
    with Client(world.near.address, found.run_token) as client:
        assert client.whoami().principal == run.name, "the run's token is good"


@pytest.mark.parametrize(("fault", "times"), EXCHANGE_FAULTS, ids=lambda value: getattr(value, "name", str(value)))
def test_a_start_code_is_exchanged_once_whatever_the_network_does(world: World, fault: Fault, times: int) -> None:
    exchanged_over_a_bad_network(world, fault, times)


@pytest.mark.parametrize("planted", ["a token of each exchange's own", "a request id of each try's own"])
def test_a_start_code_that_is_exchanged_anew_is_found(
    world: World, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twins: the answer that was lost cannot be had again."""
    if planted == "a token of each exchange's own":
        monkeypatch.setattr(agents, "repeatable_secret", lambda *_: principals.make_secret())
    else:
        exchange = start_code._exchange

        def anew(start: Start, request: Any) -> Any:
            request.request_id = uuid.uuid4().hex
            return exchange(start, request)

        monkeypatch.setattr(start_code, "_exchange", anew)
    with pytest.raises(Exception, match=r"exchanged before|no valid token"):
        exchanged_over_a_bad_network(world, Fault.EATEN, 1)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_commands_create_one_run_and_follow_it_over_broken_streams(make_stack: StackFactory, tmp_path: Path) -> None:
    """`run --watch`: the answer to the creation is eaten, and both streams break twice: one run, each line once."""
    stack = make_stack()
    stack.register(steps(4))
    seen = tmp_path / "witness.jsonl"
    with GrpcProxy(stack.address) as proxy:
        created = proxy.inject("CreateFlowRun", Fault.EATEN)
        broken = [proxy.inject(method, Fault.EATEN, times=2) for method in ("WatchFlowRuns", "TailLogEntries")]
        far = Cli(
            stack.home,
            HELIOGRAPH__CLIENT__ADDRESS=proxy.address,
            HELIOGRAPH__CLIENT__TOKEN=stack.environment["HELIOGRAPH__CLIENT__TOKEN"],
        )
        told = far("run", "proof/steps", "--param", f"witness={seen}", "--watch").stdout
        assert all(injection.happened.is_set() for injection in (created, *broken))
    assert len(stack.json("runs", "ls")) == 1, "one run was created"
    assert [line.step for line in witness(seen)] == [0, 1, 2, 3]
    assert "Success" in told
    assert uuid.UUID(stack.json("runs", "ls")[0]["name"].rpartition("/")[2])
