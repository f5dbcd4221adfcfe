"""A run's way through the API: created, leased within milliseconds, accepted, reported, cancelled, explained."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.scene import RunningRun, Scene, bundle, flow_event, graph, request_id, task_event, unique
from tests.support.stack import wait_until

from heliograph.api.v1 import (
    agent_service_pb2 as agents_pb,
)
from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    run_reporting_service_pb2 as reporting_pb,
)
from heliograph.api.v1 import (
    states_pb2,
)
from heliograph.api.v1 import (
    task_run_service_pb2 as tasks_pb,
)
from heliograph.client.errors import to_error
from heliograph.exceptions import (
    AlreadyExistsError,
    HeliographError,
    IllegalTransitionError,
    InvalidArgumentError,
    LeaseLostError,
    MissingParameterError,
    NotFoundError,
    RequestIdReusedError,
    SequenceGapError,
    UnknownParameterError,
)
from heliograph_control_plane.store import tokens


class Batches:
    """The upper half of a stream: batches as the test makes them."""

    def __init__(self) -> None:
        self._queue: queue.Queue[reporting_pb.RunEventBatch | None] = queue.Queue()

    def send(self, batch: reporting_pb.RunEventBatch) -> None:
        self._queue.put(batch)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[reporting_pb.RunEventBatch]:
        return iter(self._queue.get, None)


def refused(kind: type[HeliographError]) -> pytest.RaisesExc[BaseException]:
    """Expects a call to be refused with the reason of `kind`."""
    return pytest.RaisesExc(grpc.RpcError, check=lambda error: type(to_error(error)) is kind)


# --- creation -------------------------------------------------------------------------------------------------------


def test_the_same_request_id_gives_the_same_run_and_other_content_is_refused(scene: Scene) -> None:
    flow = scene.flow(scene.project())
    key = request_id()
    first = scene.run(flow.name, request_id=key, run_name="one")
    assert scene.run(flow.name, request_id=key, run_name="one").name == first.name
    assert first.flow_version == flow.name
    assert first.state == states_pb2.STATE_SCHEDULED
    assert first.created_by == "users/admin"
    with refused(RequestIdReusedError):
        scene.run(flow.name, request_id=key, run_name="two")


def test_a_flow_without_version_means_the_newest(scene: Scene) -> None:
    parent, name = scene.project(), unique("flow")
    scene.flow(parent, flow_id=name)
    second = scene.flow(parent, flow_id=name)
    assert second.version == 2
    run = scene.run(f"{parent}/flows/{name}")
    assert run.flow_version == second.name
    assert len(run.run_name.split("-")) == 2


def test_parameters_are_checked_against_the_version(scene: Scene) -> None:
    parameters = (
        flows_pb.ParameterSpec(name="country", required=True),
        flows_pb.ParameterSpec(name="since", has_default=True),
    )
    flow = scene.flow(scene.project(), graph=graph(parameters=parameters)).name
    assert scene.run(flow, parameters_json='{"country": "IT"}').parameters_json == '{"country": "IT"}'
    with refused(MissingParameterError):
        scene.run(flow, parameters_json='{"since": 1}')
    with refused(UnknownParameterError):
        scene.run(flow, parameters_json='{"country": "IT", "contry": 1}')
    with refused(NotFoundError):
        scene.run(flow.replace("versions/1", "versions/2"))


def test_registering_the_same_content_again_makes_no_version(scene: Scene) -> None:
    parent, name, what = scene.project(), unique("flow"), bundle()
    request = flows_pb.RegisterFlowVersionRequest(parent=parent, flow_id=name, graph=graph(), bundle=what)
    first = scene.admin.flows.RegisterFlowVersion(request)
    again = scene.admin.flows.RegisterFlowVersion(request)
    assert (first.created, again.created) == (True, False)
    assert again.flow_version == first.flow_version
    assert first.flow_version.graph == request.graph
    latest = scene.admin.flows.GetFlowVersion(
        flows_pb.GetFlowVersionRequest(name=f"{parent}/flows/{name}/versions/latest")
    )
    assert latest == first.flow_version


def test_creating_a_project_twice_is_no_error_unless_it_differs(scene: Scene) -> None:
    from heliograph.api.v1 import project_service_pb2 as projects_pb

    request = projects_pb.CreateProjectRequest(project_id=unique("project"), description="one")
    assert scene.admin.projects.CreateProject(request) == scene.admin.projects.CreateProject(request)
    request.description = "two"
    with refused(AlreadyExistsError):
        scene.admin.projects.CreateProject(request)


def test_runs_are_listed_in_pages_newest_first(scene: Scene) -> None:
    parent = scene.project()
    flow = scene.flow(parent)
    made = [scene.run(flow.name).name for _ in range(5)]
    seen, token = [], ""
    while True:
        page = scene.admin.runs.ListFlowRuns(runs_pb.ListFlowRunsRequest(parent=parent, page_size=2, page_token=token))
        seen += [run.name for run in page.flow_runs]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    large = '{"text": "' + "x" * 60_000 + '"}'
    big = scene.flow(parent, graph=graph(parameters=(flows_pb.ParameterSpec(name="text"),)))
    for _ in range(40):
        scene.run(big.name, parameters_json=large)
    page = scene.admin.runs.ListFlowRuns(runs_pb.ListFlowRunsRequest(parent=parent, page_size=1000))
    assert page.ByteSize() < 4 * 1024 * 1024
    assert page.next_page_token


# --- leases ---------------------------------------------------------------------------------------------------------


class Poller(threading.Thread):
    """An agent that polls once, in a thread."""

    def __init__(self, scene: Scene, agent: str, seconds: int = 20, api: object = None) -> None:
        super().__init__()
        self._scene, self._agent, self._seconds, self._api = scene, agent, seconds, api
        self.leases: list[agents_pb.FlowRunLease] = []

    def run(self) -> None:
        self.leases = self._scene.lease(self._agent, self._seconds, api=self._api)  # type: ignore[arg-type]

    def park(self) -> None:
        """Starts it and waits until the server has it parked."""
        waiters = self._scene.plane.plane.wakeups._waiters
        before = len(waiters)
        self.start()
        wait_until(lambda: len(waiters) > before, "the poll is parked")


@pytest.mark.usefixtures("hints_only")
def test_a_parked_poll_wakes_for_a_new_run(scene: Scene) -> None:
    project, label = scene.project(), unique("label")
    api = scene.api_as("agent", projects=(project,))
    flow = scene.flow(project, launch=flows_pb.LaunchSummary(labels=[label]))
    poller = Poller(scene, scene.agent(label, api=api).name, api=api)
    other = Poller(scene, scene.agent("other", api=api).name, 1, api=api)
    poller.park()
    other.park()
    run = scene.run(flow.name)
    poller.join(60)
    assert [lease.flow_run.name for lease in poller.leases] == [run.name]
    (lease,) = poller.leases
    assert lease.flow_version.name == flow.name
    assert lease.flow_version.graph.graph_hash
    assert not lease.flow_version.graph.tasks
    assert (lease.attempt, lease.accept_within.seconds) == (1, 30)
    other.join(60)
    assert other.leases == []


@pytest.mark.usefixtures("hints_only")
def test_a_poll_wakes_when_the_time_of_a_run_comes(scene: Scene) -> None:
    project = scene.project()
    api = scene.api_as("agent", projects=(project,))
    flow = scene.flow(project)
    poller = Poller(scene, scene.agent(api=api).name, api=api)
    poller.park()
    when = Timestamp()
    when.FromMicroseconds(int((time.time() + 0.8) * 1e6))
    scene.run(flow.name, scheduled_time=when)
    poller.join(60)
    assert len(poller.leases) == 1
    assert time.time() >= when.ToMicroseconds() / 1e6


def accept_beside_a_stream(scene: Scene) -> None:
    """Accepts a run again while its first batch is under way; the stream must not notice."""
    run = scene.running()
    up = Batches()
    down = run.api.reporting.StreamRunEvents(iter(up))
    up.send(run.batch(1, flow_event("RUNNING")))
    assert next(down).acked_sequence == 1
    accept = agents_pb.AcceptFlowRunRequest(agent=run.agent, flow_run=run.name, epoch=run.epoch)
    assert run.agent_api.agents.AcceptFlowRun(accept).run_token == run.token
    up.send(run.batch(2, flow_event("SUCCESS")))
    try:
        assert next(down).acked_sequence == 2
    finally:
        up.end()


def test_an_acceptance_that_arrives_twice_cuts_nobody_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second arrival may come when the token is in use, and before that is noted."""
    monkeypatch.setattr(tokens, "note_run_use", lambda *_: None)
    accept_beside_a_stream(scene)


def test_an_acceptance_that_cuts_off_its_own_run_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: whatever secret a call was made with, it ends when the token is given again."""
    authenticator = scene.plane.plane.authenticator
    forget = authenticator.forget
    monkeypatch.setattr(tokens, "note_run_use", lambda *_: None)
    monkeypatch.setattr(authenticator, "forget", lambda token_id, **_: forget(token_id))
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        accept_beside_a_stream(scene)


def test_two_parked_polls_get_two_runs(scene: Scene) -> None:
    project = scene.project()
    api = scene.api_as("agent", projects=(project,))
    flow = scene.flow(project)
    pollers = [Poller(scene, scene.agent(api=api).name, api=api) for _ in range(3)]
    for poller in pollers:
        poller.park()
    made = {scene.run(flow.name).name for _ in range(3)}
    for poller in pollers:
        poller.join(60)
    assert {lease.flow_run.name for poller in pollers for lease in poller.leases} == made


def test_the_same_poll_again_gets_the_same_lease(scene: Scene) -> None:
    project = scene.project()
    api = scene.api_as("agent", projects=(project,))
    agent = scene.agent(api=api)
    for _ in range(2):
        scene.run(scene.flow(project).name)
    key = request_id()
    first = scene.lease(agent.name, api=api, request_id=key)
    again = scene.lease(agent.name, api=api, request_id=key)
    assert [(i.flow_run.name, i.epoch) for i in first] == [(i.flow_run.name, i.epoch) for i in again]


def test_an_accepted_lease_is_fenced_and_accepting_it_again_gives_the_same_token(scene: Scene) -> None:
    run = scene.running()
    assert run.now().state == states_pb2.STATE_SUBMITTED
    assert run.now().agent == run.agent
    request = agents_pb.AcceptFlowRunRequest(agent=run.agent, flow_run=run.name, epoch=run.epoch)
    second = run.agent_api.agents.AcceptFlowRun(request)
    assert (second.lease.seconds, second.renew_every.seconds) == (60, 15)
    assert run.report(1).incarnation == second.incarnation
    run.api = scene.api(second.run_token)
    assert run.report(1).incarnation == second.incarnation
    request.epoch += 7
    with refused(LeaseLostError):
        run.agent_api.agents.AcceptFlowRun(request)


def test_a_released_run_returns_to_the_queue_or_crashes(scene: Scene) -> None:
    project = scene.project()
    api = scene.api_as("agent", projects=(project,))
    agent = scene.agent(api=api)
    run = scene.run(scene.flow(project).name)
    (lease,) = scene.lease(agent.name, api=api)
    back = agents_pb.ReleaseFlowRunRequest(agent=agent.name, flow_run=run.name, epoch=lease.epoch)
    assert api.agents.ReleaseFlowRun(back).state == states_pb2.STATE_SCHEDULED
    (again,) = scene.lease(agent.name, 5, api=api)
    assert again.epoch > lease.epoch
    failed = agents_pb.ReleaseFlowRunRequest(agent=agent.name, flow_run=run.name, epoch=again.epoch)
    failed.failure.reason = states_pb2.FAILURE_REASON_POLICY
    crashed = api.agents.ReleaseFlowRun(failed)
    assert crashed.state == states_pb2.STATE_CRASHED
    assert crashed.failure.reason == states_pb2.FAILURE_REASON_POLICY


def test_an_exit_without_an_end_is_a_crash_and_its_report_is_idempotent(scene: Scene) -> None:
    run = scene.running()
    run.report(1, flow_event("RUNNING"))
    request = agents_pb.ReportFlowRunExitRequest(agent=run.agent, flow_run=run.name, epoch=run.epoch)
    request.failure.reason = states_pb2.FAILURE_REASON_SIGNAL
    request.failure.signal = 9
    for _ in range(2):
        ended = run.agent_api.agents.ReportFlowRunExit(request)
        assert ended.state == states_pb2.STATE_CRASHED
        assert ended.failure.signal == 9


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_are_kept_once_and_in_order(scene: Scene) -> None:
    run = scene.running()
    assert run.report(1, flow_event("RUNNING"), task_event(0, "RUNNING")).acked_sequence == 2
    assert run.report(1, flow_event("RUNNING"), task_event(0, "RUNNING")).acked_sequence == 2
    assert run.report(2, task_event(0, "RUNNING"), task_event(0, "SUCCESS")).acked_sequence == 3
    with pytest.raises(grpc.RpcError) as caught:
        run.report(9, task_event(1, "RUNNING"))
    error = to_error(caught.value)
    assert isinstance(error, SequenceGapError)
    assert error.metadata["expected_sequence"] == "4"
    run.report(4, task_event(1, "SUCCESS", result_stored=True), flow_event("SUCCESS"))
    ended = run.now()
    assert (ended.state, ended.last_sequence) == (states_pb2.STATE_SUCCESS, 5)
    states = scene.admin.task_runs.ListTaskRunStates(tasks_pb.ListTaskRunStatesRequest(parent=run.name)).states
    assert [(state.sequence, state.task, states_pb2.State.Name(state.state)) for state in states] == [
        (2, 0, "STATE_RUNNING"), (3, 0, "STATE_SUCCESS"), (4, 1, "STATE_SUCCESS"),
    ]  # fmt: skip
    tasks = scene.admin.task_runs.ListTaskRuns(tasks_pb.ListTaskRunsRequest(parent=run.name)).task_runs
    assert [(task.task_slug, task.result_stored) for task in tasks] == [("extract", False), ("load", True)]
    one = scene.admin.task_runs.GetTaskRun(tasks_pb.GetTaskRunRequest(name=tasks[1].name))
    assert one == tasks[1]
    history = scene.admin.runs.ListFlowRunStates(runs_pb.ListFlowRunStatesRequest(parent=run.name)).states
    assert [states_pb2.State.Name(state.state).removeprefix("STATE_") for state in history][-2:] == [
        "RUNNING",
        "SUCCESS",
    ]


def test_a_writer_of_an_older_epoch_is_told_that_its_lease_is_lost(scene: Scene) -> None:
    run = scene.running()
    stale = run.batch(1, flow_event("RUNNING"), epoch=run.epoch + 1)
    with refused(LeaseLostError):
        run.api.reporting.ReportRunEvents(stale)
    with refused(LeaseLostError):
        run.agent_api.reporting.ReportRunEvents(run.batch(1, epoch=run.epoch + 1, agent=run.agent))


def test_the_agent_reports_for_a_run_whose_supervisor_died(scene: Scene) -> None:
    run = scene.running()
    run.report(1, flow_event("RUNNING"))
    ack = run.agent_api.reporting.ReportRunEvents(run.batch(2, task_event(0, "SUCCESS"), agent=run.agent))
    assert ack.acked_sequence == 2


def test_a_stream_acknowledges_in_order(scene: Scene) -> None:
    run = scene.running()
    batches = [run.batch(1, flow_event("RUNNING"))]
    batches += [run.batch(2 + 10 * n, *[task_event(0, "RUNNING")] * 10) for n in range(50)]
    acks = [ack.acked_sequence for ack in run.api.reporting.StreamRunEvents(iter(batches))]
    assert acks == [1, *range(11, 502, 10)]


def test_a_stream_ends_with_the_reason_when_a_batch_is_refused(scene: Scene) -> None:
    run = scene.running()
    up = Batches()
    down = run.api.reporting.StreamRunEvents(iter(up))
    up.send(run.batch(1, flow_event("RUNNING")))
    assert next(down).acked_sequence == 1
    up.send(run.batch(5, task_event(0, "RUNNING")))
    with refused(SequenceGapError):
        next(down)
    up.end()
    other = scene.running()
    mixed = iter([run.batch(2), other.batch(1)])
    with pytest.raises(grpc.RpcError) as caught:
        list(run.api.reporting.StreamRunEvents(mixed))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.usefixtures("hints_only")
def test_a_cancel_comes_down_the_stream_without_a_batch_going_up(scene: Scene) -> None:
    run = scene.running()
    up = Batches()
    down = run.api.reporting.StreamRunEvents(iter(up))
    up.send(run.batch(1, flow_event("RUNNING")))
    assert next(down).command == agents_pb.COMMAND_UNSPECIFIED
    asked = scene.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=run.name))
    assert asked.state == states_pb2.STATE_CANCELLING
    assert next(down).command == agents_pb.COMMAND_CANCEL
    assert scene.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=run.name)).cancel_requested
    beat = agents_pb.HeartbeatAgentRequest(agent=run.agent)
    beat.runs.add(flow_run=run.name, epoch=run.epoch)
    commands = run.agent_api.agents.HeartbeatAgent(beat).commands
    assert [(c.flow_run, c.command) for c in commands] == [(run.name, agents_pb.COMMAND_CANCEL)]
    up.send(run.batch(2, flow_event("CANCELLED")))
    assert next(down).acked_sequence == 2
    up.end()
    assert list(down) == []
    assert run.now().state == states_pb2.STATE_CANCELLED
    with refused(IllegalTransitionError):
        finished = scene.running()
        finished.report(1, flow_event("RUNNING"), flow_event("SUCCESS"))
        scene.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=finished.name))


def test_a_run_that_has_not_started_is_cancelled_at_once(scene: Scene) -> None:
    run = scene.run(scene.flow(scene.project()).name)
    cancelled = scene.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=run.name))
    assert cancelled.state == states_pb2.STATE_CANCELLED


def test_the_token_of_a_finished_run_may_only_report_late(scene: Scene) -> None:
    run = scene.running()
    run.report(1, flow_event("RUNNING"), flow_event("SUCCESS"))
    assert run.report(1, flow_event("RUNNING"), flow_event("SUCCESS")).acked_sequence == 2
    with pytest.raises(grpc.RpcError) as caught:
        run.api.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=run.name))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_failures_cross_as_kind_and_place(scene: Scene) -> None:
    run = scene.running()
    failure = states_pb2.Failure(
        reason=states_pb2.FAILURE_REASON_EXCEPTION,
        exception_class="builtins.ZeroDivisionError",
        frames=[states_pb2.Frame(path="flow.py", line=7, function="divide")],
        error_id="abc.1",
    )
    run.report(
        1, flow_event("RUNNING"), task_event(1, "FAILED", failure=failure), flow_event("FAILED", failure=failure)
    )
    answer = scene.admin.runs.ExplainFlowRun(runs_pb.ExplainFlowRunRequest(name=run.name))
    assert answer.situation == runs_pb.SITUATION_FINISHED
    assert [(t.task_slug, t.failure) for t in answer.failed_task_runs] == [("load", failure)]
    assert run.now().failure == failure


# --- explanations ---------------------------------------------------------------------------------------------------


def explained(scene: Scene, run: RunningRun | runs_pb.FlowRun) -> runs_pb.ExplainFlowRunResponse:
    return scene.admin.runs.ExplainFlowRun(runs_pb.ExplainFlowRunRequest(name=run.name))


def test_why_a_run_waits(scene: Scene) -> None:
    project, label, host = scene.project(), unique("label"), unique("host")
    flow = scene.flow(
        project, launch=flows_pb.LaunchSummary(labels=[label], launcher="docker"), bundle=bundle(host=host)
    )
    later = Timestamp(seconds=int(time.time()) + 3600)
    assert explained(scene, scene.run(flow.name, scheduled_time=later)).situation == runs_pb.SITUATION_NOT_DUE
    run = scene.run(flow.name)
    agent = scene.agent("other")
    answer = explained(scene, run)
    assert answer.situation == runs_pb.SITUATION_NO_MATCHING_AGENT
    (found,) = [match for match in answer.agents if match.agent == agent.name]
    assert (list(found.missing_labels), found.wrong_host, found.wrong_launcher) == ([label], True, True)
    assert (list(answer.required_labels), answer.required_host) == ([label], host)
    good = scene.agent(label, launcher="docker", host=host, capacity=1)
    assert explained(scene, run).situation == runs_pb.SITUATION_STARTING
    assert explained(scene, run).agents[0].agent == good.name
    scene.admin.agents.HeartbeatAgent(agents_pb.HeartbeatAgentRequest(agent=good.name, draining=True))
    assert explained(scene, run).situation == runs_pb.SITUATION_MATCHING_AGENT_FULL
    running = scene.running()
    running.report(1, flow_event("RUNNING"))
    assert explained(scene, running).situation == runs_pb.SITUATION_RUNNING


def test_why_a_run_waits_that_was_put_back(scene: Scene) -> None:
    project = scene.project()
    api = scene.api_as("agent", projects=(project,))
    agent = scene.agent(api=api)
    run = scene.run(scene.flow(project).name)

    def put_back(delay: int, seconds: int = 600) -> runs_pb.ExplainFlowRunResponse:
        (lease,) = scene.lease(agent.name, 5, api=api)
        assert explained(scene, run).situation == runs_pb.SITUATION_STARTING
        asked = agents_pb.ReleaseFlowRunRequest(
            agent=agent.name, flow_run=run.name, epoch=lease.epoch, back_off=Duration(seconds=seconds),
            delay=states_pb2.LaunchDelay.ValueType(delay),
        )  # fmt: skip
        api.agents.ReleaseFlowRun(asked)
        return explained(scene, run)

    first = put_back(states_pb2.LAUNCH_DELAY_NO_ROOM, seconds=0)
    assert (first.situation, first.put_back_count) == (runs_pb.SITUATION_STARTING, 1), "it is tried again at once"
    before = time.time()
    second = put_back(states_pb2.LAUNCH_DELAY_UNSPECIFIED)
    assert (second.situation, second.put_back_count) == (runs_pb.SITUATION_PUT_BACK, 2)
    assert second.launch_delay == states_pb2.LAUNCH_DELAY_UNSPECIFIED, "as of an agent of before"
    assert before + 595 < second.next_try_time.ToMicroseconds() / 1e6 < time.time() + 605


def test_what_a_launched_run_waits_for(scene: Scene) -> None:
    run = scene.running()
    assert explained(scene, run).situation == runs_pb.SITUATION_LAUNCHING

    def beat(delay: int) -> runs_pb.ExplainFlowRunResponse:
        held = agents_pb.HeldRun(
            flow_run=run.name, epoch=run.epoch, renew=True, waits_for=states_pb2.LaunchDelay.ValueType(delay)
        )
        run.agent_api.agents.HeartbeatAgent(agents_pb.HeartbeatAgentRequest(agent=run.agent, runs=[held]))
        return explained(scene, run)

    waiting = beat(states_pb2.LAUNCH_DELAY_IMAGE)
    assert (waiting.situation, waiting.launch_delay) == (
        runs_pb.SITUATION_LAUNCHING, states_pb2.LAUNCH_DELAY_IMAGE,
    )  # fmt: skip
    with refused(InvalidArgumentError):
        beat(99)
    assert explained(scene, run).launch_delay == states_pb2.LAUNCH_DELAY_IMAGE
    run.report(1, flow_event("RUNNING"))
    begun = explained(scene, run)
    assert (begun.situation, begun.launch_delay) == (runs_pb.SITUATION_RUNNING, states_pb2.LAUNCH_DELAY_UNSPECIFIED)


def test_a_dead_run_is_confirmed_only_when_it_is_not_heard_of(scene: Scene) -> None:
    run = scene.running()
    with refused(IllegalTransitionError):
        scene.admin.runs.ConfirmFlowRunDead(runs_pb.ConfirmFlowRunDeadRequest(name=run.name))


def test_agents_are_listed_seen_and_forgotten(scene: Scene) -> None:
    agent = scene.agent("a", "b", version="1", host="h")
    got = scene.admin.agents.GetAgent(agents_pb.GetAgentRequest(name=agent.name))
    assert (list(got.labels), got.online, got.capacity) == (["a", "b"], True, 8)
    assert agent.name in {a.name for a in scene.admin.agents.ListAgents(agents_pb.ListAgentsRequest()).agents}
    for _ in range(2):
        scene.admin.agents.DeleteAgent(agents_pb.DeleteAgentRequest(name=agent.name))
    with refused(NotFoundError):
        scene.admin.agents.GetAgent(agents_pb.GetAgentRequest(name=agent.name))
    with refused(NotFoundError):
        scene.lease(agent.name)
    running = scene.running()
    with refused(IllegalTransitionError):
        scene.admin.agents.DeleteAgent(agents_pb.DeleteAgentRequest(name=running.agent))


def test_a_heartbeat_abandons_what_is_not_the_agents_own(scene: Scene) -> None:
    run, other = scene.running(), scene.running()
    beat = agents_pb.HeartbeatAgentRequest(agent=run.agent)
    beat.runs.add(flow_run=other.name, epoch=other.epoch)
    beat.runs.add(flow_run=run.name, epoch=run.epoch, renew=True)
    answer = run.agent_api.agents.HeartbeatAgent(beat)
    assert [(c.flow_run, c.command) for c in answer.commands] == [(other.name, agents_pb.COMMAND_ABANDON)]
    assert answer.next_heartbeat == Duration(seconds=15)


def test_a_run_is_of_the_version_that_was_registered_last(scene: Scene) -> None:
    parent = scene.project()
    first = scene.flow(parent, flow_id="moving")
    flow = first.name.rpartition("/versions/")[0]
    for number in range(1, 6):
        assert scene.run(flow).flow_version == f"{flow}/versions/{number}"
        scene.flow(parent, flow_id="moving")  # each has another bundle


def test_a_batch_of_runs_is_created_wholly_or_not_at_all(scene: Scene) -> None:
    flow = scene.flow(scene.project(), graph=graph(parameters=(flows_pb.ParameterSpec(name="x"),))).name
    project = flow.partition("/flows")[0]

    def one(text: str, key: str = "") -> runs_pb.CreateFlowRunRequest:
        return runs_pb.CreateFlowRunRequest(flow=flow, request_id=key or request_id(), parameters_json=text)

    ask = runs_pb.BatchCreateFlowRunsRequest(parent=project, requests=[one(f'{{"x": {n}}}') for n in range(50)])
    made = scene.admin.runs.BatchCreateFlowRuns(ask).flow_runs
    assert [run.parameters_json for run in made] == [f'{{"x": {n}}}' for n in range(50)]
    again = scene.admin.runs.BatchCreateFlowRuns(ask).flow_runs
    assert [run.name for run in again] == [run.name for run in made]
    # The request id is the run's: sent alone, it gives the same run.
    alone = runs_pb.CreateFlowRunRequest()
    alone.CopyFrom(ask.requests[3])
    alone.parent = project
    assert scene.admin.runs.CreateFlowRun(alone).name == made[3].name

    for bad, error in (
        (one('{"y": 1}'), UnknownParameterError),
        (one("{}", ask.requests[0].request_id), RequestIdReusedError),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            scene.admin.runs.BatchCreateFlowRuns(
                runs_pb.BatchCreateFlowRunsRequest(parent=project, requests=[one("{}"), bad])
            )
        assert isinstance(to_error(refused.value), error)
    listed = scene.admin.runs.ListFlowRuns(runs_pb.ListFlowRunsRequest(parent=project))
    assert {run.name for run in listed.flow_runs} == {run.name for run in made}
