"""Child processes of a command that runs several parts on one machine: started, listened to, and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from heliograph.cli.text import clean
from heliograph.exceptions import ConfigurationError, HeliographError

READY_SECONDS = 30.0
POLL_SECONDS = 0.02


class Child:
    """One `heliograph` process. Its output goes line by line to `on_line`; Ctrl-C reaches its parent alone.

    On POSIX it ends when its parent does, however that ends.

    Args:
        name: What the output is prefixed with.
        arguments: Arguments of `heliograph`.
        environment: Its environment.
        on_line: Takes each line that it prints. Default: nothing; the last lines are kept for `tail`.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str, str], None] | None = None,
    ) -> None:
        self.name = name
        self._tail: list[str] = []
        self._on_line = on_line
        held, self._lifeline = os.pipe()
        lifeline = ["heliograph.cli.lifeline", str(held)] if os.name == "posix" else ["heliograph.cli"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *lifeline, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C must reach the parent alone, which ends the parts in order.
            start_new_session=True,
            pass_fds=(held,) if os.name == "posix" else (),
        )
        os.close(held)
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = clean(raw.decode("utf-8", "replace").rstrip("\n"))
            self._tail = [*self._tail[-50:], line]
            if self._on_line is not None:
                self._on_line(self.name, line)

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self.process.poll() is None

    def tail(self) -> str:
        """Returns the last lines that it printed."""
        self._reader.join(timeout=1.0 if not self.running else 0.0)
        return "\n".join(self._tail)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Asks it to end, and kills it when it has not after the grace."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._reader.join(timeout=1.0)


class Children:
    """Several children, ended in the reverse order of their start when the block ends, however it ends."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self.grace_seconds = 10.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            child.stop(self.grace_seconds)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str, str], None] | None = None,
    ) -> Child:
        """Starts one."""
        child = Child(name, arguments, environment, on_line)
        self._children.append(child)
        return child

    def ended(self) -> Child | None:
        """Returns a child that has ended, if any."""
        return next((child for child in self._children if not child.running), None)


def wait_for(condition: Callable[[], bool], child: Child, what: str, seconds: float = READY_SECONDS) -> None:
    """Waits until a child is ready.

    Raises:
        UnavailableError: It ended, or was not ready in time. The message has its last lines.
    """
    from heliograph.exceptions import UnavailableError

    deadline = time.monotonic() + seconds
    while not condition():
        if not child.running or time.monotonic() > deadline:
            if not child.running and (told := _told(child.tail())):
                raise told
            how = "ended" if not child.running else f"was not ready within {seconds:.0f} s"
            raise UnavailableError(f"the {what} {how}; its last lines:\n{child.tail()}")
        time.sleep(POLL_SECONDS)


def _told(text: str) -> HeliographError | None:
    """Returns the error that a command told, to be told once more and in its place."""
    lines = text.splitlines()
    at = next((number for number, line in enumerate(lines) if line.startswith("Error: ")), None)
    if at is None:
        return None
    hint = next((line.removeprefix("Hint:").strip() for line in lines[at:] if line.startswith("Hint:")), "")
    return ConfigurationError(lines[at].removeprefix("Error: "), hint=hint)


def stop_on_sigterm() -> None:
    """Lets SIGTERM unwind the blocks of this process, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def start_control_plane(
    children: Children,
    data_dir: Path,
    environment: Mapping[str, str],
    *,
    port: int = 0,
    on_line: Callable[[str, str], None] | None = None,
) -> tuple[str, str]:
    """Starts a control plane with an embedded store on loopback.

    Returns:
        Its address, and the token of its administrator (empty when that was taken away).
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ready = data_dir / f"ready.{os.getpid()}"
    ready.unlink(missing_ok=True)
    arguments = ["server", "start", "--port", str(port), "--data-dir", str(data_dir), "--ready-file", str(ready)]
    child = children.start("server", arguments, environment, on_line)
    try:
        wait_for(ready.exists, child, "control plane")
        address = ready.read_text("ascii").strip()
    finally:
        ready.unlink(missing_ok=True)
    token_file = data_dir / "admin.token"
    return address, token_file.read_text("ascii").strip() if token_file.exists() else ""
