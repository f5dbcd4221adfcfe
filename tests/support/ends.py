"""How tests end what they started: processes, threads and servers, each within a limit.

What waits in a `finally` or in a fixture's end has no other limit: a test that failed would never say so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import grpc

LIMIT_SECONDS = 60.0


def kill(process: subprocess.Popen[Any]) -> None:
    """Kills a process and, where it leads its own group, all of that group; reads nothing more of it."""
    with suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait(LIMIT_SECONDS)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):  # what was never sent cannot be sent any more
                stream.close()


def end(process: subprocess.Popen[Any], seconds: float = LIMIT_SECONDS) -> None:
    """Asks a process to end, and kills it when it does not."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill(process)


def join(*threads: threading.Thread, seconds: float = LIMIT_SECONDS) -> None:
    """Waits for threads; those that go on longer are an error."""
    for thread in threads:
        thread.join(seconds)
    left = [thread.name for thread in threads if thread.is_alive()]
    assert not left, f"threads that do not end: {', '.join(left)}"


def together(calls: Iterable[Callable[[], object]], seconds: float = LIMIT_SECONDS) -> None:
    """Makes calls at the same time, each on a thread of its own, and raises what the first of them raised."""
    failures: list[BaseException] = []

    def one(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 (told to the test's own thread)
            failures.append(error)

    threads = [threading.Thread(target=one, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    join(*threads, seconds=seconds)
    for failure in failures:
        raise failure


def stop(server: grpc.Server) -> None:
    """Stops a server of gRPC at once."""
    assert server.stop(None).wait(LIMIT_SECONDS), "the server does not end"
