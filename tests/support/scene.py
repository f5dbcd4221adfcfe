"""What most tests of the control plane begin with, made by the API alone: a project, a flow, an agent, a run."""

from __future__ import annotations

import itertools
import uuid
from contextlib import ExitStack
from typing import Any, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from tests.support.control_plane import InProcessControlPlane, channel

from heliograph.api.v1 import (
    admin_service_pb2_grpc,
    agent_service_pb2_grpc,
    flow_run_service_pb2_grpc,
    flow_service_pb2_grpc,
    log_service_pb2_grpc,
    options_pb2,
    project_service_pb2_grpc,
    run_reporting_service_pb2_grpc,
    schedule_service_pb2_grpc,
    states_pb2,
    task_run_service_pb2_grpc,
    token_service_pb2_grpc,
)
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
    project_service_pb2 as projects_pb,
)
from heliograph.api.v1 import (
    run_reporting_service_pb2 as reporting_pb,
)
from heliograph.api.v1 import (
    token_service_pb2 as tokens_pb,
)

NOW_MICROS = 1_790_000_000_000_000
_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"


def request_id() -> str:
    return uuid.uuid4().hex


def graph(*slugs: str, parameters: tuple[flows_pb.ParameterSpec, ...] = (), edges: Any = ()) -> flows_pb.Graph:
    return flows_pb.Graph(
        tasks=[flows_pb.TaskSpec(slug=slug, name=slug) for slug in slugs or ("extract", "load")],
        edges=[flows_pb.EdgeSpec(upstream=up, downstream=down) for up, down in edges],
        parameters=parameters,
        graph_hash="sha256:" + "0" * 64,
    )


def bundle(**fields: Any) -> flows_pb.BundleReference:
    return flows_pb.BundleReference(
        **{
            "storage": "local",
            "location": "/srv/flows",
            "digest": "sha256:" + uuid.uuid4().hex * 2,
            "launch_digest": "sha256:" + "1" * 64,
            "format": flows_pb.BUNDLE_FORMAT_SOURCE,
            **fields,
        }
    )


class Plane(Protocol):
    """A control plane, wherever it runs."""

    address: str
    token: str


class Api:
    """Stubs of all services with one token."""

    def __init__(self, stack: ExitStack, plane: Plane, token: str) -> None:
        made: grpc.Channel = stack.enter_context(channel(plane.address, token))
        self.channel = made
        self.admin = admin_service_pb2_grpc.AdminServiceStub(made)
        self.agents = agent_service_pb2_grpc.AgentServiceStub(made)
        self.flows = flow_service_pb2_grpc.FlowServiceStub(made)
        self.logs = log_service_pb2_grpc.LogServiceStub(made)
        self.projects = project_service_pb2_grpc.ProjectServiceStub(made)
        self.reporting = run_reporting_service_pb2_grpc.RunReportingServiceStub(made)
        self.runs = flow_run_service_pb2_grpc.FlowRunServiceStub(made)
        self.schedules = schedule_service_pb2_grpc.ScheduleServiceStub(made)
        self.task_runs = task_run_service_pb2_grpc.TaskRunServiceStub(made)
        self.tokens = token_service_pb2_grpc.TokenServiceStub(made)


class Scene:
    """Makes what a test begins with, by the API alone."""

    def __init__(self, stack: ExitStack, plane: InProcessControlPlane) -> None:
        self._stack = stack
        self.plane = plane
        self.admin = Api(stack, plane, plane.token)

    def api(self, token: str) -> Api:
        return Api(self._stack, self.plane, token)

    def token(self, *roles: str, projects: tuple[str, ...] = (), **fields: Any) -> tokens_pb.CreateTokenResponse:
        return self.admin.tokens.CreateToken(
            tokens_pb.CreateTokenRequest(
                **{
                    "request_id": request_id(),
                    "principal": f"users/{unique('user')}",
                    "roles": [options_pb2.Role.Value(f"ROLE_{role.upper()}") for role in roles],
                    "projects": projects,
                    **fields,
                }
            )
        )

    def api_as(self, *roles: str, projects: tuple[str, ...] = (), **fields: Any) -> Api:
        return self.api(self.token(*roles, projects=projects, **fields).secret)

    def project(self) -> str:
        return self.admin.projects.CreateProject(projects_pb.CreateProjectRequest(project_id=unique("project"))).name

    def flow(self, parent: str, **fields: Any) -> flows_pb.FlowVersion:
        request = flows_pb.RegisterFlowVersionRequest(
            **{"parent": parent, "flow_id": unique("flow"), "graph": graph(), "bundle": bundle(), **fields}
        )
        return self.admin.flows.RegisterFlowVersion(request).flow_version

    def run(self, flow: str, **fields: Any) -> runs_pb.FlowRun:
        parent = "/".join(flow.split("/")[:2])
        request = runs_pb.CreateFlowRunRequest(**{"parent": parent, "flow": flow, "request_id": request_id(), **fields})
        return self.admin.runs.CreateFlowRun(request)

    def agent(self, *labels: str, api: Api | None = None, **fields: Any) -> agents_pb.Agent:
        request = agents_pb.RegisterAgentRequest(
            **{"agent_id": unique("agent"), "launcher": "local", "labels": labels, "capacity": 8, **fields}
        )
        return (api or self.admin).agents.RegisterAgent(request)

    def lease(
        self, agent: str, wait_seconds: int = 0, *, api: Api | None = None, **fields: Any
    ) -> list[agents_pb.FlowRunLease]:
        request = agents_pb.LeaseFlowRunsRequest(
            **{
                "agent": agent,
                "request_id": request_id(),
                "max_runs": 1,
                "wait": Duration(seconds=wait_seconds),
                **fields,
            }
        )
        return list((api or self.admin).agents.LeaseFlowRuns(request).leases)

    def running(self, **run_fields: Any) -> RunningRun:
        """A run that an agent of its own, limited to a project of its own, has accepted."""
        project = self.project()
        api = self.api_as("agent", projects=(project,))
        agent = self.agent(api=api)
        run = self.run(self.flow(project, graph=run_fields.pop("graph", graph())).name, **run_fields)
        (lease,) = self.lease(agent.name, 5, api=api)
        accepted = api.agents.AcceptFlowRun(
            agents_pb.AcceptFlowRunRequest(agent=agent.name, flow_run=run.name, epoch=lease.epoch)
        )
        return RunningRun(self, run.name, lease.epoch, agent.name, accepted.run_token, api)


class RunningRun:
    """A run and its writer."""

    def __init__(self, scene: Scene, name: str, epoch: int, agent: str, token: str, agent_api: Api) -> None:
        self.scene, self.name, self.epoch, self.agent, self.token = scene, name, epoch, agent, token
        self.agent_api = agent_api
        self.api = scene.api(token)

    def batch(self, first: int, *events: reporting_pb.RunEvent, **fields: Any) -> reporting_pb.RunEventBatch:
        return reporting_pb.RunEventBatch(
            **{"flow_run": self.name, "epoch": self.epoch, "first_sequence": first, "events": events, **fields}
        )

    def report(self, first: int, *events: reporting_pb.RunEvent, **fields: Any) -> reporting_pb.RunEventAck:
        return self.api.reporting.ReportRunEvents(self.batch(first, *events, **fields))

    def now(self) -> runs_pb.FlowRun:
        return self.scene.admin.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=self.name))


def task_event(task: int, state: str, **fields: Any) -> reporting_pb.RunEvent:
    event = reporting_pb.RunEvent()
    event.task_run.CopyFrom(
        reporting_pb.TaskRunEvent(
            **{
                "task": task,
                "state": states_pb2.State.Value(f"STATE_{state}"),
                "time_unix_micros": NOW_MICROS,
                "run_count": 1,
                **fields,
            }
        )
    )
    return event


def flow_event(state: str, **fields: Any) -> reporting_pb.RunEvent:
    event = reporting_pb.RunEvent()
    event.flow_run.CopyFrom(
        reporting_pb.FlowRunEvent(
            **{"state": states_pb2.State.Value(f"STATE_{state}"), "time_unix_micros": NOW_MICROS, **fields}
        )
    )
    return event
