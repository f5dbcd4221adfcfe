"""FlowRunService: runs are created, read, cancelled, explained. Watching is in `watching`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from heliograph.api.contract import FieldViolation
from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.api.v1 import flow_run_service_pb2_grpc
from heliograph.engine.codes import StateCode
from heliograph.exceptions import NotFoundError
from heliograph_control_plane import calls
from heliograph_control_plane.errors import BadRequestError, bad_field
from heliograph_control_plane.store.records import FlowRunQuery, NewFlowRun, RequestKey

from . import checks, convert, names
from .backend import Backend, gather, own_project, page_size, request_key
from .explain import explain
from .reach import reach
from .run_ids import new_run_id
from .run_names import two_words
from .watching import watch

MAX_BATCH = 500
"""Most runs of one BatchCreateFlowRuns."""


class FlowRunService(flow_run_service_pb2_grpc.FlowRunServiceServicer):
    """Answers FlowRunService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def CreateFlowRun(self, request: pb.CreateFlowRunRequest, context: Any) -> pb.FlowRun:
        """See the API."""
        new, key = await self._new_run(request)
        return convert.flow_run(await self._store.create_flow_run(new, key))

    async def BatchCreateFlowRuns(
        self, request: pb.BatchCreateFlowRunsRequest, context: Any
    ) -> pb.BatchCreateFlowRunsResponse:
        """See the API."""
        project = own_project(names.project("parent", request.parent))
        if not 1 <= len(request.requests) <= MAX_BATCH:
            raise bad_field("requests", f"must have 1 to {MAX_BATCH} elements")
        creations = []
        for index, one in enumerate(request.requests):
            path = f"requests[{index}]."
            one.parent = one.parent or request.parent
            if names.project(f"{path}parent", one.parent) != project:
                raise bad_field(f"{path}parent", "is not the project named by `parent`")
            creations.append(await self._new_run(one, path))
        runs = await self._store.create_flow_runs(creations)
        return pb.BatchCreateFlowRunsResponse(flow_runs=[convert.flow_run(run) for run in runs])

    async def _new_run(self, request: pb.CreateFlowRunRequest, path: str = "") -> tuple[NewFlowRun, RequestKey]:
        """The run that a request asks for, checked. `path`: where in the message it stands."""
        key = request_key("CreateFlowRun", request, path)
        project = own_project(names.project(f"{path}parent", request.parent))
        flow_project, flow, version = names.flow_or_version(f"{path}flow", request.flow)
        if flow_project != project:
            raise bad_field(f"{path}flow", "is not in the project named by `parent`")
        try:
            facts = await self._backend.version_facts(project, flow, version)
        except NotFoundError:
            raise NotFoundError("no such flow, or not this version of it") from None
        checks.parameters(f"{path}parameters_json", request.parameters_json, facts.parameters, facts.required)
        run_id = new_run_id(self._store.now())
        scheduled = convert.micros_of(request.scheduled_time) if request.HasField("scheduled_time") else 0
        new = NewFlowRun(
            run_id=run_id,
            project=project,
            flow=flow,
            version=facts.version,
            run_name=request.run_name or two_words(run_id),
            parameters_json=request.parameters_json or "{}",
            labels=tuple(dict.fromkeys(request.labels)) if request.override_labels else None,
            scheduled_micros=max(scheduled, 0),
            created_by=calls.principal().name,
        )
        return new, key

    async def GetFlowRun(self, request: pb.GetFlowRunRequest, context: Any) -> pb.FlowRun:
        """See the API."""
        return convert.flow_run(await self._backend.visible_run("name", request.name))

    async def ListFlowRuns(self, request: pb.ListFlowRunsRequest, context: Any) -> pb.ListFlowRunsResponse:
        """See the API."""
        project, scope = reach("parent", request.parent)
        flow = ""
        if request.flow:
            flow_project, flow = names.flow("flow", request.flow)
            if project and flow_project != project:
                raise BadRequestError([FieldViolation("flow", "is not in the project named by `parent`")])
            project = own_project(flow_project)
        states = tuple(StateCode(state) for state in request.states if state)
        runs, token = await gather(
            lambda size, after: self._store.list_flow_runs(
                FlowRunQuery(project, flow, states, request.prefix, scope, size, after)
            ),
            convert.flow_run,
            page_size(request.page_size),
            request.page_token,
            at_once=30,
        )
        return pb.ListFlowRunsResponse(flow_runs=runs, next_page_token=token)

    async def CancelFlowRun(self, request: pb.CancelFlowRunRequest, context: Any) -> pb.FlowRun:
        """See the API."""
        run = await self._backend.visible_run("name", request.name)
        return convert.flow_run(await self._store.cancel_flow_run(run.run_id, calls.principal().name))

    async def ListFlowRunStates(
        self, request: pb.ListFlowRunStatesRequest, context: Any
    ) -> pb.ListFlowRunStatesResponse:
        """See the API."""
        run = await self._backend.visible_run("parent", request.parent)
        states = await self._store.list_flow_run_states(run.run_id)
        return pb.ListFlowRunStatesResponse(states=[convert.flow_run_state(state) for state in states])

    async def ExplainFlowRun(self, request: pb.ExplainFlowRunRequest, context: Any) -> pb.ExplainFlowRunResponse:
        """See the API."""
        return await explain(self._backend, await self._backend.visible_run("name", request.name))

    def WatchFlowRuns(self, request: pb.WatchFlowRunsRequest, context: Any) -> AsyncIterator[pb.WatchFlowRunsResponse]:
        """See the API."""
        return watch(self._backend, request)

    async def ConfirmFlowRunDead(self, request: pb.ConfirmFlowRunDeadRequest, context: Any) -> pb.FlowRun:
        """See the API."""
        run = await self._backend.visible_run("name", request.name)
        return convert.flow_run(await self._store.confirm_flow_run_dead(run.run_id, calls.principal().name))
