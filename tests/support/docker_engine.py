"""A private Docker Engine for tests: Debian's dockerd in a folder of its own, on a bridge of its own.

Use the fixture `docker_engine` by importing it in a `conftest.py`, and put the tests into the xdist group `docker`, so
that one engine serves them all. Its absence is a failure, never a skip, where it can be installed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

START_SECONDS = 60.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class DockerEngine:
    """One running dockerd.

    Args:
        options: More options for dockerd.
        parent: Where its folder is made; the shorter, the better.

    Attributes:
        folder: Its folder.
        url: Where it listens, as `DOCKER_HOST` wants it.
        gateway: Address of the host as containers on the default bridge see it.
        bridge: Name of that bridge.
    """

    def __init__(self, *options: str, parent: Path = Path("/tmp")) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-docker-", dir=parent))  # sockets want a short path
        self._options = options
        self.url = f"unix://{self.folder}/d.sock"
        number = _free_network()
        self.bridge = f"hg{os.getpid() % 100_000}-{number}"  # a process may have several
        self.gateway = f"172.29.{number}.1"
        self._process: subprocess.Popen[bytes] | None = None
        # In memory: layers are unpacked with a sync for each file, which a disk that is shared takes minutes for.
        (self.folder / "data").mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6g", "tmpfs", str(self.folder / "data")],
            check=True,
            capture_output=True,
        )
        for command in (
            ["link", "add", self.bridge, "type", "bridge"],
            ["addr", "add", f"{self.gateway}/24", "dev", self.bridge],
            ["link", "set", self.bridge, "up"],
        ):
            subprocess.run(["ip", *command], check=True, capture_output=True, env={**os.environ, "PATH": _PATH})
        self.start()

    @property
    def log(self) -> Path:
        """What dockerd says."""
        return self.folder / "dockerd.log"

    def start(self) -> None:
        """Starts the daemon and waits until it answers. Containers of before are there again.

        It is told what `host-gateway` is: Docker 20.10 does not find out when containers outlived the daemon before.
        On a busy machine it may give up on its own containerd, which it waits 15 s for: it is started again then.
        """
        for last in (False, False, True):
            if self._start(last=last):
                return
            self._end_containerd()

    def _start(self, *, last: bool) -> bool:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec"),
                 "-H", self.url, "--pidfile", str(self.folder / "pid"), "--bridge", self.bridge, "--iptables=false",
                 "--ip-masq=false", "--live-restore", "--host-gateway-ip", self.gateway, *self._options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": _PATH},
                start_new_session=True,
            )  # fmt: skip
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None and not last:
                return False
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < limit, f"dockerd does not answer:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.05)
        return True

    def _end_containerd(self) -> None:
        """Kills the daemon's containerd, which else holds its database; shims and containers go on."""
        file = self.folder / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            if b"containerd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                while Path(f"/proc/{pid}").exists():
                    time.sleep(0.01)
            file.unlink()

    def client(self, **options: Any) -> docker.DockerClient:
        """Returns a client of this engine."""
        return docker.DockerClient(base_url=self.url, **options)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a Docker client finds the engine, and nobody's registry logins."""
        config = self.folder / "config"
        config.mkdir(exist_ok=True)
        return {"DOCKER_HOST": self.url, "DOCKER_CONFIG": str(config)}

    def kill(self) -> None:
        """Kills the daemon with -9. Containers go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._end_containerd()
        for name in ("pid", "d.sock"):
            (self.folder / name).unlink(missing_ok=True)

    def terminate(self) -> None:
        """Asks the daemon to stop, and waits for it."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def stop(self) -> None:
        """Ends the daemon with all of its containers, and removes everything."""
        assert self._process is not None
        if self._process.poll() is None:
            with contextlib.suppress(Exception):  # best effort: what is left is killed below
                client = self.client(timeout=10)
                for container in client.containers.list(all=True):
                    container.remove(force=True)
                client.close()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self._end_what_is_left()
        subprocess.run(["umount", "-R", "-l", str(self.folder)], check=False, capture_output=True)
        for line in Path("/proc/self/mounts").read_text().splitlines():
            place = line.split()[1]
            if place.startswith(str(self.folder)):
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        subprocess.run(
            ["ip", "link", "del", self.bridge], check=False, capture_output=True, env={**os.environ, "PATH": _PATH}
        )
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_what_is_left(self) -> None:
        """Kills containerd, shims and containers of this engine: they outlive a daemon that was killed."""
        mark = str(self.folder).encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)

    def _answers(self) -> bool:
        if not (self.folder / "d.sock").exists():
            return False
        try:
            client = self.client(timeout=5)
        except docker.errors.DockerException:
            return False
        try:
            return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False
        finally:
            client.close()


def _free_network() -> int:
    """Returns a number that no bridge has, not even one that an engine left which was killed: its route would win."""
    shown = ["ip", "-4", "-o", "addr", "show"]
    told = subprocess.run(shown, check=True, capture_output=True, text=True, env={**os.environ, "PATH": _PATH}).stdout
    return random.choice([number for number in range(16, 250) if f" 172.29.{number}.1/" not in told])


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """The engine of this test process."""
    if shutil.which("dockerd", path=_PATH) is None:
        pytest.fail("Docker's engine is not installed: apt-get install docker.io", pytrace=False)
    engine = DockerEngine()
    try:
        yield engine
    finally:
        engine.stop()
