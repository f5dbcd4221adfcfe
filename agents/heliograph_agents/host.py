"""What an agent takes from its host and settings: name, folders, token, and the lock that keeps it the only one."""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliograph.exceptions import HeliographError, InvalidArgumentError


class AgentRunningError(HeliographError):
    """Another agent of this name runs on this host, with this home."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class Folders:
    """An agent's folders.

    Attributes:
        home: Heliograph's home.
        agent: The agent's own folder.
        runs: Its run directories.
        cache: Fetched bundles, shared by all agents of this home.
    """

    home: Path
    agent: Path
    runs: Path
    cache: Path


def host_name() -> str:
    """Returns the name of this host, as storage on a disk records it."""
    return socket.gethostname()


def folders(name: str) -> Folders:
    """Returns the folders of the agent of that name."""
    from heliograph.config import config, home

    base = Path(config().agent.dir).expanduser().absolute() if config().agent.dir else home() / "agent"
    agent = base / "agents" / _file_name(name)
    return Folders(home(), agent, agent / "runs", base / "cache")


def _file_name(name: str) -> str:
    """An agent's name may hold anything printable but `/`; as a folder it must not be `.` or `..`."""
    if name in (".", "..") or "/" in name or not name.isprintable():
        raise InvalidArgumentError(f"{name!r} cannot be the name of an agent")
    return name


def lock_name(folder: Path, name: str) -> int:
    """Takes the lock of an agent's name. It ends with the process.

    Raises:
        AgentRunningError: Another process has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AgentRunningError(
            f"an agent named {name} runs here already (pid {holder or 'unknown'}, folder {folder})",
            hint="Give this one another --name, or stop the other.",
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def tls_settings() -> dict[str, Any]:
    """Returns the TLS settings of the client that are set: `tls_ca`, `tls_cert`, `tls_key`, `insecure`."""
    from heliograph.config import config

    client = config().client
    found: dict[str, Any] = {"tls_ca": client.tls_ca, "tls_cert": client.tls_cert, "tls_key": client.tls_key}
    return {name: value for name, value in {**found, "insecure": client.insecure}.items() if value}
