"""A process that stores bundles and is killed between two of its steps: what the suite starts, and talks to.

A line on standard input is a number and a pickled storage, bundle and launch settings; the process forks, and its child
dies as if by SIGKILL before the step of that number: the opening or renaming of a file, or a sending to a server. The
answer is a line with the child's exit code: 0 when it had stored all of it before.

The process that forks has one thread only, which is checked: a lock that another thread held would stay locked in the
child. A child that hangs all the same dies by its own alarm, and the test is told.
"""

from __future__ import annotations

import base64
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import ends

__all__ = ["Author", "author"]

_FILES = frozenset({"os.rename", "os.mkdir", "os.link", "os.remove", "os.truncate"})
KILLED = 9
HUNG_SECONDS = 60


class Author:
    """The process, seen from the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def put(self, storage: Any, bundle: Any, settings: Any, before: int) -> bool:
        """Stores, killed before a step. Returns True when it was done before that step came."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        work = base64.b64encode(pickle.dumps((storage, bundle, settings))).decode()
        self._process.stdin.write(f"{before} {work}\n")
        self._process.stdin.flush()
        told, _, _ = select.select([self._process.stdout], [], [], 2 * HUNG_SECONDS)
        assert told, "the author does not answer"
        answer = self._process.stdout.readline().strip()
        assert answer in ("0", str(KILLED)), f"the author ended with {answer!r}"
        return answer == "0"


@contextmanager
def author() -> Iterator[Author]:
    """Starts the process, with this one's environment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.storages.killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Author(process)
    finally:
        ends.kill(process)


def _die_before(step: int) -> None:
    left = step

    def count() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os._exit(KILLED)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _FILES or (writes and not str(arguments[0]).startswith(("/dev/", "/proc/"))):
            count()

    def counted(send: Any) -> Any:
        def sending(*arguments: Any) -> Any:
            count()
            return send(*arguments)

        return sending

    socket.socket.sendall = counted(socket.socket.sendall)  # type: ignore[method-assign]
    socket.socket.send = counted(socket.socket.send)  # type: ignore[method-assign]
    sys.addaudithook(audit)


def main() -> None:
    """Serves."""
    for line in sys.stdin:
        before, work = line.split()
        storage, bundle, settings = pickle.loads(base64.b64decode(work))
        # The cloud's library is imported once, not by each child.
        getattr(storage, "objects", None) or getattr(storage, "client", None)
        threads = len(list(Path("/proc/self/task").iterdir()))
        assert threads == 1, f"{threads} threads: a child may inherit a lock that nobody opens"
        child = os.fork()
        if child == 0:
            signal.alarm(HUNG_SECONDS)
            try:
                _die_before(int(before))
                storage.put_bundle(bundle, settings)
            except Exception:  # noqa: BLE001 (the test wants to see it, whatever it is)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
