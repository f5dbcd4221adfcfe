"""Two projects with one of everything each, names that nobody has, and for every method a request about one of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.duration_pb2 import Duration
from tests.support.scene import Api, Scene, bundle, flow_event, graph, request_id, task_event, unique

from heliograph.api.v1 import admin_service_pb2 as admin
from heliograph.api.v1 import agent_service_pb2 as agents
from heliograph.api.v1 import flow_run_service_pb2 as runs
from heliograph.api.v1 import flow_service_pb2 as flows
from heliograph.api.v1 import log_service_pb2 as logs
from heliograph.api.v1 import options_pb2
from heliograph.api.v1 import project_service_pb2 as projects
from heliograph.api.v1 import run_reporting_service_pb2 as reporting
from heliograph.api.v1 import schedule_service_pb2 as schedules
from heliograph.api.v1 import task_run_service_pb2 as tasks
from heliograph.api.v1 import token_service_pb2 as tokens


@dataclass(frozen=True)
class Lease:
    """A run that an agent has."""

    run: str
    epoch: int
    token: str


@dataclass(frozen=True)
class Names:
    """The names that a request is about. `agent` has all the leases; `reporter` reports, empty for the run itself."""

    project: str
    flow: str
    agent: str
    idle_agent: str
    doomed_agent: str
    reporter: str
    token: str
    new_agent: str
    running: Lease
    accepted: Lease
    released: Lease
    exited: Lease
    sibling: str
    doomed: str
    first_sequence: int = 3

    def mixed_with(self, other: Names) -> Names:
        """The ids of `other` under names of this project."""

        def moved(lease: Lease) -> Lease:
            return replace(lease, run=self.in_project(lease.run))

        return replace(
            other,
            project=self.project,
            flow=self.in_project(other.flow),
            idle_agent=self.idle_agent,
            reporter=self.reporter,
            running=moved(other.running),
            accepted=moved(other.accepted),
            released=moved(other.released),
            exited=moved(other.exited),
            sibling=self.in_project(other.sibling),
            doomed=self.in_project(other.doomed),
        )

    def in_project(self, name: str) -> str:
        """The name of a thing as if it were in this project."""
        return self.project + "/" + name.split("/", 2)[2]

    def words(self) -> set[str]:
        """The parts of names by which one world's differ from another's."""
        names = [self.project, self.flow, self.agent, self.idle_agent, self.doomed_agent, self.new_agent, self.token]
        names += [lease.run for lease in (self.running, self.accepted, self.released, self.exited)]
        return {name.rpartition("/")[2] for name in [*names, self.sibling, self.doomed] if name}


def nobodys() -> Names:
    """Names that nobody has, in the form that real ones have."""

    def run() -> str:
        return f"projects/no-such-project/flowRuns/{uuid.uuid4()}"

    return Names(
        project="projects/no-such-project",
        flow="projects/no-such-project/flows/no-such-flow",
        agent="agents/no-such-agent",
        idle_agent="agents/no-such-agent",
        doomed_agent="agents/no-such-agent",
        reporter="agents/no-such-agent",
        token="tokens/" + uuid.uuid4().hex[:16],
        new_agent="no-such-agent-yet",
        running=Lease(run(), 1, ""),
        accepted=Lease(run(), 1, ""),
        released=Lease(run(), 1, ""),
        exited=Lease(run(), 1, ""),
        sibling=run(),
        doomed=run(),
    )


class World:
    """A project with one of everything, and a token of each role that is limited to it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.project = scene.project()
        made = {
            role: scene.token(role, projects=(self.project,))
            for role in ("admin", "author", "operator", "viewer", "agent")
        }
        self.tokens = {role: token.secret for role, token in made.items()}
        self.agent_principal = made["agent"].token.principal
        self.api = scene.api(self.tokens["agent"])
        label = unique("label")
        clock = schedules.Clock(interval=schedules.IntervalClock(interval_micros=3_600_000_000))
        version = scene.flow(
            self.project,
            launch=flows.LaunchSummary(labels=[label]),
            schedule=schedules.ScheduleSpec(clocks=[clock]),
            schedule_paused=True,
        )
        self.flow = version.name.rpartition("/versions")[0]
        self.agent = scene.agent(label, api=self.api).name
        running = self.lease()
        self.tokens["run"] = running.token
        begins = self.lease()
        code = agents.CreateStartCodeRequest(agent=self.agent, flow_run=begins.run, epoch=begins.epoch)
        self.tokens["start"] = self.api.agents.CreateStartCode(code).start_code
        run = scene.api(running.token)
        run.reporting.ReportRunEvents(
            reporting.RunEventBatch(
                flow_run=running.run,
                epoch=running.epoch,
                first_sequence=1,
                events=[flow_event("RUNNING"), task_event(0, "RUNNING")],
            )
        )
        run.logs.WriteLogEntries(write_log(running, ""))
        self.names = Names(
            project=self.project,
            flow=self.flow,
            agent=self.agent,
            idle_agent=scene.agent(api=self.api).name,
            doomed_agent=scene.agent(api=self.api).name,
            reporter=self.agent,
            token=scene.token("viewer", projects=(self.project,)).token.name,
            new_agent=self.agent.removeprefix("agents/"),
            running=running,
            accepted=self.lease(),
            released=self.lease(),
            exited=self.lease(),
            sibling=self.lease().run,
            doomed=scene.run(self.flow, labels=["nobody"], override_labels=True).name,
        )

    def lease(self) -> Lease:
        """A new run that the project's agent has accepted."""
        run = self.scene.run(self.flow)
        (lease,) = self.scene.lease(self.agent, 5, api=self.api)
        assert lease.flow_run.name == run.name
        return Lease(run.name, lease.epoch, accept(self.api, self.agent, lease))


def accept(api: Api, agent: str, lease: agents.FlowRunLease) -> str:
    """Accepts a lease; returns the token of the run."""
    request = agents.AcceptFlowRunRequest(agent=agent, flow_run=lease.flow_run.name, epoch=lease.epoch)
    return str(api.agents.AcceptFlowRun(request).run_token)


def write_log(lease: Lease, reporter: str) -> logs.WriteLogEntriesRequest:
    """One log line of a run."""
    entry = logs.LogEntry(sequence=1, time_unix_micros=1, level=logs.LOG_LEVEL_INFO, message="x")
    return logs.WriteLogEntriesRequest(flow_run=lease.run, epoch=lease.epoch, agent=reporter, entries=[entry])


def renewal(lease: Lease, names: Names) -> reporting.RunEventBatch:
    """A batch without events."""
    return reporting.RunEventBatch(
        flow_run=lease.run, epoch=lease.epoch, agent=names.reporter, first_sequence=names.first_sequence
    )


def register(names: Names) -> flows.RegisterFlowVersionRequest:
    """A registration of a flow that is not the world's other one."""
    return flows.RegisterFlowVersionRequest(
        parent=names.project, flow_id="another", graph=graph(), bundle=bundle(digest="sha256:" + "0" * 64)
    )


REQUESTS: Mapping[str, Callable[[Names], Any]] = {
    "AdminService/GetServerInfo": lambda _: admin.GetServerInfoRequest(),
    "AdminService/WhoAmI": lambda _: admin.WhoAmIRequest(),
    "AgentService/RegisterAgent": lambda n: agents.RegisterAgentRequest(
        agent_id=n.new_agent or unique("newcomer"), launcher="local"
    ),
    "AgentService/LeaseFlowRuns": lambda n: agents.LeaseFlowRunsRequest(
        agent=n.idle_agent, request_id=request_id(), max_runs=1
    ),
    "AgentService/AcceptFlowRun": lambda n: agents.AcceptFlowRunRequest(
        agent=n.agent, flow_run=n.accepted.run, epoch=n.accepted.epoch
    ),
    "AgentService/CreateStartCode": lambda n: agents.CreateStartCodeRequest(
        agent=n.agent, flow_run=n.accepted.run, epoch=n.accepted.epoch, sealed_launch=b"sealed"
    ),
    # About nothing but the code that it brings: the same request each time, which is given the same answer.
    "AgentService/ExchangeStartCode": lambda _: agents.ExchangeStartCodeRequest(request_id="one-and-the-same"),
    "AgentService/ReleaseFlowRun": lambda n: agents.ReleaseFlowRunRequest(
        agent=n.agent, flow_run=n.released.run, epoch=n.released.epoch, back_off=Duration(seconds=3_600)
    ),
    "AgentService/HeartbeatAgent": lambda n: agents.HeartbeatAgentRequest(
        agent=n.idle_agent, runs=[agents.HeldRun(flow_run=n.sibling, epoch=99, renew=True)]
    ),
    "AgentService/ReportFlowRunExit": lambda n: agents.ReportFlowRunExitRequest(
        agent=n.agent, flow_run=n.exited.run, epoch=n.exited.epoch
    ),
    "AgentService/GetAgent": lambda n: agents.GetAgentRequest(name=n.agent),
    "AgentService/ListAgents": lambda _: agents.ListAgentsRequest(page_size=2),
    "AgentService/DeleteAgent": lambda n: agents.DeleteAgentRequest(name=n.doomed_agent),
    "FlowRunService/CreateFlowRun": lambda n: runs.CreateFlowRunRequest(
        parent=n.project, flow=n.flow, request_id=request_id(), labels=["nobody"], override_labels=True
    ),
    "FlowRunService/BatchCreateFlowRuns": lambda n: runs.BatchCreateFlowRunsRequest(
        parent=n.project,
        requests=[
            runs.CreateFlowRunRequest(flow=n.flow, request_id=request_id(), labels=["nobody"], override_labels=True)
        ],
    ),
    "FlowRunService/GetFlowRun": lambda n: runs.GetFlowRunRequest(name=n.running.run),
    "FlowRunService/ListFlowRuns": lambda n: runs.ListFlowRunsRequest(parent=n.project, flow=n.flow),
    "FlowRunService/CancelFlowRun": lambda n: runs.CancelFlowRunRequest(name=n.doomed),
    "FlowRunService/ListFlowRunStates": lambda n: runs.ListFlowRunStatesRequest(parent=n.running.run),
    "FlowRunService/ExplainFlowRun": lambda n: runs.ExplainFlowRunRequest(name=n.running.run),
    "FlowRunService/WatchFlowRuns": lambda n: runs.WatchFlowRunsRequest(parent=n.project, flow_runs=[n.running.run]),
    "FlowRunService/ConfirmFlowRunDead": lambda n: runs.ConfirmFlowRunDeadRequest(name=n.running.run),
    "FlowService/RegisterFlowVersion": register,
    "FlowService/GetFlow": lambda n: flows.GetFlowRequest(name=n.flow),
    "FlowService/ListFlows": lambda n: flows.ListFlowsRequest(parent=n.project),
    "FlowService/GetFlowVersion": lambda n: flows.GetFlowVersionRequest(name=n.flow + "/versions/1"),
    "FlowService/ListFlowVersions": lambda n: flows.ListFlowVersionsRequest(parent=n.flow),
    "LogService/WriteLogEntries": lambda n: write_log(n.running, n.reporter),
    "LogService/ListLogEntries": lambda n: logs.ListLogEntriesRequest(parent=n.running.run),
    "LogService/TailLogEntries": lambda n: logs.TailLogEntriesRequest(parent=n.running.run),
    "ProjectService/CreateProject": lambda n: projects.CreateProjectRequest(project_id=n.project.rpartition("/")[2]),
    "ProjectService/GetProject": lambda n: projects.GetProjectRequest(name=n.project),
    "ProjectService/ListProjects": lambda _: projects.ListProjectsRequest(),
    "RunReportingService/StreamRunEvents": lambda n: renewal(n.running, n),
    "RunReportingService/ReportRunEvents": lambda n: renewal(n.running, n),
    "ScheduleService/GetSchedule": lambda n: schedules.GetScheduleRequest(name=n.flow + "/schedule"),
    "ScheduleService/ListSchedules": lambda n: schedules.ListSchedulesRequest(parent=n.project),
    "ScheduleService/PauseSchedule": lambda n: schedules.PauseScheduleRequest(name=n.flow + "/schedule"),
    "ScheduleService/ResumeSchedule": lambda n: schedules.ResumeScheduleRequest(name=n.flow + "/schedule"),
    "ScheduleService/PreviewSchedule": lambda n: schedules.PreviewScheduleRequest(name=n.flow + "/schedule"),
    "TaskRunService/GetTaskRun": lambda n: tasks.GetTaskRunRequest(name=n.running.run + "/taskRuns/0"),
    "TaskRunService/ListTaskRuns": lambda n: tasks.ListTaskRunsRequest(parent=n.running.run),
    "TaskRunService/ListTaskRunStates": lambda n: tasks.ListTaskRunStatesRequest(parent=n.running.run),
    "TokenService/CreateToken": lambda n: tokens.CreateTokenRequest(
        request_id=request_id(), principal="users/new", roles=[options_pb2.ROLE_VIEWER], projects=[n.project]
    ),
    "TokenService/ListTokens": lambda _: tokens.ListTokensRequest(page_size=2),
    "TokenService/RevokeToken": lambda n: tokens.RevokeTokenRequest(name=n.token),
}
"""What each method is asked. Asking again changes nothing, so that the order of cells does not matter."""


def words_of(worlds: Iterable[Names]) -> set[str]:
    """All words by which names of these worlds differ."""
    return set().union(*(names.words() for names in worlds))
