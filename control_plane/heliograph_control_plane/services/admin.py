"""AdminService: the server itself, and the caller as the server sees it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, cast

from heliograph.api.v1 import admin_service_pb2 as pb
from heliograph.api.v1 import admin_service_pb2_grpc, options_pb2
from heliograph_control_plane import calls

from . import convert
from .backend import Backend

FEATURES = ("logs.tail", "runs.stream", "runs.watch", "schedules")
"""What this server can do beyond the first release of the API; clients ask for names, never for versions."""


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """Answers AdminService."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.ServerInfo:
        """See the API."""
        return pb.ServerInfo(
            version=version("heliograph"),
            incarnation=self._store.incarnation,
            features=FEATURES,
            store=self._store.kind,
            time=convert.timestamp(self._store.now()),
        )

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        """See the API."""
        caller = calls.principal()
        return pb.WhoAmIResponse(
            principal=caller.name,
            roles=[cast("options_pb2.Role.ValueType", role) for role in sorted(caller.roles)],
            projects=[f"projects/{name}" for name in sorted(caller.projects)],
            expire_time=convert.timestamp(caller.expire_micros),
        )
