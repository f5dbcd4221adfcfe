"""A server that speaks Azure Blob Storage's API: Azurite, on loopback, started once per session."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.stack import free_port

__all__ = ["AzureServer", "azurite"]

START_SECONDS = 60.0
_PROGRAM = Path(sys.prefix) / "azurite/node_modules/azurite/dist/src/blob/main.js"


@dataclass(frozen=True)
class AzureServer:
    """A running server.

    Attributes:
        port: Its port.
        account: Name of its account.
        key: The account's key, which may do everything.
    """

    port: int
    account: str
    key: str

    @property
    def account_url(self) -> str:
        """Address of the account."""
        return f"http://127.0.0.1:{self.port}/{self.account}"

    def connection_string(self, *, key: str = "", signature: str = "") -> str:
        """Returns a connection string with a key, or with a shared access signature."""
        login = f"SharedAccessSignature={signature}" if signature else f"AccountKey={key or self.key}"
        return f"DefaultEndpointsProtocol=http;AccountName={self.account};BlobEndpoint={self.account_url};{login};"

    def signature(self, container: str, *, permission: str = "rl") -> str:
        """Returns a shared access signature for a container, for reading and listing by default."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        return str(
            generate_container_sas(
                self.account, container, account_key=self.key, expiry=datetime.now(UTC) + timedelta(hours=2),
                permission=ContainerSasPermissions.from_string(permission),
            )
        )  # fmt: skip

    def container(self, name: str) -> Any:
        """Returns a container of Azure's own library."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection_string()).get_container_client(name)

    def new_container(self) -> str:
        """Makes a container with a name of its own."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.container(name).create_container()
        return name


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzureServer]:
    """Starts the server, and stops it at the end of the session."""
    node = shutil.which("node") or shutil.which("nodejs")
    if node is None or not _PROGRAM.exists():
        pytest.fail(f"{_PROGRAM} or Node.js is not there: tools/install.sh system", pytrace=False)
    key = base64.b64encode(os.urandom(48)).decode()
    with tempfile.TemporaryDirectory(prefix="heliograph-azurite-") as folder:
        for _ in range(3):  # a port may be taken between its choice and its use
            server = AzureServer(free_port(), "heliotest", key)
            command = [
                node, str(_PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", str(server.port),
                "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableProductStyleUrl",
            ]  # fmt: skip
            environment = {**os.environ, "AZURITE_ACCOUNTS": f"{server.account}:{key}"}
            with (Path(folder) / "log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
            if _is_up(process, server.port):
                break
            process.kill()
            process.wait()
        else:
            pytest.fail(f"Azurite did not start:\n{(Path(folder) / 'log').read_text()[-4000:]}")
        try:
            yield server
        finally:
            process.kill()  # it keeps everything in memory
            process.wait()


def _is_up(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            time.sleep(0.02)  # there is no event to wait for in another program's start
        else:
            return True
    return False
