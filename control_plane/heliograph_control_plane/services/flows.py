"""FlowService: registered flows and their versions."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

from heliograph.api.v1 import flow_service_pb2 as pb
from heliograph.api.v1 import flow_service_pb2_grpc
from heliograph_control_plane import calls
from heliograph_control_plane.store.records import Flow, NewFlowVersion, Registered

from . import checks, convert, names
from .backend import Backend, gather, own_project, page_size
from .reach import reach
from .schedules import schedule_message


class FlowService(flow_service_pb2_grpc.FlowServiceServicer):
    """Answers FlowService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def RegisterFlowVersion(
        self, request: pb.RegisterFlowVersionRequest, context: Any
    ) -> pb.RegisterFlowVersionResponse:
        """See the API."""
        project = own_project(names.project("parent", request.parent))
        flow = names.new_id("flow_id", request.flow_id, 200)
        # On a thread: a graph of 10,000 tasks takes longer than other calls may be held up.
        await asyncio.to_thread(_check, request)
        new = NewFlowVersion(
            project=project,
            flow=flow,
            content_hash=content_hash(request),
            graph=request.graph.SerializeToString(deterministic=True),
            bundle=request.bundle.SerializeToString(deterministic=True),
            launch=request.launch.SerializeToString(deterministic=True),
            schedule=request.schedule.SerializeToString(deterministic=True) if request.schedule.clocks else b"",
            labels=tuple(dict.fromkeys(request.launch.labels)),
            launcher=request.launch.launcher,
            host=request.bundle.host,
            created_by=calls.principal().name,
            schedule_paused=request.schedule_paused,
        )
        # A task of its own: a caller that goes away must not leave the older version remembered.
        registered = await asyncio.shield(asyncio.create_task(self._register(new)))
        return pb.RegisterFlowVersionResponse(
            flow_version=convert.flow_version(registered.version), created=registered.created
        )

    async def _register(self, new: NewFlowVersion) -> Registered:
        try:
            return await self._store.register_flow_version(new)
        finally:
            self._backend.registered(new.project, new.flow)

    async def GetFlow(self, request: pb.GetFlowRequest, context: Any) -> pb.Flow:
        """See the API."""
        project, flow = names.flow("name", request.name)
        return self._message(await self._store.get_flow(own_project(project), flow))

    async def ListFlows(self, request: pb.ListFlowsRequest, context: Any) -> pb.ListFlowsResponse:
        """See the API."""
        project, scope = reach("parent", request.parent)
        flows, token = await gather(
            lambda size, after: self._store.list_flows(project, scope, size, after),
            self._message,
            page_size(request.page_size),
            request.page_token,
            at_once=8,
        )
        return pb.ListFlowsResponse(flows=flows, next_page_token=token)

    async def GetFlowVersion(self, request: pb.GetFlowVersionRequest, context: Any) -> pb.FlowVersion:
        """See the API."""
        project, flow, number = names.version("name", request.name)
        return convert.flow_version(await self._store.get_flow_version(own_project(project), flow, number))

    async def ListFlowVersions(self, request: pb.ListFlowVersionsRequest, context: Any) -> pb.ListFlowVersionsResponse:
        """See the API."""
        project, flow = names.flow("parent", request.parent)
        own_project(project)
        versions, token = await gather(
            lambda size, after: self._store.list_flow_versions(project, flow, size, after),
            convert.flow_version,
            page_size(request.page_size),
            request.page_token,
            at_once=8,
        )
        return pb.ListFlowVersionsResponse(flow_versions=versions, next_page_token=token)

    def _message(self, record: Flow) -> pb.Flow:
        schedule = schedule_message(record.schedule, self._store.now()) if record.schedule else None
        return convert.flow(record, schedule)


def _check(request: pb.RegisterFlowVersionRequest) -> None:
    checks.graph(request.graph)
    checks.bundle(request.bundle)
    parameters = request.graph.parameters
    required = [parameter.name for parameter in parameters if parameter.required]
    checks.schedule(request.schedule, [parameter.name for parameter in parameters], required)


def content_hash(request: pb.RegisterFlowVersionRequest) -> str:
    """Digest of what makes a version: graph, bundle, launch summary, clocks. Not its name, nor whether it is paused."""
    content = pb.RegisterFlowVersionRequest(
        graph=request.graph, bundle=request.bundle, launch=request.launch, schedule=request.schedule
    )
    return "sha256:" + sha256(content.SerializeToString(deterministic=True)).hexdigest()
