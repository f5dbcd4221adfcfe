"""A control plane for tests: in this process on a thread of its own, or as a process that can be killed.

Both listen on a free port of loopback with a fresh embedded store, and hand out the first administrator's token.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from heliograph_control_plane.server import ControlPlane, ServerSettings

T = TypeVar("T")

START_SECONDS = 90.0


class InProcessControlPlane:
    """A control plane on an event loop in a thread of this process.

    Attributes:
        address: `127.0.0.1:port`.
        token: The first administrator's token.
        plane: The control plane itself, for its metrics and its store.
    """

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self._settings = ServerSettings(data_dir=data_dir, **{"port": 0, **settings})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control-plane", daemon=True)
        self.plane = ControlPlane(self._settings)

    def start(self) -> None:
        self._thread.start()
        try:
            self.run(self.plane.start())
        except BaseException:
            self._end()
            raise
        self.address = self.plane.address
        assert self.plane.admin_token_file is not None
        self.token = self.plane.admin_token_file.read_text(encoding="ascii").strip()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the control plane's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function on the control plane's event loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    def stop(self, grace_seconds: float = 0.2) -> None:
        """Stops the control plane and its thread."""
        try:
            self.run(self.plane.stop(grace_seconds))
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def control_plane(data_dir: Path, **settings: Any) -> Iterator[InProcessControlPlane]:
    """Runs a control plane in this process. `settings`: fields of `ServerSettings`."""
    running = InProcessControlPlane(data_dir, **settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class ControlPlaneProcess:
    """A control plane as a process of its own; it keeps its port and its store over kills and starts.

    Attributes:
        address: `127.0.0.1:port`, set by `start`.
        token: The first administrator's token, set by `start`.
        log: File with its stdout and stderr.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.data_dir = folder / "control-plane"
        self.log = folder / "control-plane.log"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "heliograph_control_plane", "start", "--port", str(self._port),
            "--data-dir", str(self.data_dir), "--ready-file", str(ready), *self._arguments,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the control plane did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        self.address = ready.read_text(encoding="ascii").strip()
        self._port = int(self.address.rpartition(":")[2])
        self.token = (self.data_dir / "admin.token").read_text(encoding="ascii").strip()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """Asks it to stop; returns its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            os.kill(self._process.pid, number)
        code = self._process.wait(90)
        self._process = None
        return code


@contextmanager
def control_plane_process(folder: Path, *arguments: str) -> Iterator[ControlPlaneProcess]:
    """Runs a control plane as a process. `arguments`: more flags of `heliograph server start`."""
    process = ControlPlaneProcess(folder, *arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._metadata = ("authorization", f"Bearer {token}")

    def _with_token(self, details: Any) -> Any:
        metadata = [*(details.metadata or ()), self._metadata]
        timeout = details.timeout if details.timeout is not None else 30.0
        return _Details(details.method, timeout, metadata, details.credentials, details.wait_for_ready, None)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_token(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_token(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._with_token(details), requests)


class _Details(grpc.ClientCallDetails):
    def __init__(
        self, method: str, timeout: float, metadata: Any, credentials: Any, ready: Any, compression: Any
    ) -> None:
        self.method, self.timeout, self.metadata = method, timeout, metadata
        self.credentials, self.wait_for_ready, self.compression = credentials, ready, compression


@contextmanager
def channel(address: str, token: str) -> Iterator[grpc.Channel]:
    """A plaintext channel whose calls carry `token` and a deadline of 30 s when they name none."""
    with grpc.insecure_channel(address) as plain:
        yield grpc.intercept_channel(plain, _Bearer(token))
