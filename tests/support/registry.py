"""A real OCI registry for tests: Debian's docker-registry on loopback, open or with a user and a password."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.stack import free_port

START_SECONDS = 60.0
USER, PASSWORD = "pusher", "not-a-secret"


class Registry:
    """One running registry.

    Attributes:
        address: `127.0.0.1:port`; Docker takes it for insecure by default, and speaks plain HTTP to it.
        user, password: What it wants; empty when it is open.
    """

    def __init__(self, folder: Path, *, protected: bool) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.user, self.password = (USER, PASSWORD) if protected else ("", "")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        auth = ""
        if self.user:
            import bcrypt

            (self.folder / "htpasswd").write_text(
                f"{self.user}:{bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(5, prefix=b'2a')).decode()}\n"
            )
            auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {self.folder}/htpasswd\n"
        config = self.folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n"
            f"    rootdirectory: {self.folder}/data\n  delete:\n    enabled: true\n"
            f"http:\n  addr: {self.address}\n{auth}"
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < limit, "the registry does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def login(self, config: Path) -> None:
        """Writes the login into a Docker configuration folder, as `docker login` would."""
        config.mkdir(parents=True, exist_ok=True)
        file = config / "config.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        known.setdefault("auths", {})[self.address] = {"auth": token}
        file.write_text(json.dumps(known))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False


@contextmanager
def running_registry(*, protected: bool = False) -> Iterator[Registry]:
    """Runs a registry."""
    if shutil.which("docker-registry") is None:
        pytest.fail("the OCI registry is not installed: apt-get install docker-registry", pytrace=False)
    with tempfile.TemporaryDirectory(prefix="heliograph-registry-") as folder:
        registry = Registry(Path(folder), protected=protected)
        registry.start()
        try:
            yield registry
        finally:
            registry.stop()


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """An open registry."""
    with running_registry() as running:
        yield running


@pytest.fixture(scope="session")
def protected_registry() -> Iterator[Registry]:
    """A registry that wants a user and a password."""
    with running_registry(protected=True) as running:
        yield running
