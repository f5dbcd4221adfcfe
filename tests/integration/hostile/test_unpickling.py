"""The control plane cannot unpickle: a pickle in every text of every method stays what it is, a text.

The server process is watched from inside, so that every use of pickle or marshal shows, by whatever library; and so
would the file that each pickle makes when it is loaded.
"""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from tests.integration.access.world import REQUESTS, World
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.figures import Figure
from tests.support.scene import Scene

from heliograph.api import contract

PLANTED = Path(__file__).parents[2] / "fault" / "planted"
IMPORT_PICKLE = {"google", "rich", "sqlalchemy", "structlog"}
"""Libraries of the server that import `pickle`: for objects that are to be pickled by others, and a type of column that
the store does not have."""
AT_ONCE = 40
MAX_DEPTH = 5
PATIENT = {"WatchFlowRuns", "TailLogEntries", "LeaseFlowRuns"}
"""Methods that may say nothing for a while."""


class Witness:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def pickles(path: Path) -> list[bytes]:
    """The witness in every form that text or bytes can have."""
    made = [pickle.dumps(Witness(path), protocol) for protocol in (0, 2, 5)]
    return [*made, *(base64.b64encode(one) for one in made), base64.urlsafe_b64encode(made[2]).rstrip(b"=")]


def text_fields(descriptor: Descriptor, before: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every text and byte field of a message."""
    for field in descriptor.fields:
        way = (*before, field)
        if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            yield way
        elif (
            field.message_type is not None
            and len(way) < MAX_DEPTH
            and field.message_type not in [one.message_type for one in before]
        ):
            yield from text_fields(field.message_type, way)


def put(message: Message, way: tuple[FieldDescriptor, ...], value: bytes) -> None:
    """Sets one field."""
    place: Any = message
    for field in way[:-1]:
        place = getattr(place, field.name).add() if field.is_repeated else getattr(place, field.name)
    last = way[-1]
    text: Any = value if last.type == last.TYPE_BYTES else value.decode("latin-1")
    if last.is_repeated:
        getattr(place, last.name).append(text)
    else:
        setattr(place, last.name, text)


def send_everywhere(plane: ControlPlaneProcess, witness: Path, only: str = "") -> int:
    """Sends pickles in every text of every method (or some), in metadata, in place of requests; returns how many."""
    sent = 0
    with ExitStack() as stack:
        scene = Scene(stack, plane)  # type: ignore[arg-type]  # its inside is not looked at
        world = World(scene)
        channel: Any = stack.enter_context(grpc.insecure_channel(plane.address))
        good = ("authorization", f"Bearer {plane.token}")
        calls: list[Any] = []

        def call(path: str, data: bytes, *metadata: tuple[str, Any]) -> None:
            nonlocal sent
            sent += 1
            seconds = 0.4 if path.rpartition("/")[2] in PATIENT else 60.0
            calls.append(channel.stream_stream(path)(iter([data]), timeout=seconds, metadata=metadata or (good,)))
            if len(calls) >= AT_ONCE:
                drain()

        def drain() -> None:
            for one in calls:
                try:
                    next(one, None)
                except grpc.RpcError:
                    continue
                finally:
                    one.cancel()
            calls.clear()

        for method in contract.methods():
            path = f"/{method.containing_service.full_name}/{method.name}"
            name = f"{method.containing_service.name}/{method.name}"
            if only not in name:
                continue
            for value in pickles(witness):
                for way in text_fields(method.input_type):
                    request = REQUESTS[name](world.names)
                    if "wait" in request.DESCRIPTOR.fields_by_name:
                        request.ClearField("wait")
                    put(request, way, value)
                    call(path, request.SerializeToString())
                call(path, value)
            for value in pickles(witness)[3:]:
                call(path, b"", ("authorization", f"Bearer {value.decode()}"))
                call(path, b"", good, ("x-request-id", value.decode()), ("x-blob-bin", value))
        drain()
    return sent


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that tells what a watched server did."""
    log = tmp_path / "unpickling.log"
    monkeypatch.setenv("HELIOGRAPH_UNPICKLING", str(log))
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    return log


def test_no_text_of_any_method_is_unpickled(
    tmp_path: Path, watched: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", "watch_unpickling")
    witness = tmp_path / "witness"
    with control_plane_process(tmp_path / "plane") as plane:
        sent = send_everywhere(plane, witness)
    assert not witness.exists()
    assert watched.read_text(encoding="utf-8").splitlines() == ["watching"]
    figure(f"{sent:,} pickles sent in every text of {len(REQUESTS)} methods: none was loaded")


@pytest.mark.parametrize("planted", ["watched_unpickling", "watched_import_of_cloudpickle"])
def test_a_server_that_unpickles_is_found(
    tmp_path: Path, watched: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", planted)
    witness = tmp_path / "witness"
    with control_plane_process(tmp_path / "plane") as plane:
        send_everywhere(plane, witness, "ProjectService/")
    noted = set(watched.read_text(encoding="utf-8").splitlines())
    if planted == "watched_unpickling":
        assert "call pickle.loads" in noted
        assert witness.exists()
    else:
        assert "import cloudpickle" in noted


def test_who_imports_pickle_is_known() -> None:
    """Named here, so that another one is noticed: what it may be used for is then looked at."""
    script = """
import sys, builtins
importers, plain = set(), builtins.__import__
def noting(name, globals=None, *rest):
    if name.partition(".")[0] in {"pickle", "_pickle", "shelve", "cloudpickle", "multiprocessing"}:
        importers.add((globals or {}).get("__name__", "?"))
    return plain(name, globals, *rest)
builtins.__import__ = noting
import heliograph_control_plane.server
print(*sorted(importers))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()} - {"pickle"}
    assert packages <= IMPORT_PICKLE, done.stdout
