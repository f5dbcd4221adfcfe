"""Nonsense for every method: none of it is answered with a fault of the server, none crashes, hangs or fattens it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.integration.access.world import REQUESTS, World
from tests.integration.hostile.nonsense import Nonsense
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.scene import Scene

from heliograph.api import contract
from heliograph.api.v1 import admin_service_pb2 as admin_pb

FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}
HANG_SECONDS = 60.0
"""A call that is not answered by then hangs."""
PATIENT_SECONDS = 0.4
"""Deadline of a call that may rightly wait: silence until then is good, if the request can be read at all."""
PATIENT = {"WatchFlowRuns", "TailLogEntries", "LeaseFlowRuns", "Watch"}
"""Methods whose good answer may be that nothing comes for a while."""
AT_ONCE = 40
GROWTH_BYTES = 50 * 1024 * 1024


class Target:
    """One method on the wire."""

    def __init__(self, path: str, request: Descriptor, good: Callable[[], Message], streams: tuple[bool, bool]) -> None:
        self.path, self.request, self.good, self.streams = path, request, good, streams

    @property
    def patient(self) -> bool:
        """True when silence is a good answer."""
        return self.path.rpartition("/")[2] in PATIENT

    def can_be_read(self, request: bytes) -> bool:
        """True when the bytes are a message: about what cannot be read, silence is no answer."""
        try:
            GetMessageClass(self.request).FromString(request)
        except DecodeError:
            return False
        return True


def targets(world: World) -> list[Target]:
    """Every method of the server."""
    found = []
    for method in contract.methods():
        name = f"{method.containing_service.name}/{method.name}"
        found.append(
            Target(
                f"/{method.containing_service.full_name}/{method.name}",
                method.input_type,
                lambda name=name: REQUESTS[name](world.names),  # type: ignore[misc]
                (method.client_streaming, method.server_streaming),
            )
        )
    files = (health_pb2, channelz_pb2, reflection_pb2)
    for service in [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]:
        for method in service.methods:
            for package in ("v1", "v1alpha") if "reflection" in service.full_name else ("",):
                full_name = service.full_name.replace("v1alpha", package) if package else service.full_name
                found.append(
                    Target(
                        f"/{full_name}/{method.name}",
                        method.input_type,
                        GetMessageClass(method.input_type),
                        (method.client_streaming, method.server_streaming),
                    )
                )
    return found


class Fuzz:
    """Sends nonsense to a server and judges its answers."""

    def __init__(self, plane: ControlPlaneProcess, scene: Scene, hang_seconds: float = HANG_SECONDS) -> None:
        self.hang_seconds = hang_seconds
        self.world = World(scene)
        tokens = self.world.tokens
        names = self.world.names
        self.names = [
            names.project, names.flow, names.flow + "/versions/1", names.flow + "/schedule", names.agent, names.token,
            names.running.run, names.running.run + "/taskRuns/0", names.doomed, names.sibling, names.idle_agent,
        ]  # fmt: skip
        self.authorizations = [f"Bearer {token}" for token in (*tokens.values(), *[plane.token] * 8, "no")]
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, channel: Any, target: Target, count: int, seed: str) -> None:
        """Sends `count` requests to one method."""
        nonsense = Nonsense(f"{seed} {target.path}", target.request, target.good, self.names)
        chance = random.Random(f"{seed} {target.path}")
        sent = (
            ([nonsense.request() for _ in range(chance.choice([0, 1, 1, 2, 5]) if target.streams[0] else 1)], number)
            for number in range(count)
        )
        while batch := list(islice(sent, AT_ONCE)):
            calls = []
            for requests, _ in batch:
                metadata = (("authorization", chance.choice(self.authorizations)),)
                calls.append((requests, self._start(channel, target, requests, metadata)))
            for requests, call in calls:
                self._judge(target, requests, *self._finish(target, call))

    def _start(self, channel: Any, target: Target, requests: list[bytes], metadata: Any) -> Any:
        seconds = PATIENT_SECONDS if target.patient else self.hang_seconds
        if target.streams == (False, False):
            return channel.unary_unary(target.path).future(requests[0], timeout=seconds, metadata=metadata)
        if target.streams == (False, True):
            return channel.unary_stream(target.path)(requests[0], timeout=seconds, metadata=metadata)
        return channel.stream_stream(target.path)(iter(requests), timeout=seconds, metadata=metadata)

    def _finish(self, target: Target, call: Any) -> tuple[grpc.StatusCode, str]:
        try:
            if target.streams == (False, False):
                call.result()
            elif target.patient:
                next(call, None)
            else:
                for _ in call:
                    pass
        except grpc.RpcError as error:
            return error.code(), str(error.details())
        finally:
            call.cancel()
        return grpc.StatusCode.OK, ""

    def _judge(self, target: Target, requests: list[bytes], code: grpc.StatusCode, said: str) -> None:
        self.codes[code.name] += 1
        waits_rightly = target.patient and all(target.can_be_read(request) for request in requests)
        if code in FAULTS or (code is grpc.StatusCode.DEADLINE_EXCEEDED and not waits_rightly):
            shown = " ".join(request.hex()[:400] for request in requests)
            self.wrong.append(f"{target.path}: {code.name} {said} for {shown}")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


def fuzz(
    plane: ControlPlaneProcess, count: int, seed: str, only: str = "", hang_seconds: float = HANG_SECONDS
) -> tuple[Fuzz, int]:
    """Fuzzes all methods, or those whose path contains `only`; returns the answers and how much the server grew."""
    process = psutil.Process(plane.pid)
    with ExitStack() as stack:
        made = Fuzz(plane, Scene(stack, plane), hang_seconds)  # type: ignore[arg-type]  # its inside is not looked at
        channel = stack.enter_context(grpc.insecure_channel(plane.address))
        chosen = [target for target in targets(made.world) if only in target.path]
        # What a first call of each kind makes the server load and keep is not growth.
        for target in chosen:
            made.run(channel, target, max(count // 10, 20), f"{seed} first")
        before = process.memory_info().rss
        for target in chosen:
            made.run(channel, target, count, seed)
            assert process.is_running()
        made.world.scene.admin.admin.GetServerInfo(admin_pb.GetServerInfoRequest(), timeout=HANG_SECONDS)
        return made, process.memory_info().rss - before


@forms("count", quick=200, full=100_000, seconds=6 * 3_600)
def test_nonsense_is_never_a_fault(plane: ControlPlaneProcess, count: int, figure: Figure) -> None:
    made, growth = fuzz(plane, count, str(count))
    assert not made.wrong, "\n".join(made.wrong[:20])
    # Were they all refused at the door, nothing would have been tried.
    assert made.codes["OK"] > sum(made.codes.values()) // 20
    assert growth < GROWTH_BYTES
    figure(
        f"{sum(made.codes.values()):,} requests, {count:,} to each method: no fault; memory {growth >> 20:+d} MB;"
        f" {dict(made.codes.most_common(5))}"
    )


@pytest.mark.parametrize("planted", ["fail", "hang", "die", "grow"])
def test_a_handler_that_fails_on_some_value_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """One value in 140 is answered with a fault, not at all, with the server's death, or costs memory for ever."""
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", f"{planted}_on_a_percent_sign")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "fault" / "planted"))
    with control_plane_process(tmp_path) as faulty:
        try:
            made, growth = fuzz(
                faulty, 2_000, "planted", only="ProjectService/GetProject", hang_seconds=5 if planted == "hang" else 60
            )
        except (grpc.RpcError, psutil.Error, AssertionError):
            assert planted == "die"
            return
    assert planted != "die"
    if planted == "grow":
        assert growth >= GROWTH_BYTES
        assert not made.wrong
    else:
        assert any(("DEADLINE_EXCEEDED" if planted == "hang" else "INTERNAL") in line for line in made.wrong)
