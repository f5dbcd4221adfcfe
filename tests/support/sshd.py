"""A private OpenSSH server for tests: Debian's sshd on a free port of loopback, for the user who runs the tests.

It has a host key, accepted keys and a log of its own, and no PAM. ssh finds its configuration and the servers that it
knows in its user's home by the user database, not by `HOME`: a program `ssh` that goes before the real one on PATH
names a configuration of the test's, writes down what it was called with, and becomes the real one.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support import ends
from tests.support.stack import free_port

START_SECONDS = 60.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/accepted
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxAuthTries 4
MaxStartups 100
LogLevel VERBOSE
{variables}
"""
_SSH = """#!/bin/sh
printf '%s\\n' "$*" >>'{folder}/calls'
env | sed 's/=.*//' >>'{folder}/variables'
previous=
for word; do
  [ "$previous" = -i ] && stat -c '%a %n' "$word" >>'{folder}/keys'
  previous=$word
done
exec '{ssh}' -F '{folder}/config' "$@"
"""


def make_key(path: Path, passphrase: str = "") -> str:
    """Makes a private key with its public half beside it, and returns its text."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path.read_text()


class Sshd:
    """One running server.

    Args:
        folder: Its files.
        variables: Environment variables of the commands that it runs.

    Attributes:
        user: Who logs in: the user of the tests.
        address: `127.0.0.1:port`.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.user = getpass.getuser()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        make_key(self.folder / "host")
        (self.folder / "accepted").touch()
        variables = " ".join(f"{name}={value}" for name, value in self._variables.items())
        config = self.folder / "sshd_config"
        config.write_text(
            _CONFIG.format(
                port=self.port, folder=self.folder, variables=f"SetEnv {variables}" if variables else ""
            )
        )  # fmt: skip
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # a service makes it, which there is none of here
        program = shutil.which("sshd", path=_PATH)
        assert program is not None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < limit, f"sshd does not answer: {self.log}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            ends.end(self._process)

    @property
    def url(self) -> str:
        """Address of what there is one of behind it."""
        return f"ssh://{self.user}@{self.address}"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text()

    @property
    def known_hosts_line(self) -> str:
        """What `known_hosts` has of a server that is known."""
        kind, key, *_ = (self.folder / "host.pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

    def accept(self, key: Path) -> None:
        """Lets the owner of a key in."""
        with (self.folder / "accepted").open("a") as file:
            file.write(key.with_name(f"{key.name}.pub").read_text())

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


class SshClient:
    """What a user of this machine has for ssh.

    Args:
        folder: For its files; `bin` is to go before everything else on PATH.
        server: The server, which is known and has the alias `forge`.
        key: The user's own key; none by default.
    """

    def __init__(self, folder: Path, server: Sshd, key: Path | None = None) -> None:
        self.folder = folder
        self.known_hosts = folder / "known_hosts"
        (folder / "bin").mkdir(parents=True)
        self.known_hosts.write_text(server.known_hosts_line)
        (folder / "config").write_text(
            f"Host forge\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
            f"Host *\n  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
            f"  IdentityFile {key or folder / 'no-key'}\n"
        )
        program = folder / "bin" / "ssh"
        real = shutil.which("ssh")
        assert real is not None
        program.write_text(_SSH.format(folder=folder, ssh=real))
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with this ssh on it."""
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    @property
    def calls(self) -> list[str]:
        """What ssh was called with."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def variables(self) -> set[str]:
        """Names of the variables that ssh was called with."""
        return set((self.folder / "variables").read_text().split())

    @property
    def keys(self) -> list[tuple[str, Path]]:
        """Mode and path of the key of each call that named one."""
        file = self.folder / "keys"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(mode, Path(path)) for mode, _, path in (line.partition(" ") for line in lines)]


@contextmanager
def running_sshd(variables: Mapping[str, str] | None = None) -> Iterator[Sshd]:
    """Runs a server."""
    missing = [name for name in ("sshd", "ssh", "ssh-keygen") if shutil.which(name, path=_PATH) is None]
    if missing:
        pytest.fail(f"not installed: {', '.join(missing)}; apt-get install openssh-server", pytrace=False)
    with tempfile.TemporaryDirectory(prefix="heliograph-sshd-") as folder:
        server = Sshd(Path(folder), variables or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()
