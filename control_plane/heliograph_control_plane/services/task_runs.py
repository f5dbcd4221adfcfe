"""TaskRunService: task runs and their histories."""

from __future__ import annotations

from typing import Any

from heliograph.api.v1 import task_run_service_pb2 as pb
from heliograph.api.v1 import task_run_service_pb2_grpc
from heliograph.engine.codes import StateCode

from . import convert, names
from .backend import Backend, gather, page_size


class TaskRunService(task_run_service_pb2_grpc.TaskRunServiceServicer):
    """Answers TaskRunService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def GetTaskRun(self, request: pb.GetTaskRunRequest, context: Any) -> pb.TaskRun:
        """See the API."""
        name = names.task_run("name", request.name)
        run = await self._backend.visible_run("name", f"projects/{name.project}/flowRuns/{name.run_id}")
        facts = await self._backend.version_facts(run.project, run.flow, run.version)
        record = await self._store.get_task_run(run.run_id, name.task, name.map_index)
        return convert.task_run(record, run.project, facts.slugs)

    async def ListTaskRuns(self, request: pb.ListTaskRunsRequest, context: Any) -> pb.ListTaskRunsResponse:
        """See the API."""
        run = await self._backend.visible_run("parent", request.parent)
        facts = await self._backend.version_facts(run.project, run.flow, run.version)
        states = [StateCode(state) for state in request.states if state]
        task_runs, token = await gather(
            lambda size, after: self._store.list_task_runs(run.run_id, states, size, after),
            lambda record: convert.task_run(record, run.project, facts.slugs),
            page_size(request.page_size),
            request.page_token,
            at_once=50,
        )
        return pb.ListTaskRunsResponse(task_runs=task_runs, next_page_token=token)

    async def ListTaskRunStates(
        self, request: pb.ListTaskRunStatesRequest, context: Any
    ) -> pb.ListTaskRunStatesResponse:
        """See the API."""
        task = map_index = None
        parent = request.parent
        if names.is_task_run(parent):
            name = names.task_run("parent", parent)
            task, map_index = name.task, name.map_index
            parent = f"projects/{name.project}/flowRuns/{name.run_id}"
        run = await self._backend.visible_run("parent", parent)
        states, token = await gather(
            lambda size, after: self._store.list_task_run_states(run.run_id, task, map_index, size, after),
            convert.task_run_state,
            page_size(request.page_size),
            request.page_token,
            at_once=1_000,
        )
        return pb.ListTaskRunStatesResponse(states=states, next_page_token=token)
