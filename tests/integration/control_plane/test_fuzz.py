"""Nonsense in every shape: no method answers it with a fault of the server, and the server is well afterwards."""

from __future__ import annotations

import random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.support.scene import Api, RunningRun, Scene, flow_event, task_event

from heliograph.api import contract
from heliograph.api.v1 import admin_service_pb2 as admin_pb

ROUNDS = 12
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
TEXTS = [
    "", "-", ".", "..", "a", "projects/p", "projects/-", "projects/p/flows/f", "projects/p/flowRuns/x", "agents/a",
    "projects/p/flows/f/versions/999999999", "projects/p/flowRuns/00000000-0000-0000-0000-000000000000",
    "projects/p/flowRuns/00000000-0000-0000-0000-000000000000/taskRuns/4294967295.1", "tokens/x", "users/a", "{}", "[]",
    '{"x": 1}', "' OR 1=1 --", "%", "_", "\x00", "\u202e", "<x>", "漢字", "a" * 300, "sha256:" + "0" * 64, "latest",
    "* * * * *", "Europe/Rome", "../../etc/passwd", "eyJhIjoxfQ==", "AAAA",
]  # fmt: skip
NUMBERS = [0, 1, 2, 7, 100, 1_000, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**63)]


class Nonsense:
    """Makes messages of any type from odd values, and from names of what really exists."""

    def __init__(self, seed: str, texts: list[str], numbers: list[int]) -> None:
        self._random = random.Random(seed)
        self._texts, self._numbers = texts, numbers

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._random.random() < (0.25 if depth < 4 else 0.8):
                continue
            if field.is_repeated:
                values = [self._value(field, depth) for _ in range(self._random.choice([1, 1, 2, 5]))]
                getattr(made, field.name).extend(value for value in values if value is not None)
            elif field.message_type is not None:
                getattr(made, field.name).CopyFrom(self._value(field, depth))
            elif (value := self._value(field, depth)) is not None:
                setattr(made, field.name, value)
        return made

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type is not None:
            return self.message(field.message_type, depth + 1)
        if field.type == field.TYPE_STRING:
            return self._random.choice(self._texts)
        if field.type == field.TYPE_BOOL:
            return self._random.random() < 0.5
        if field.enum_type is not None:
            return self._random.choice([*field.enum_type.values_by_number, 99])
        number = self._random.choice(self._numbers)
        low, high = {
            field.TYPE_UINT32: (0, 2**32 - 1),
            field.TYPE_UINT64: (0, 2**64 - 1),
            field.TYPE_INT32: (-(2**31), 2**31 - 1),
        }.get(field.type, (-(2**63), 2**63 - 1))
        return number if low <= number <= high else None


@pytest.fixture(scope="module")
def run(scene: Scene) -> RunningRun:
    made = scene.running()
    made.report(1, flow_event("RUNNING"), task_event(0, "RUNNING"))
    return made


def answer(api: Api, method: str, message: Message, seconds: float) -> tuple[grpc.StatusCode, str | None]:
    """Sends one message and waits for the first answer; streams that are good answers may stay silent."""
    call = api.channel.stream_stream(method)(iter([message.SerializeToString()]), timeout=seconds)
    try:
        next(call, None)
    except grpc.RpcError as error:
        return error.code(), error.details()
    finally:
        call.cancel()
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("name", [method.full_name for method in contract.methods()])
def test_nonsense_is_never_a_fault(scene: Scene, run: RunningRun, name: str) -> None:
    (method,) = [method for method in contract.methods() if method.full_name == name]
    flow_version = run.now().flow_version
    real = [run.name, run.agent, flow_version, flow_version.partition("/versions")[0], run.name.partition("/flow")[0]]
    nonsense = Nonsense(name, [*TEXTS, *real * 4], [*NUMBERS, run.epoch, run.epoch])
    everyone: list[Api] = [scene.admin, run.agent_api, run.api]
    wire = f"/{method.containing_service.full_name}/{method.name}"
    seen = set()
    for round_number in range(ROUNDS):
        message = nonsense.message(method.input_type)
        if "wait" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("wait")
        for api in everyone:
            code, said = answer(api, wire, message, 0.3 if method.server_streaming else 5.0)
            assert code not in FAULTS, f"round {round_number}: {said}\n{message}"
            seen.add(code)
    assert scene.admin.admin.GetServerInfo(admin_pb.GetServerInfoRequest()).incarnation
    assert seen
