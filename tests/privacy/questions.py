"""Asks a control plane for everything that the API answers of a project."""

from __future__ import annotations

from collections.abc import Sequence

from heliograph.api.v1 import agent_service_pb2 as agents
from heliograph.api.v1 import flow_run_service_pb2 as runs
from heliograph.api.v1 import flow_service_pb2 as flows
from heliograph.api.v1 import log_service_pb2 as logs
from heliograph.api.v1 import project_service_pb2 as projects
from heliograph.api.v1 import schedule_service_pb2 as schedules
from heliograph.api.v1 import task_run_service_pb2 as tasks
from heliograph.api.v1 import token_service_pb2 as tokens
from heliograph.client.connection import Connection

MOST = 1000


def ask_for_everything(connection: Connection, project: str, run_names: Sequence[str]) -> None:
    """Makes every call that reads, of every flow, run and task run; runs also by their own names."""
    of, call = connection.services, connection.call
    parent = f"projects/{project}"
    call(of.projects.GetProject, projects.GetProjectRequest(name=parent))
    call(of.projects.ListProjects, projects.ListProjectsRequest())
    call(of.agents.ListAgents, agents.ListAgentsRequest())
    call(of.tokens.ListTokens, tokens.ListTokensRequest())
    call(of.schedules.ListSchedules, schedules.ListSchedulesRequest(parent=parent))
    for flow in call(of.flows.ListFlows, flows.ListFlowsRequest(parent=parent)).flows:
        call(of.flows.GetFlow, flows.GetFlowRequest(name=flow.name))
        call(of.flows.ListFlowVersions, flows.ListFlowVersionsRequest(parent=flow.name))
        call(of.flows.GetFlowVersion, flows.GetFlowVersionRequest(name=f"{flow.name}/versions/latest"))
        if flow.HasField("schedule"):
            call(of.schedules.GetSchedule, schedules.GetScheduleRequest(name=flow.schedule.name))
            call(of.schedules.PreviewSchedule, schedules.PreviewScheduleRequest(name=flow.schedule.name, count=2))
    for name in run_names:
        assert call(of.flow_runs.ListFlowRuns, runs.ListFlowRunsRequest(parent=parent, prefix=name)).flow_runs
    for run in call(of.flow_runs.ListFlowRuns, runs.ListFlowRunsRequest(parent=parent)).flow_runs:
        call(of.flow_runs.GetFlowRun, runs.GetFlowRunRequest(name=run.name))
        call(of.flow_runs.ExplainFlowRun, runs.ExplainFlowRunRequest(name=run.name))
        call(of.flow_runs.ListFlowRunStates, runs.ListFlowRunStatesRequest(parent=run.name))
        call(of.task_runs.ListTaskRunStates, tasks.ListTaskRunStatesRequest(parent=run.name, page_size=MOST))
        found = call(of.task_runs.ListTaskRuns, tasks.ListTaskRunsRequest(parent=run.name, page_size=MOST))
        for task_run in found.task_runs[:3]:
            call(of.task_runs.GetTaskRun, tasks.GetTaskRunRequest(name=task_run.name))
        call(of.logs.ListLogEntries, logs.ListLogEntriesRequest(parent=run.name, page_size=MOST))
        if run.HasField("end_time"):
            watch = runs.WatchFlowRunsRequest(
                parent=parent, flow_runs=[run.name], include_task_runs=True, until_finished=True
            )
            assert list(connection.stream(of.flow_runs.WatchFlowRuns, watch))
