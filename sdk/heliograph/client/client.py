"""`Client`: typed, synchronous calls to a control plane, with the method names that Prefect 1 users know.

Every call has a deadline. Only `UNAVAILABLE` is tried again; each mutation carries a request id made once
per intent, or is idempotent by its nature, so that a repeated call takes effect once.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from heliograph.client.channel import new_request_id
from heliograph.client.connection import Connection
from heliograph.client.refs import (
    encode_parameters,
    flow_resource,
    flow_run_resource,
    schedule_resource,
    to_datetime,
)
from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.api.v1 import (
        admin_service_pb2,
        agent_service_pb2,
        flow_run_service_pb2,
        flow_service_pb2,
        log_service_pb2,
        project_service_pb2,
        schedule_service_pb2,
        task_run_service_pb2,
        token_service_pb2,
    )
    from heliograph.core.flow import Flow

_REQUEST_IDS = uuid.UUID("b9d6b8c4-6a0e-5c0e-9d0c-2f6a4a3f7a11")
"""Namespace of the request ids that are made from idempotency keys."""


@dataclass(frozen=True, slots=True)
class TaskRunInfo:
    """One task run: its slug, map index (None for a task that is not mapped) and state."""

    task_slug: str
    map_index: int | None
    state: StateCode
    run_count: int


@dataclass(frozen=True, slots=True)
class FlowRunInfo:
    """One flow run, as the control plane knows it.

    Attributes:
        id: Its id.
        name: Its name for people.
        flow_id: Resource name of its flow version.
        parameters: Values that its creator gave.
        state: Its state now.
        scheduled_start_time: When it should start, or should have started.
        start_time: When its process started.
        end_time: When it finished.
        task_runs: Its task runs so far.
    """

    id: str
    name: str
    flow_id: str
    parameters: dict[str, Any]
    state: StateCode
    scheduled_start_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    task_runs: list[TaskRunInfo] = field(default_factory=list)


class Client(Connection):
    """Calls one control plane; `Connection` says what the arguments are.

    Raises:
        HeliographError: From every method: the class that belongs to the server's reason.
    """

    # --- projects and flows -----------------------------------------------------------------------------

    def create_project(self, project_name: str, project_description: str = "") -> str:
        """Creates a project. One that exists with the same description is returned.

        Returns:
            Its resource name, `projects/{project}`.
        """
        return self.create_project_message(project_name, project_description).name

    def create_project_message(self, name: str, description: str = "") -> project_service_pb2.Project:
        """Creates a project and returns it as the API has it: what `create_project` does, for tools."""
        from heliograph.api.v1 import project_service_pb2 as pb

        request = pb.CreateProjectRequest(project_id=name, description=description)
        return self.call(self.services.projects.CreateProject, request)

    def list_projects(self) -> list[project_service_pb2.Project]:
        """Lists the projects that the token may see, by name."""
        from heliograph.api.v1 import project_service_pb2 as pb

        return self.pages(self.services.projects.ListProjects, pb.ListProjectsRequest(page_size=1000), "projects")

    def register(
        self,
        flow: Flow,
        project_name: str,
        *,
        labels: Sequence[str] = (),
        set_schedule_active: bool = True,
        pickle: bool = False,
    ) -> str:
        """Registers a flow. See `heliograph.client.registration.register_flow`.

        Returns:
            Resource name of the flow version: the `flow_id` of `create_flow_run`.
        """
        from heliograph.client.registration import register

        return register(
            flow,
            project_name,
            client=self,
            labels=labels,
            set_schedule_active=set_schedule_active,
            pickle=pickle,
        ).flow_id

    def list_flows(self, project_name: str | None = None) -> list[flow_service_pb2.Flow]:
        """Lists the flows of a project, or of all projects that the token may see."""
        from heliograph.api.v1 import flow_service_pb2 as pb

        request = pb.ListFlowsRequest(parent=f"projects/{project_name or '-'}", page_size=1000)
        return self.pages(self.services.flows.ListFlows, request, "flows")

    def get_flow_version(self, flow_id: str) -> flow_service_pb2.FlowVersion:
        """Returns one version of a flow; the newest when `flow_id` names none."""
        from heliograph.api.v1 import flow_service_pb2 as pb

        name = flow_resource(flow_id)
        if "/versions/" not in name:
            name += "/versions/latest"
        return self.call(self.services.flows.GetFlowVersion, pb.GetFlowVersionRequest(name=name))

    # --- flow runs --------------------------------------------------------------------------------------

    def create_flow_run(
        self,
        flow_id: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        scheduled_start_time: datetime | None = None,
        run_name: str | None = None,
        labels: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Creates a run; an agent of the user's takes it when its time has come.

        Args:
            flow_id: What `flow.register()` returned; or `projects/P/flows/F` or `P/F` for the newest version.
            parameters: Values by name; the flow's defaults fill in the rest. JSON, at most 64 KiB.
            scheduled_start_time: When to start; now by default. A naive time is local time.
            run_name: A name for people; two words are chosen by default.
            labels: Replaces the flow's labels, also when empty.
            idempotency_key: The same key for the same flow gives the run that the first call made.

        Returns:
            The id of the run.

        Raises:
            UnknownParameterError: The flow has no parameter of that name.
            MissingParameterError: A required parameter has no value.
            NotFoundError: The flow is not there, or not visible to the token.
        """
        request_id = None
        if idempotency_key is not None:
            scope = flow_resource(flow_id).partition("/versions/")[0]
            request_id = str(uuid.uuid5(_REQUEST_IDS, f"{scope}\n{idempotency_key}"))
        run = self.start_flow_run(
            flow_id,
            parameters_json=encode_parameters(parameters or {}),
            scheduled_start_time=scheduled_start_time,
            run_name=run_name or "",
            labels=labels,
            request_id=request_id,
        )
        return run.name.rpartition("/")[2]

    def start_flow_run(
        self,
        flow_id: str,
        *,
        parameters_json: str = "{}",
        scheduled_start_time: datetime | None = None,
        run_name: str = "",
        labels: Sequence[str] | None = None,
        request_id: str | None = None,
    ) -> flow_run_service_pb2.FlowRun:
        """Creates a run and returns it as the API has it: what `create_flow_run` does, for tools."""
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        flow = flow_resource(flow_id)
        request = pb.CreateFlowRunRequest(
            parent="/".join(flow.split("/")[:2]),
            flow=flow,
            request_id=request_id or new_request_id(),
            parameters_json=parameters_json,
            labels=labels or (),
            override_labels=labels is not None,
            run_name=run_name,
        )
        if scheduled_start_time is not None:
            request.scheduled_time.FromDatetime(scheduled_start_time.astimezone())
        return self.call(self.services.flow_runs.CreateFlowRun, request)

    def get_flow_run(self, flow_run_id: str) -> flow_run_service_pb2.FlowRun:
        """Returns one run as the API has it."""
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        request = pb.GetFlowRunRequest(name=flow_run_resource(flow_run_id))
        return self.call(self.services.flow_runs.GetFlowRun, request)

    def get_flow_run_info(self, flow_run_id: str) -> FlowRunInfo:
        """Returns one run and its task runs."""
        run = self.get_flow_run(flow_run_id)
        return FlowRunInfo(
            id=run.name.rpartition("/")[2],
            name=run.run_name,
            flow_id=run.flow_version,
            parameters=json.loads(run.parameters_json or "{}"),
            state=StateCode(run.state),
            scheduled_start_time=to_datetime(run.scheduled_time),
            start_time=to_datetime(run.start_time),
            end_time=to_datetime(run.end_time),
            task_runs=[
                TaskRunInfo(
                    task.task_slug,
                    task.map_index if task.HasField("map_index") else None,
                    StateCode(task.state),
                    task.run_count,
                )
                for task in self.list_task_runs(run.name)
            ],
        )

    def get_flow_run_state(self, flow_run_id: str) -> StateCode:
        """Returns the state of one run."""
        return StateCode(self.get_flow_run(flow_run_id).state)

    def cancel_flow_run(self, flow_run_id: str) -> bool:
        """Asks for a run's end. Cancelling twice is no error.

        Returns:
            True when the run is Cancelled already, False while its agent is stopping it.

        Raises:
            IllegalTransitionError: The run is finished.
        """
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        request = pb.CancelFlowRunRequest(name=self._full_name(flow_run_id))
        run = self.call(self.services.flow_runs.CancelFlowRun, request)
        return StateCode(run.state) is StateCode.CANCELLED

    def list_flow_runs(
        self,
        project_name: str | None = None,
        *,
        flow: str = "",
        states: Sequence[StateCode] = (),
        prefix: str = "",
        limit: int | None = 100,
    ) -> list[flow_run_service_pb2.FlowRun]:
        """Lists runs, newest first.

        Args:
            project_name: Default: all projects that the token may see.
            flow: `projects/P/flows/F`, to see its runs only.
            states: To see runs in these states only.
            prefix: Start of an id or of a run name.
            limit: Most runs; None for all.
        """
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        request = pb.ListFlowRunsRequest(
            parent=f"projects/{project_name or '-'}",
            flow=flow,
            states=[int(state) for state in states],  # type: ignore[misc]
            prefix=prefix,
            page_size=min(limit or 1000, 1000),
        )
        return self.pages(self.services.flow_runs.ListFlowRuns, request, "flow_runs", limit)

    def confirm_flow_run_dead(self, flow_run_id: str) -> flow_run_service_pb2.FlowRun:
        """Declares that the process of a lost run is certainly dead. The caller's name is recorded.

        Raises:
            IllegalTransitionError: The run's lease is being renewed: it lives.
        """
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        request = pb.ConfirmFlowRunDeadRequest(name=self._full_name(flow_run_id))
        return self.call(self.services.flow_runs.ConfirmFlowRunDead, request)

    def list_flow_run_states(self, flow_run_id: str) -> list[flow_run_service_pb2.FlowRunStateRecord]:
        """Lists the states that a run went through, in order."""
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        request = pb.ListFlowRunStatesRequest(parent=self._full_name(flow_run_id))
        return list(self.call(self.services.flow_runs.ListFlowRunStates, request).states)

    def explain_flow_run(self, flow_run_id: str) -> flow_run_service_pb2.ExplainFlowRunResponse:
        """Says why a run has not started, or how it ended."""
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        request = pb.ExplainFlowRunRequest(name=self._full_name(flow_run_id))
        return self.call(self.services.flow_runs.ExplainFlowRun, request)

    def list_task_runs(self, flow_run_id: str) -> list[task_run_service_pb2.TaskRun]:
        """Lists the task runs of a run, by task and map index."""
        from heliograph.api.v1 import task_run_service_pb2 as pb

        request = pb.ListTaskRunsRequest(parent=self._full_name(flow_run_id), page_size=1000)
        return self.pages(self.services.task_runs.ListTaskRuns, request, "task_runs")

    def list_logs(
        self, flow_run_id: str, *, min_level: int = 0, limit: int | None = None
    ) -> list[log_service_pb2.LogEntry]:
        """Lists the log lines of a run, oldest first. `min_level` is a number of Python's logging."""
        from heliograph.api.v1 import log_service_pb2 as pb

        request = pb.ListLogEntriesRequest(
            parent=self._full_name(flow_run_id),
            min_level=min_level,  # type: ignore[arg-type]
            page_size=min(limit or 5000, 5000),
        )
        return self.pages(self.services.logs.ListLogEntries, request, "entries", limit)

    def watch_flow_run(
        self, flow_run_id: str, *, include_task_runs: bool = True
    ) -> Iterator[flow_run_service_pb2.WatchFlowRunsResponse]:
        """Yields what a run is, then each change, until it is finished.

        A broken stream is opened again and starts with what is: a state may come twice, the last is
        never missed.
        """
        from heliograph.api.v1 import flow_run_service_pb2 as pb

        name = self._full_name(flow_run_id)
        request = pb.WatchFlowRunsRequest(
            parent="/".join(name.split("/")[:2]),
            flow_runs=[name],
            include_task_runs=include_task_runs,
            until_finished=True,
        )
        return self.stream(self.services.flow_runs.WatchFlowRuns, request)

    def tail_logs(
        self, flow_run_id: str, *, min_level: int = 0, after_time: datetime | None = None
    ) -> Iterator[log_service_pb2.LogEntry]:
        """Yields the log lines of a run, then new ones, until it is finished and all its lines are there.

        Each line comes once, also when the stream breaks and is opened again.
        """
        from heliograph.api.v1 import log_service_pb2 as pb

        request = pb.TailLogEntriesRequest(
            parent=self._full_name(flow_run_id),
            min_level=min_level,  # type: ignore[arg-type]
        )
        if after_time is not None:
            request.after_time.FromDatetime(after_time.astimezone())
        seen: dict[int, int] = {}
        for answer in self.stream(self.services.logs.TailLogEntries, request):
            for entry in answer.entries:
                if entry.sequence > seen.get(entry.epoch, 0):
                    seen[entry.epoch] = entry.sequence
                    yield entry

    def _full_name(self, flow_run_id: str) -> str:
        """Completes an id to a resource name; asks the control plane for its project when it is not known."""
        name = flow_run_resource(flow_run_id)
        return self.get_flow_run(name).name if name.startswith("projects/-/") else name

    # --- agents, schedules, tokens, the server ----------------------------------------------------------

    def list_agents(self) -> list[agent_service_pb2.Agent]:
        """Lists agents, by name."""
        from heliograph.api.v1 import agent_service_pb2 as pb

        return self.pages(self.services.agents.ListAgents, pb.ListAgentsRequest(page_size=1000), "agents")

    def list_schedules(self, project_name: str | None = None) -> list[schedule_service_pb2.Schedule]:
        """Lists the schedules of a project, or of all projects that the token may see."""
        from heliograph.api.v1 import schedule_service_pb2 as pb

        request = pb.ListSchedulesRequest(parent=f"projects/{project_name or '-'}", page_size=1000)
        return self.pages(self.services.schedules.ListSchedules, request, "schedules")

    def get_schedule(self, flow_id: str) -> schedule_service_pb2.Schedule:
        """Returns the schedule of a flow, `P/F` or what `flow.register()` returned.

        Raises:
            NotFoundError: The flow has none, or is not visible to the token.
        """
        from heliograph.api.v1 import schedule_service_pb2 as pb

        return self.call(self.services.schedules.GetSchedule, pb.GetScheduleRequest(name=schedule_resource(flow_id)))

    def pause_schedule(self, flow_id: str) -> schedule_service_pb2.Schedule:
        """Stops creating runs by a flow's schedule and removes those not started. Pausing twice is no error."""
        from heliograph.api.v1 import schedule_service_pb2 as pb

        request = pb.PauseScheduleRequest(name=schedule_resource(flow_id))
        return self.call(self.services.schedules.PauseSchedule, request)

    def resume_schedule(self, flow_id: str) -> schedule_service_pb2.Schedule:
        """Creates runs by a flow's schedule again, from now on. Resuming twice is no error."""
        from heliograph.api.v1 import schedule_service_pb2 as pb

        request = pb.ResumeScheduleRequest(name=schedule_resource(flow_id))
        return self.call(self.services.schedules.ResumeSchedule, request)

    def preview_schedule(self, flow_id: str, count: int = 10) -> list[datetime]:
        """Returns the next times of a flow's schedule, in UTC, without creating anything. At most 100."""
        from heliograph.api.v1 import schedule_service_pb2 as pb

        request = pb.PreviewScheduleRequest(name=schedule_resource(flow_id), count=count)
        times = self.call(self.services.schedules.PreviewSchedule, request).times
        return [time.ToDatetime(tzinfo=UTC) for time in times]

    def create_token(
        self,
        principal: str,
        roles: Sequence[int],
        *,
        projects: Sequence[str] = (),
        lifetime: timedelta | None = None,
    ) -> token_service_pb2.CreateTokenResponse:
        """Issues a token. Its text is in the answer and nowhere else."""
        from heliograph.api.v1 import token_service_pb2 as pb

        request = pb.CreateTokenRequest(
            request_id=new_request_id(),
            principal=principal,
            roles=list(roles),  # type: ignore[arg-type]
            projects=[p if p.startswith("projects/") else f"projects/{p}" for p in projects],
        )
        if lifetime is not None:
            request.lifetime.FromTimedelta(lifetime)
        return self.call(self.services.tokens.CreateToken, request)

    def list_tokens(self) -> list[token_service_pb2.Token]:
        """Lists tokens, newest first, without their texts."""
        from heliograph.api.v1 import token_service_pb2 as pb

        return self.pages(self.services.tokens.ListTokens, pb.ListTokensRequest(page_size=1000), "tokens")

    def revoke_token(self, token_id: str) -> token_service_pb2.Token:
        """Ends a token at once."""
        from heliograph.api.v1 import token_service_pb2 as pb

        name = token_id if token_id.startswith("tokens/") else f"tokens/{token_id}"
        return self.call(self.services.tokens.RevokeToken, pb.RevokeTokenRequest(name=name))

    def whoami(self) -> admin_service_pb2.WhoAmIResponse:
        """Returns whom the token stands for."""
        from heliograph.api.v1 import admin_service_pb2 as pb

        return self.call(self.services.admin.WhoAmI, pb.WhoAmIRequest())

    def get_server_info(self) -> admin_service_pb2.ServerInfo:
        """Returns what the server is."""
        from heliograph.api.v1 import admin_service_pb2 as pb

        return self.call(self.services.admin.GetServerInfo, pb.GetServerInfoRequest())
