"""Containers of a private Docker Engine, whose agent talks to it through a relay that keeps and loses what is said."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import socket
import tarfile
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import docker.errors
import pytest
from tests.support.docker_engine import DockerEngine
from tests.support.places.place import Attempt, Place, Shown, texts_in
from tests.support.tap import Tap

_START = re.compile(rb"^POST /v[\d.]+/containers/[^/ ]+/start ")
_FLOW_RUN, _EPOCH = "heliograph.io/flow-run", "heliograph.io/epoch"


class EngineTap(Tap):
    """A relay before an engine's socket.

    Args:
        socket_path: The engine's.
        folder: Where its own is made.
    """

    def __init__(self, socket_path: str, folder: Path) -> None:
        self._socket_path = socket_path
        self.path = folder / f"{uuid.uuid4().hex[:8]}.sock"
        self.losing, self._deaf = 0, set[int]()
        self._counting = threading.Lock()
        super().__init__(0)

    def listen(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(self.path))
        made.listen(64)
        return made

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(self._socket_path)
        except OSError:  # the engine is away
            made.close()
            raise
        return made

    def lose_answer(self) -> None:
        """The next start of a container is done, and its answer lost with the connection."""
        with self._counting:
            self.losing += 1

    def passes(self, number: int, data: bytes, *, there: bool) -> bool:
        with self._counting:
            if there and self.losing and _START.match(data):
                self.losing -= 1
                self._deaf.add(number)
            return there or number not in self._deaf

    def requests(self) -> Iterator[tuple[str, str, bytes]]:
        """Yields method, target and body of every request."""
        for there, _ in self.connections():
            yield from _requests_in(there)


def _requests_in(stream: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Reads one direction of HTTP/1.1, as far as it goes: whoever spoke may have been killed in the middle."""
    while (end := stream.find(b"\r\n\r\n")) >= 0:
        head, stream = stream[:end].decode("latin-1"), stream[end + 4 :]
        line, *rest = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        length = int(headers.get("content-length") or 0)
        if headers.get("transfer-encoding") == "chunked":
            body, length = b"", -1
            while length and stream:
                size, _, stream = stream.partition(b"\r\n")
                length = int(size, 16)
                body, stream = body + stream[:length], stream[length + 2 :]
        else:
            body, stream, length = stream[:length], stream[length:], max(0, length - len(stream))
        if length:
            return
        method, target, _ = line.split(" ", 2)
        yield method, target, body


class DockerPlace(Place):
    """Containers on the host's network."""

    kind = "docker"
    run_config = "DockerRun"

    def __init__(self, folder: Path, request: pytest.FixtureRequest | None = None) -> None:
        super().__init__(folder, request)
        assert request is not None
        self.engine: DockerEngine = request.getfixturevalue("docker_engine")
        self.image = request.getfixturevalue("runtime_image")
        self.tap = EngineTap(self.engine.url.removeprefix("unix://"), self.engine.folder)

    def agent_arguments(self, address: str) -> list[str]:
        volumes = [word for folder in self.shared for word in ("--volume", f"{folder}:{folder}")]
        return ["--type", "docker", "--base-url", f"unix://{self.tap.path}", "--network", "host", "--keep", "never",
                "--advertise-address", address, *volumes]  # fmt: skip

    def tag(self, name: str) -> None:
        with _client(self.engine) as client:
            client.images.get(self.image).tag(name)
        super().tag(name)

    def described(self, label: Callable[[], str], folder: Callable[[], str]) -> dict[str, Any]:
        return {"container_labels": {"note": label()}, "working_dir": folder()}

    def close(self) -> None:
        self.tap.__exit__()
        self.tap.path.unlink(missing_ok=True)

    def kill(self, attempt: Attempt) -> bool:
        name = f"heliograph-{attempt[0]}-{attempt[1]}"
        with _client(self.engine) as client:
            try:
                client.api.kill(name, signal.SIGKILL)
            except docker.errors.APIError:
                return False
        return True

    def lose_answer(self) -> None:
        self.tap.lose_answer()

    def hurt(self) -> None:
        self.engine.kill()
        self.engine.start()

    def answers_to_lose(self) -> int:
        return self.tap.losing

    def shown(self) -> Shown:
        for method, target, body in self.tap.requests():
            parts = urlsplit(target)
            words = re.sub(r"^/v[\d.]+", "", parts.path).split("/")
            own = words[2:] if words[2:] in (["create"], ["json"]) else ["NAME" if words[2:] else "", *words[3:][-1:]]
            where = f"{method} {'/'.join(['', words[1], *filter(None, own)])}"
            yield f"{where} path", unquote(parts.path).encode()
            for name, value in parse_qsl(parts.query):
                yield f"{method} ?{name}", value.encode()
            yield from _in_body(body, where)

    def made(self) -> list[tuple[Attempt, str]]:
        attempts: dict[str, Attempt] = {}
        started: list[tuple[Attempt, str]] = []
        for _, target, body in self.tap.requests():
            parts = urlsplit(target)
            if parts.path.endswith("/containers/create"):
                labels = json.loads(body)["Labels"]
                attempt = labels[_FLOW_RUN].rpartition("/")[2], int(labels[_EPOCH])
                attempts[dict(parse_qsl(parts.query))["name"]] = attempt
            elif parts.path.endswith("/start"):
                name = parts.path.split("/")[-2]
                started.append((attempts[name], name))
        return started

    def left(self, runs: Collection[str]) -> list[str]:
        with _client(self.engine) as client:
            names = [f"container {one.name}" for one in client.containers.list(all=True, ignore_removed=True)]
            names += [f"volume {one.name}" for one in client.volumes.list()]
        return [name for name in names if any(run in name for run in runs)]


@contextlib.contextmanager
def _client(engine: DockerEngine) -> Iterator[Any]:
    client = engine.client()
    try:
        yield client
    finally:
        client.close()


def _in_body(body: bytes, where: str) -> Shown:
    if not body:
        return
    if body[:1] in b"{[":
        yield from texts_in(json.loads(body), where)
        return
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        for member in archive:
            inside = re.sub(r"[0-9a-f]{16,}", "DIGEST", member.name)
            yield f"{where} names", member.name.encode()
            file = archive.extractfile(member)
            if file is not None:
                yield f"{where} {inside}", file.read()
