"""ProjectService: namespaces of flows."""

from __future__ import annotations

from typing import Any

from heliograph.api.v1 import project_service_pb2 as pb
from heliograph.api.v1 import project_service_pb2_grpc
from heliograph.exceptions import PermissionDeniedError
from heliograph_control_plane import calls

from . import convert, names
from .backend import Backend, gather, own_project, page_size


class ProjectService(project_service_pb2_grpc.ProjectServiceServicer):
    """Answers ProjectService."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Any) -> pb.Project:
        """See the API. A token that is limited to projects makes those only."""
        name = names.new_id("project_id", request.project_id, 100)
        if not calls.principal().may_see(name):
            raise PermissionDeniedError("the token is limited to other projects")
        return convert.project(await self._store.create_project(name, request.description))

    async def GetProject(self, request: pb.GetProjectRequest, context: Any) -> pb.Project:
        """See the API."""
        name = own_project(names.project("name", request.name))
        return convert.project(await self._store.get_project(name))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Any) -> pb.ListProjectsResponse:
        """See the API."""
        scope = calls.principal().scope
        projects, token = await gather(
            lambda size, after: self._store.list_projects(scope, size, after),
            convert.project,
            page_size(request.page_size),
            request.page_token,
            at_once=1_000,
        )
        return pb.ListProjectsResponse(projects=projects, next_page_token=token)
