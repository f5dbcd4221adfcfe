"""`python -m heliograph.cli.lifeline FD ARGUMENTS`: `heliograph ARGUMENTS`, but never longer than its parent.

The parent holds the other end of a pipe and never writes. However it ends, also by SIGKILL, the pipe ends with it;
then this process ends, with everything that it started: an agent's supervisors would go on for their control plane.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Watches the pipe and runs the command."""
    from heliograph.cli.main import main as command

    descriptor, arguments = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()
    sys.argv = ["heliograph", *arguments]
    command()


def _watch(descriptor: int) -> None:
    os.read(descriptor, 1)
    # Stopped first: what is asked for its children must not have others meanwhile.
    _signal(_descendants(), signal.SIGSTOP)
    _signal(_descendants(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """Returns what this process started and what that started. Empty where there is no `/proc`."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = path.read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found, rest = [], [os.getpid()]
    while rest:
        born = children.get(rest.pop(), [])
        found += born
        rest += born
    return found


if __name__ == "__main__":
    main()
