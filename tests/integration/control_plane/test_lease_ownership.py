"""A lease belongs to the agent that took it: its name and the principal of its token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.support.scene import Api, Scene, flow_event, task_event, unique

from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.api.v1 import log_service_pb2 as logs_pb
from heliograph.api.v1 import run_reporting_service_pb2 as reporting_pb

Act = Callable[[Api, str, str, int], Any]

ACTS: dict[str, Act] = {
    "accept": lambda api, agent, run, epoch: api.agents.AcceptFlowRun(
        agents_pb.AcceptFlowRunRequest(agent=agent, flow_run=run, epoch=epoch)
    ),
    "release": lambda api, agent, run, epoch: api.agents.ReleaseFlowRun(
        agents_pb.ReleaseFlowRunRequest(agent=agent, flow_run=run, epoch=epoch, back_off=Duration(seconds=1))
    ),
    "report the exit": lambda api, agent, run, epoch: api.agents.ReportFlowRunExit(
        agents_pb.ReportFlowRunExitRequest(agent=agent, flow_run=run, epoch=epoch)
    ),
    "report events": lambda api, agent, run, epoch: api.reporting.ReportRunEvents(
        reporting_pb.RunEventBatch(
            flow_run=run, epoch=epoch, agent=agent, first_sequence=1, events=[flow_event("FAILED")]
        )
    ),
    "stream events": lambda api, agent, run, epoch: list(
        api.reporting.StreamRunEvents(
            iter([reporting_pb.RunEventBatch(flow_run=run, epoch=epoch, agent=agent, first_sequence=1)])
        )
    ),
    "write log lines": lambda api, agent, run, epoch: api.logs.WriteLogEntries(
        logs_pb.WriteLogEntriesRequest(
            flow_run=run, epoch=epoch, agent=agent, entries=[logs_pb.LogEntry(sequence=1, message="forged")]
        )
    ),
    "renew": lambda api, agent, run, epoch: api.agents.HeartbeatAgent(
        agents_pb.HeartbeatAgentRequest(
            agent=agent, runs=[agents_pb.HeldRun(flow_run=run, epoch=epoch, renew=True)], draining=True
        )
    ),
}
ON_AN_OFFER = {"accept", "release"}


def reason(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return str(caught.value.code().name) + ": " + str(caught.value.details())


@pytest.mark.parametrize("act", ACTS)
def test_only_the_agent_that_took_a_lease_acts_on_it(scene: Scene, act: str) -> None:
    project, service = scene.project(), f"services/{unique('agents')}"
    mine = scene.api_as("agent", projects=(project,), principal=service)
    again = scene.api_as("agent", projects=(project,), principal=service)
    other = scene.api_as("agent", projects=(project,))
    agent = scene.agent(api=mine)
    run = scene.run(scene.flow(project).name)
    (lease,) = scene.lease(agent.name, 5, api=mine)
    # Registered after the lease was given, so that it can only be this agent's.
    colleague, stranger = scene.agent(api=mine), scene.agent(api=other)
    if act not in ON_AN_OFFER:
        ACTS["accept"](mine, agent.name, run.name, lease.epoch)

    def history() -> Any:
        return scene.admin.runs.ListFlowRunStates(runs_pb.ListFlowRunStatesRequest(parent=run.name)).states

    before = list(history())
    attempts = [
        ("another principal under the agent's name", other, agent.name),
        ("another principal under a name of its own", other, stranger.name),
        ("another agent of the same principal", mine, colleague.name),
        ("an agent that nobody registered", mine, "agents/nobody"),
        ("the same principal under a stranger's name", mine, stranger.name),
    ]
    for who, api, name in attempts:
        if act == "renew" and (api, name) in {(other, stranger.name), (mine, colleague.name)}:
            # They are who they say; it is the run that is not theirs.
            (command,) = ACTS[act](api, name, run.name, lease.epoch).commands
            assert command.command == agents_pb.COMMAND_ABANDON, who
        else:
            told = reason(lambda api=api, name=name: ACTS[act](api, name, run.name, lease.epoch))  # type: ignore[misc]
            assert told.split(":")[0] in {"FAILED_PRECONDITION", "PERMISSION_DENIED", "NOT_FOUND"}, who
    assert list(history()) == before
    assert not scene.admin.agents.GetAgent(agents_pb.GetAgentRequest(name=agent.name)).draining
    assert not scene.admin.logs.ListLogEntries(logs_pb.ListLogEntriesRequest(parent=run.name)).entries
    # A new token of the same principal goes on, as after a rotation.
    ACTS[act](again, agent.name, run.name, lease.epoch)


def test_an_agent_must_say_which_one_it_is(scene: Scene) -> None:
    run = scene.running()
    for call in (
        lambda: run.agent_api.reporting.ReportRunEvents(run.batch(1, task_event(0, "RUNNING"))),
        lambda: run.agent_api.logs.WriteLogEntries(logs_pb.WriteLogEntriesRequest(flow_run=run.name, epoch=run.epoch)),
    ):
        assert reason(call).startswith("INVALID_ARGUMENT: agent")


def test_an_agents_log_lines_are_of_an_epoch_that_it_has(scene: Scene) -> None:
    run = scene.running()
    for epoch in (run.epoch + 1, 2**40):
        request = logs_pb.WriteLogEntriesRequest(
            flow_run=run.name, epoch=epoch, agent=run.agent, entries=[logs_pb.LogEntry(sequence=1, message="x")]
        )
        assert reason(lambda: run.agent_api.logs.WriteLogEntries(request)).startswith("FAILED_PRECONDITION")  # noqa: B023


def test_an_agent_is_taken_over_by_an_administrator_or_after_it_was_deleted(scene: Scene) -> None:
    first, second = scene.api_as("agent"), scene.api_as("agent")
    agent = scene.agent(api=first)
    name = agent.name.removeprefix("agents/")
    register = agents_pb.RegisterAgentRequest(agent_id=name, launcher="local")
    assert reason(lambda: second.agents.RegisterAgent(register)).startswith("PERMISSION_DENIED")
    scene.admin.agents.DeleteAgent(agents_pb.DeleteAgentRequest(name=agent.name))
    second.agents.RegisterAgent(register)
    assert reason(lambda: first.agents.RegisterAgent(register)).startswith("PERMISSION_DENIED")
    scene.admin.agents.RegisterAgent(register)
    assert reason(lambda: second.agents.RegisterAgent(register)).startswith("PERMISSION_DENIED")


def test_a_heartbeat_does_not_tell_whether_a_run_of_another_project_is_there(scene: Scene) -> None:
    own = scene.project()
    api = scene.api_as("agent", projects=(own,))
    agent = scene.agent(api=api)
    foreign = scene.running()
    foreign_id = foreign.name.rpartition("/")[2]
    absent_id = foreign_id[:-4] + ("0000" if foreign_id[-4:] != "0000" else "1111")
    for epoch in (1, foreign.epoch, foreign.epoch + 5):
        for prefix in (f"{own}/flowRuns/", foreign.name.rpartition("/")[0] + "/", "projects/-/flowRuns/"):
            answers = [
                [
                    command.command
                    for command in api.agents.HeartbeatAgent(
                        agents_pb.HeartbeatAgentRequest(
                            agent=agent.name,
                            runs=[agents_pb.HeldRun(flow_run=prefix + run_id, epoch=epoch, renew=True)],
                        )
                    ).commands
                ]
                for run_id in (foreign_id, absent_id)
            ]
            assert answers[0] == answers[1], (epoch, prefix)


def test_an_operator_of_one_project_deletes_no_agent_that_works_for_more(scene: Scene) -> None:
    own = scene.project()
    operator = scene.api_as("operator", projects=(own,))
    everywhere, foreign, mine = scene.agent(), scene.running().agent, scene.api_as("agent", projects=(own,))
    assert reason(lambda: operator.agents.DeleteAgent(agents_pb.DeleteAgentRequest(name=everywhere.name))).startswith(
        "PERMISSION_DENIED"
    )
    # Not there and not to be seen are one answer, and neither deletes anything.
    for name in (foreign, "agents/nobody-at-all"):
        operator.agents.DeleteAgent(agents_pb.DeleteAgentRequest(name=name))
    scene.admin.agents.GetAgent(agents_pb.GetAgentRequest(name=foreign))
    own_agent = scene.agent(api=mine)
    operator.agents.DeleteAgent(agents_pb.DeleteAgentRequest(name=own_agent.name))
    with pytest.raises(grpc.RpcError):
        scene.admin.agents.GetAgent(agents_pb.GetAgentRequest(name=own_agent.name))
