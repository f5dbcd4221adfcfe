"""Tools that never saw our stubs use the API by reflection: grpcurl (v1 and v1alpha), buf curl, channelz."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tests.support.scene import Scene, unique

from heliograph.api.v1 import options_pb2

BIN = Path(sys.executable).parent
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def grpcurl(scene: Scene, *arguments: str, code: int = 0) -> str:
    token = f"authorization: Bearer {scene.plane.token}"
    return run(str(BIN / "grpcurl"), "-plaintext", "-max-time", "20", "-H", token, *arguments, code=code)


def test_grpcurl_lists_and_describes(scene: Scene) -> None:
    services = grpcurl(scene, scene.plane.address, "list").split()
    assert "heliograph.api.v1.FlowRunService" in services
    assert "grpc.health.v1.Health" in services
    assert len([name for name in services if name.startswith("heliograph.api.v1.")]) == 10
    for name in services:
        assert "service" in grpcurl(scene, scene.plane.address, "describe", name)
    described = grpcurl(scene, scene.plane.address, "describe", "heliograph.api.v1.LogEntry")
    assert "CROSSING_CLASS_USER_TEXT" in described


def test_grpcurl_calls_and_shows_typed_errors(scene: Scene) -> None:
    name = unique("project")
    method = "heliograph.api.v1.ProjectService/CreateProject"
    made = json.loads(grpcurl(scene, "-d", json.dumps({"project_id": name}), scene.plane.address, method))
    assert made["name"] == f"projects/{name}"
    refused = grpcurl(scene, "-d", '{"project_id": "a/b"}', scene.plane.address, method, code=67)
    assert "InvalidArgument" in refused
    assert "INVALID_ARGUMENT" in refused
    assert "project_id" in refused


def test_grpcurl_without_a_token_learns_nothing(scene: Scene) -> None:
    out = run(str(BIN / "grpcurl"), "-plaintext", "-max-time", "20", scene.plane.address, "list", code=1)
    assert "no valid token" in out


def test_buf_curl_calls_by_reflection(scene: Scene) -> None:
    for protocol in ("grpc-v1", "grpc-v1alpha"):
        out = run(
            str(BIN / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect",
            "--reflect-protocol", protocol, "--reflect-header", f"authorization: Bearer {scene.plane.token}",
            "--header", f"authorization: Bearer {scene.plane.token}",
            f"http://{scene.plane.address}/heliograph.api.v1.AdminService/WhoAmI",
        )  # fmt: skip
        assert json.loads(out) == {"principal": "users/admin", "roles": ["ROLE_ADMIN"]}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_tells_policies_and_knows_what_it_lists(scene: Scene, version: str) -> None:
    ask = scene.admin.channel.stream_stream(
        REFLECTION.format(version),
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (listed,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=60)
    names = [service.name for service in listed.list_services_response.service]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    for answer in ask(iter(asked), timeout=60):
        assert answer.file_descriptor_response.file_descriptor_proto
    unknown = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
    (answer,) = ask(iter([unknown]), timeout=60)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert options_pb2.policy.number == 50101


def test_channelz_tells_of_the_server(scene: Scene) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(scene.admin.channel)
    servers = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=60).server
    assert any(server.data.calls_started for server in servers)
