"""A real S3 server for tests: SeaweedFS on loopback, with two users, started once per session.

Use the fixture `s3` by importing it in a `conftest.py`: `from tests.support.seaweed import s3`. It is a skip with its
reason where the program `weed` is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["S3Server", "s3", "s3_server"]

START_SECONDS = 60.0
_GRPC_OFFSET = 10_000
_ACTIONS = ("Admin", "Read", "List", "Tagging", "Write")


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint_url: Its address.
        access_key: Key of a user who may do everything.
        secret_key: Its secret.
        reader_key: Key of a user who may only read `readable-*` buckets.
        reader_secret: Its secret.
    """

    endpoint_url: str
    access_key: str
    secret_key: str
    reader_key: str
    reader_secret: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which boto3 finds the server: for processes, and for `monkeypatch.setenv`."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """Returns a boto3 client of the user who may do everything."""
        import boto3

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )

    def new_bucket(self, prefix: str = "test") -> str:
        """Makes a bucket with a name of its own."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Starts SeaweedFS, and stops it at the end of the session."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.fail("the program `weed` is not installed: make dev", pytrace=False)
    folder = tmp_path_factory.mktemp("seaweed")
    server = S3Server("", "test-admin", uuid.uuid4().hex, "test-reader", uuid.uuid4().hex)
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    _identity("admin", server.access_key, server.secret_key, list(_ACTIONS)),
                    _identity(
                        "reader", server.reader_key, server.reader_secret, ["Read:readable-*", "List:readable-*"]
                    ),
                ]
            }
        )
    )
    log = folder / "weed.log"
    for attempt in range(3):  # a port may be taken between its choice and its use
        master, volume, filer, port, admin = _free_ports(5)
        endpoint = f"http://127.0.0.1:{port}"
        command = [
            weed, "mini", f"-dir={folder / f'data-{attempt}'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
            f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}", "-webdav=false",
            "-admin.ui=false", f"-admin.port={admin}",
        ]  # fmt: skip
        (folder / f"data-{attempt}").mkdir()
        with log.open("ab") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder, start_new_session=True)
        if _wait_until_up(process, endpoint):
            break
        _stop(process)
    else:
        pytest.fail(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-4000:]}")
    try:
        yield S3Server(endpoint, server.access_key, server.secret_key, server.reader_key, server.reader_secret)
    finally:
        _stop(process)


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the environment set so that boto3 finds it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _free_ports(count: int) -> list[int]:
    """Finds ports that are free together with the one 10,000 above, where the server's gRPC listens."""
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(found) < count:
            first = socket.socket()
            held.append(first)
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + _GRPC_OFFSET > 65_535:
                port -= _GRPC_OFFSET
                if not _bind(port, held):
                    continue
            if _bind(port + _GRPC_OFFSET, held) or port + _GRPC_OFFSET == first.getsockname()[1]:
                found.append(port)
    finally:
        for item in held:
            item.close()
    return found


def _bind(port: int, held: list[socket.socket]) -> bool:
    item = socket.socket()
    try:
        item.bind(("127.0.0.1", port))
    except OSError:
        item.close()
        return False
    held.append(item)
    return True


def _wait_until_up(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Waits until the server refuses an unsigned request: then its users are loaded."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 403:
                return True
        except OSError:
            pass
        time.sleep(0.1)  # there is no event to wait for in another program's start
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kills it: what it holds is of no use to anybody, and its own way to end takes a quarter of a minute."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
