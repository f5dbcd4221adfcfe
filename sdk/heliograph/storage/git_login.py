"""What git logs in with: a user and a password, or a key for ssh.

By ssh nobody is asked, and a server is spoken to only when its key is known. A private key that is a secret is a file,
readable by this user alone, for as long as one command of git runs; ssh is told its path.
"""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from heliograph.exceptions import StorageError

__all__ = ["Login", "SshKey", "ssh_command"]

_COMMAND = "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oConnectTimeout=20"
_WITH_KEY = "-oIdentitiesOnly=yes -oIdentityAgent=none -oControlPath=none -i"
"""A connection that is open already, or an ssh agent, would log in with another key."""
_PREFIX = "heliograph-key-"
_LEFT_SECONDS = 3600.0
"""Older folders of keys are of processes that were killed."""


@dataclass(frozen=True, slots=True)
class Login:
    """User and password, or token, for one server."""

    user: str
    password: str = field(repr=False)

    def header(self) -> str:
        """Returns the header that carries it."""
        return f"Authorization: Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class SshKey:
    """A private key that is a secret.

    Attributes:
        name: The secret's name.
        text: The key, as `ssh-keygen` writes it.
    """

    name: str
    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.text.lstrip().startswith("-----BEGIN "):
            raise StorageError(
                f"the secret {self.name!r} is no private key",
                hint="For ssh it is the whole file that ssh-keygen wrote; a token is for https.",
            )


@contextmanager
def ssh_command(key: SshKey | None, limit_seconds: float) -> Iterator[dict[str, str]]:
    """Yields the variables that say what git runs in place of `ssh`: none where this user has set `GIT_SSH`.

    Args:
        key: The key to log in with; None for those that this user has.
        limit_seconds: Longest time that the command is in use.

    Raises:
        OSError: The key cannot be written.
    """
    own = os.environ.get("GIT_SSH_COMMAND", "")
    if key is None:
        yield {} if own or os.environ.get("GIT_SSH") else {"GIT_SSH_COMMAND": _COMMAND}
        return
    _remove_left(2 * limit_seconds)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        path = folder / "key"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", newline="\n") as file:  # noqa: PTH123 (the descriptor carries the mode)
            # Variables and files lose the last line's end, which ssh insists on.
            file.write("\n".join(key.text.strip().splitlines()) + "\n")
        yield {"GIT_SSH_COMMAND": f"{own or _COMMAND} {_WITH_KEY} {shlex.quote(str(path))}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(most_seconds: float) -> None:
    """Removes keys that processes left which were killed."""
    horizon = time.time() - max(most_seconds, _LEFT_SECONDS)
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or gone just now
            if folder.lstat().st_mtime < horizon:
                shutil.rmtree(folder)
