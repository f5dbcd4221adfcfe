"""Docker Engines that are reached by ssh: a socket of this machine whose every connection is one of ssh.

The Docker SDK's own way needs another ssh client to be installed, has no limit of time for an answer, and keeps to
itself what ssh says. Here ssh has each connection as its input and output, and runs `docker system dial-stdio` at the
other end, as the Docker command does. Nobody is asked, and a server is spoken to only when its key is known.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from heliograph.exceptions import InvalidArgumentError

__all__ = ["SshWay", "is_ssh"]

_OPTIONS = ("-T", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oConnectTimeout=20", "-oServerAliveInterval=15",
            "-oServerAliveCountMax=3", "-oClearAllForwardings=yes")  # fmt: skip
_END_SECONDS = 1.0
_PREFIX = "heliograph-docker-ssh-"
_LEFT_SECONDS = 3600.0
"""Folders that are older and have nobody listening are of processes that were killed."""


def is_ssh(url: str) -> bool:
    """True for the address of an engine that this module reaches."""
    return url.lower().startswith("ssh://") and hasattr(socket, "AF_UNIX")


class SshWay:
    """The way to one engine. Threads may share it.

    Args:
        url: `ssh://[user@]host[:port][/path of the engine's socket there]`.

    Raises:
        InvalidArgumentError: The address is none.
        OSError: There is no room for the socket.
    """

    def __init__(self, url: str) -> None:
        self._command = _command(url)
        _remove_left()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = threading.Lock()
        self._running: deque[tuple[subprocess.Popen[bytes], Path]] = deque()
        self._number = 0
        self._unstarted = ""
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / "s"))
        self._listener.listen(64)
        threading.Thread(target=self._serve, name="heliograph-docker-ssh", daemon=True).start()

    @property
    def url(self) -> str:
        """The address that a Docker client is told."""
        return f"unix://{self._folder / 's'}"

    def words(self) -> str:
        """Returns what the newest ssh that failed said of it, once; empty when none did."""
        with self._lock:
            if self._unstarted or not self._running:
                return self._unstarted
            failed = [one for one in self._running if one[0].poll()]
            process, file = failed[-1] if failed else self._running[-1]
            if not failed:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)  # its connection has ended, and so will it
            if not process.poll():
                return ""
            self._running.remove((process, file))
            lines = [line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
        changed = any("IDENTIFICATION HAS CHANGED" in line for line in lines)
        said = lines[-1] if lines else f"ssh ended with {process.returncode}"
        return "the server's key is not the one in known_hosts: " * changed + said

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next
        self._listener.close()
        for process, _ in running:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # no room: the client sees its connection end
                self._dial(connection)

    def _dial(self, connection: socket.socket) -> None:
        with self._lock:
            if self._closed:
                return
            self._number += 1
            file = self._folder / f"words-{self._number}"
            with file.open("wb") as words:
                try:
                    process = subprocess.Popen(
                        self._command,
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=words,
                        start_new_session=True,
                    )
                except OSError as error:
                    self._unstarted = f"ssh cannot be started: {error.strerror}"
                    return
                self._unstarted = ""
            self._running.append((process, file))
            for old in [one for one in list(self._running)[:-1] if one[0].poll() is not None]:
                self._running.remove(old)
                old[1].unlink(missing_ok=True)


def _remove_left() -> None:
    """Removes the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:  # another user's, or gone just now
            if time.time() - folder.lstat().st_mtime > _LEFT_SECONDS:
                try:
                    probe.connect(str(folder / "s"))
                except (ConnectionRefusedError, FileNotFoundError):
                    shutil.rmtree(folder)


def _command(url: str) -> list[str]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"{url!r} is no address of an engine: {error}") from error
    host, user = parts.hostname or "", parts.username or ""
    if not host or host.startswith("-") or user.startswith("-") or parts.password or parts.query or parts.fragment:
        raise InvalidArgumentError(
            f"an engine by ssh is ssh://user@host:port, without password; this one's host is {host!r}"
        )
    command = ["ssh", *_OPTIONS, *(["-l", user] if user else []), *(["-p", str(port)] if port else []), "--", host]
    place = ["--host", shlex.quote(f"unix://{parts.path}")] if parts.path.strip("/") else []
    return [*command, " ".join(["docker", *place, "system", "dial-stdio"])]
