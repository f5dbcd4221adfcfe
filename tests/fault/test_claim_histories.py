"""Claims, leases and events over gRPC look as if they had come one after another, though answers are lost, requests
arrive twice and the control plane is killed: histories of concurrent clients, checked run by run.

Over the store itself, and against planted bugs: `tests/contract/store/test_linearizability.py`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.contract.store import variants
from tests.contract.store.helpers import Clock
from tests.contract.store.histories import MOST, NoAnswerError, NotMadeError, one_command, record
from tests.support.control_plane import ControlPlaneProcess, channel, control_plane, control_plane_process
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.grpc_proxy import Fault, GrpcProxy
from tests.support.scene import Api, bundle, flow_event, graph, task_event

from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.api.v1 import flow_service_pb2 as flows_pb
from heliograph.api.v1 import project_service_pb2 as projects_pb
from heliograph.api.v1 import run_reporting_service_pb2 as reporting_pb
from heliograph.api.v1 import run_reporting_service_pb2_grpc as reporting_grpc
from heliograph.client.errors import is_from_control_plane, to_error
from heliograph.engine.codes import StateCode
from heliograph.exceptions import (
    DeadlineExceededError,
    IllegalTransitionError,
    LeaseLostError,
    NotFoundError,
    SequenceGapError,
    UnauthenticatedError,
    UnavailableError,
)
from heliograph_control_plane.store import events, leases
from heliograph_control_plane.store.records import RunCommand

WEIGHTS = (4, 14, 16, 22, 10, 8, 6, 4, 0, 0, 10)
"""Of `histories.STORE_WEIGHTS`, without what an operator and the reaper do: time is too short for it."""
SPOILED = 0.08
"""Part of the calls that suffer a fault."""
SECONDS = 30
PLANTED = Path(__file__).parent / "planted"


class Through:
    """The control plane as clients see it."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token


class GrpcTarget:
    """The services, through a proxy that eats answers and doubles requests.

    Args:
        stack: Closes the channels.
        proxy: What they go through.
        token: The administrator's token.
        seed: Decides which calls suffer.
        up: Set while the control plane runs.
        answered: Called after each answer.
    """

    def __init__(
        self,
        stack: ExitStack,
        proxy: GrpcProxy,
        token: str,
        seed: int,
        up: threading.Event,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self.api = Api(stack, Through(proxy.address, token), token)
        self.spoiled = 0
        self._proxy, self._up, self._answered = proxy, up, answered
        self._stack = stack
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._alike: defaultdict[bytes, threading.Lock] = defaultdict(threading.Lock)
        self._tokens: dict[tuple[str, int], str] = {}
        self._stubs: dict[str, Any] = {}
        self._own = threading.local()

    def doubled(self) -> bool:
        """See `Target`."""
        return bool(self._own.doubled)

    def call(self, name: str, run: str, **given: Any) -> Any:
        """See `Target`."""
        self._own.doubled = False
        method: Callable[..., Any] = getattr(self, f"_{name}")
        try:
            return method(run, **given)
        except LeaseLostError:
            return "lost"
        except NotFoundError:
            return "not found"  # nothing that was made is: no order of the calls explains it
        except IllegalTransitionError:
            # An acceptance is refused when its token is in use: it was accepted.
            return "accepted" if name == "accept" else "refused"
        except SequenceGapError as error:
            return f"gap {error.metadata['expected_sequence']}"
        except UnauthenticatedError:
            # The token of a lease that was given back ends with its run, and a control plane that was started anew
            # mints another one in place of an unused one. One of two that arrived may have been in time all the same.
            raise (NoAnswerError if self._own.doubled else NotMadeError) from None
        except (UnavailableError, DeadlineExceededError):
            raise NoAnswerError from None

    def _ask(self, stub: Any, method: str, request: Any, *, fault: bool = True) -> Any:
        """Makes one call; of those that are alike one at a time, so that a fault meets the one it is meant for."""
        content = request.SerializeToString()
        with self._lock:
            alike = self._alike[content]
            spoil = fault and self._random.random() < SPOILED
            kind = self._random.choice((Fault.EATEN, Fault.DUPLICATED))
        with alike:
            if spoil:
                self._proxy.inject(method, kind, only=lambda request: request == content)
                self._own.doubled = kind is Fault.DUPLICATED
                self.spoiled += 1
            try:
                answer = getattr(stub, method)(request, timeout=SECONDS)
            except grpc.RpcError as error:
                if is_from_control_plane(error):
                    raise to_error(error) from None
                assert self._up.wait(120), "the control plane came back"
                raise NoAnswerError from None
            self._answered()
            return answer

    def _create(self, _: str, request: str) -> str:
        new = runs_pb.CreateFlowRunRequest(parent="projects/p", flow="projects/p/flows/etl", request_id=request)
        return str(self._ask(self.api.runs, "CreateFlowRun", new).name)

    def _claim(self, _: str, agent: str, request: str) -> dict[str, int]:
        wanted = agents_pb.LeaseFlowRunsRequest(
            agent=f"agents/{agent}", request_id=request, max_runs=MOST, wait=Duration()
        )
        answer = self._ask(self.api.agents, "LeaseFlowRuns", wanted)
        return {lease.flow_run.name: lease.epoch for lease in answer.leases}

    def _accept(self, run: str, agent: str, epoch: int) -> str:
        wanted = agents_pb.AcceptFlowRunRequest(agent=f"agents/{agent}", flow_run=run, epoch=epoch)
        self._tokens[run, epoch] = self._ask(self.api.agents, "AcceptFlowRun", wanted).run_token
        return "accepted"

    def _release(self, run: str, agent: str, epoch: int) -> str:
        wanted = agents_pb.ReleaseFlowRunRequest(agent=f"agents/{agent}", flow_run=run, epoch=epoch)
        return StateCode(self._ask(self.api.agents, "ReleaseFlowRun", wanted).state).name

    def _exit(self, run: str, agent: str, epoch: int) -> str:
        wanted = agents_pb.ReportFlowRunExitRequest(agent=f"agents/{agent}", flow_run=run, epoch=epoch)
        return StateCode(self._ask(self.api.agents, "ReportFlowRunExit", wanted).state).name

    def _beat(self, run: str, agent: str, epoch: int) -> str:
        held = agents_pb.HeldRun(flow_run=run, epoch=epoch, renew=True)
        wanted = agents_pb.HeartbeatAgentRequest(agent=f"agents/{agent}", runs=[held])
        commands = self._ask(self.api.agents, "HeartbeatAgent", wanted).commands
        return one_command([_word(one.command) for one in commands])

    def _send(self, run: str, epoch: int, first: int, events: tuple[str, ...]) -> str:
        token = self._tokens.get((run, epoch))
        if token is None:
            raise NotMadeError
        with self._lock:
            if token not in self._stubs:
                made = self._stack.enter_context(channel(self._proxy.address, token))
                self._stubs[token] = reporting_grpc.RunReportingServiceStub(made)
            stub = self._stubs[token]
        content = [flow_event(name) if name else task_event(0, "RUNNING") for name in events]
        batch = reporting_pb.RunEventBatch(flow_run=run, epoch=epoch, first_sequence=first, events=content)
        ack = self._ask(stub, "ReportRunEvents", batch)
        return f"acked {ack.acked_sequence} {_word(ack.command)}"

    def _cancel(self, run: str) -> str:
        wanted = runs_pb.CancelFlowRunRequest(name=run)
        return StateCode(self._ask(self.api.runs, "CancelFlowRun", wanted).state).name

    def _get(self, run: str) -> tuple[Any, ...]:
        found = self._ask(self.api.runs, "GetFlowRun", runs_pb.GetFlowRunRequest(name=run), fault=False)
        return (StateCode(found.state).name, found.epoch, found.attempt, found.last_sequence, False)


def _word(command: int) -> str:
    """Returns a command as `lease_spec` has it."""
    name = agents_pb.Command.Name(command).removeprefix("COMMAND_")  # type: ignore[arg-type]
    return "NONE" if name == "UNSPECIFIED" else name


def prepare(api: Api) -> None:
    """Makes a flow to run."""
    api.projects.CreateProject(projects_pb.CreateProjectRequest(project_id="p"))
    new = flows_pb.RegisterFlowVersionRequest(parent="projects/p", flow_id="etl", graph=graph("only"), bundle=bundle())
    api.flows.RegisterFlowVersion(new)


def insist(up: threading.Event, call: Callable[[], object]) -> None:
    """Repeats a call until it is answered: the last kill may be a moment ago."""
    for _ in range(600):
        assert up.wait(120), "the control plane came back"
        try:
            call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the control plane does not answer")


def histories(
    address: str,
    token: str,
    count: int,
    clients: int,
    calls: int,
    up: threading.Event,
    *,
    answered: Callable[[], None] = lambda: None,
) -> tuple[str, list[str]]:
    """Records histories until one cannot have happened; returns figures, and what is wrong."""
    made = spoiled = 0
    with GrpcProxy(address) as proxy:
        for seed in range(count):
            with ExitStack() as stack:
                target = GrpcTarget(stack, proxy, token, seed, up, answered)
                if seed == 0:
                    prepare(target.api)

                def register(agent: str, api: Api = target.api) -> None:
                    new = agents_pb.RegisterAgentRequest(agent_id=agent, launcher="local", capacity=8)
                    insist(up, lambda: api.agents.RegisterAgent(new))

                history = record(target, register, seed, clients, calls, weights=WEIGHTS, phases=2)
            proxy.clear()
            made += len(history.calls)
            spoiled += target.spoiled
            if found := history.violations():
                return f"{made:,} calls", found
    return f"{count} histories, {clients} clients, {made:,} calls, {spoiled:,} of them spoiled", []


class Killer:
    """Kills a control plane and starts it again, right after each so many answers.

    Args:
        plane: The control plane.
        up: Set while it runs.
        every: So many answers are between two kills.
    """

    def __init__(self, plane: ControlPlaneProcess, up: threading.Event, every: int) -> None:
        self.kills = 0
        self._plane, self._up, self._every = plane, up, every
        self._answers = 0
        self._over = False
        self._due = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="killer")
        self._thread.start()

    def answered(self) -> None:
        """Counts one answer."""
        with self._due:
            self._answers += 1
            if self._answers >= self._every:
                self._due.notify()

    def stop(self) -> None:
        """Kills no more."""
        with self._due:
            self._over = True
            self._due.notify()
        self._thread.join(120)

    def _work(self) -> None:
        while True:
            with self._due:
                self._due.wait_for(lambda: self._over or self._answers >= self._every)
                if self._over:
                    return
                self._answers = 0
            self._up.clear()
            try:
                self._plane.kill()
                self._plane.start()
            finally:
                self._up.set()
            self.kills += 1


@contextmanager
def killer(plane: ControlPlaneProcess, up: threading.Event, every: int) -> Iterator[Killer]:
    """A killer that is stopped afterwards."""
    made = Killer(plane, up, every)
    try:
        yield made
    finally:
        made.stop()


def calm(folder: Path, count: int, clients: int, calls: int) -> tuple[str, list[str]]:
    """Histories over a control plane that stays, and whose time stands still."""
    up = threading.Event()
    up.set()
    with control_plane(folder) as plane:
        plane.plane.store._database._clock = Clock()  # type: ignore[attr-defined]
        return histories(plane.address, plane.token, count, clients, calls, up)


@forms("count,clients,calls", quick=(4, 6, 60), full=(200, 8, 200), seconds=7_200)
def test_histories_through_a_faulty_network_are_linearizable(
    tmp_path: Path, count: int, clients: int, calls: int, figure: Figure
) -> None:
    told, found = calm(tmp_path, count, clients, calls)
    assert not found, "\n".join(found)
    figure(f"over gRPC: {told}: 0 violations")


def stormy(folder: Path, count: int, clients: int, calls: int, every: int) -> tuple[str, list[str], int]:
    """Histories over a control plane that is killed again and again; and how often it was."""
    up = threading.Event()
    up.set()
    with control_plane_process(folder) as plane, killer(plane, up, every) as kills:
        told, found = histories(plane.address, plane.token, count, clients, calls, up, answered=kills.answered)
    return told, found, kills.kills


@forms("count,clients,calls,every", quick=(2, 6, 60, 150), full=(100, 8, 160, 700), seconds=7_200)
def test_histories_over_kills_of_the_control_plane_are_linearizable(
    tmp_path: Path, count: int, clients: int, calls: int, every: int, figure: Figure
) -> None:
    told, found, kills = stormy(tmp_path, count, clients, calls, every)
    assert not found, "\n".join(found)
    assert kills
    figure(f"over gRPC: {told}, {kills} kills of the control plane: 0 violations")


def test_an_answer_before_the_commit_is_found_by_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: what a control plane that dies had answered, and not yet committed, is lost."""
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", "storm_answer_early")
    _, found, _ = stormy(tmp_path, 10, 6, 20, 25)
    assert found


def test_a_cancellation_that_heartbeats_do_not_tell_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: once a run's supervisor was heard of, its agent hears only that."""
    ask = leases.LeaseStore.heartbeat

    def heartbeat(store: leases.LeaseStore, *given: Any) -> tuple[RunCommand, ...]:
        return ask(store, *given)[:1]

    monkeypatch.setattr(leases.LeaseStore, "heartbeat", heartbeat)
    _, found = calm(tmp_path, 20, 6, 120)
    assert any("beat" in one for one in found)


def test_an_end_that_is_overwritten_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: what came later counts."""
    monkeypatch.setattr(events, "reported_state", variants.overwrite_the_end)
    _, found = calm(tmp_path, 40, 6, 120)
    assert found
