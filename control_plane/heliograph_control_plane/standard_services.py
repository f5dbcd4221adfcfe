"""The standard services: health, reflection in both versions, channelz. All of them behind the same interceptor."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import json_format
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from grpc_channelz.v1 import _async as channelz_async
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import _async as health_async
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from heliograph.exceptions import NotFoundError

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class _Channelz(channelz_async.ChannelzServicer):  # type: ignore[misc]
    """channelz over a gRPC that may be newer than its messages: what they have no field for is left out."""

    @staticmethod
    async def GetSocket(request: Any, context: Any) -> Any:  # noqa: N802, ARG004  # as the API has it
        """Describes one connection."""
        try:
            described = cygrpc.channelz_get_socket(request.socket_id)
        except ValueError:
            raise NotFoundError("no such socket") from None
        return json_format.Parse(described, channelz_pb2.GetSocketResponse(), ignore_unknown_fields=True)


def add_standard_services(server: grpc.aio.Server, service_names: list[str]) -> health_async.HealthServicer:
    """Adds the standard services. Returns the one for health, which the owner tells of the end."""
    health = health_async.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    channelz_pb2_grpc.add_ChannelzServicer_to_server(_Channelz(), server)
    names = [*service_names, "grpc.channelz.v1.Channelz", "grpc.health.v1.Health", reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    _add_reflection_v1(server, names)
    return health


def _add_reflection_v1(server: grpc.aio.Server, names: list[str]) -> None:
    """Serves version 1 by the servicer of v1alpha: the messages are the same on the wire.

    It is not in the list of services, because no pool has its descriptor and clients ask for those that are listed.
    """
    servicer: Any = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler}),)
    )
