"""What the kernel says of processes: start times, descendants, and how to end a whole tree and be sure of it.

Linux reads `/proc`. Elsewhere there is no such table: identity is the pid alone, and a tree is its process group.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LINUX = sys.platform == "linux"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_FIRST_MARK = 1 << 61
"""The lowest number of a mark, in microseconds."""


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def preload() -> None:
    """Loads what a forked child will call, so that no child pays for it."""
    if LINUX:
        import resource  # noqa: F401 (a library of its own, which would be read from disk before each flow)

        _libc()


def set_child_subreaper() -> None:
    """Makes orphaned descendants of this process its own children, whatever sessions they are in. Linux only."""
    if LINUX:
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that forked it ends. Linux only."""
    if LINUX:
        _libc().prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(1)


@cache
def boot_id() -> str:
    """Identity of this boot of the host; empty where it is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 when there is none, or only its corpse."""
    if not LINUX:
        return 1 if _exists(pid) else 0
    fields = _stat(pid)
    return 0 if fields is None or fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """True while the process that started then still runs. A reused pid is another process."""
    return pid > 0 and start_time(pid) == started != 0


def _stat(pid: int) -> list[str] | None:
    """Returns the fields of `/proc/PID/stat` from the third (the state) on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def descendants(root: int) -> list[int]:
    """Returns the living descendants of `root`, without itself. Linux only; empty elsewhere."""
    if not LINUX:
        return []
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        fields = _stat(pid)
        if fields is not None and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(pid)
    found, stack = [], [root]
    while stack:
        for child in children.get(stack.pop(), ()):
            found.append(child)
            stack.append(child)
    return found


def mark(run_directory: Path) -> None:
    """Marks this process, and all that it will start, as the run's: in a resource limit that limits nothing.

    Every descendant inherits it, through fork and exec, whatever it does to its session, environment and descriptors,
    and everybody may read it; a control group would do the same, where one may be made. The limit on the time of
    real-time threads is one that nobody sets, and the mark allows some ten thousand years.
    """
    if not LINUX:
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_RTTIME)
    number = _mark_of(run_directory)
    if most == resource.RLIM_INFINITY or most > number:
        resource.setrlimit(resource.RLIMIT_RTTIME, (number, most))


def _mark_of(run_directory: Path) -> int:
    digest = hashlib.blake2b(os.fsencode(run_directory), digest_size=8).digest()
    return _FIRST_MARK | int.from_bytes(digest) & (_FIRST_MARK - 1)


def members(run_directory: Path, group: int) -> list[int]:
    """Returns the living processes that belong to a run whose supervisor is gone.

    They are known by their process group, by the run's mark, by a variable in the environment that they were started
    with, or by the run's lock, which forked processes inherit. Linux only; empty elsewhere.
    """
    if not LINUX:
        return []
    number, variable = _mark_of(run_directory), f"HELIOGRAPH_RUN_DIRECTORY={run_directory}".encode()
    lock, found = str(run_directory / "lock"), []
    for pid in _all_pids():
        fields = _stat(pid)
        if pid == os.getpid() or fields is None or fields[0] in "ZX":
            continue
        in_group = group and int(fields[2]) == group
        if in_group or _has_mark(pid, number) or _has_variable(pid, variable) or _has_open(pid, lock):
            found.append(pid)
    return found


def _has_mark(pid: int, number: int) -> bool:
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return False
    line = next((line for line in limits.splitlines() if line.startswith("Max realtime timeout")), "")
    return str(number) in line.split()


def _has_variable(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _has_open(pid: int, path: str) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(str(Path(entry.path).readlink()) == path for entry in entries)
    except OSError:
        return False


def signal_all(pids: Iterable[int], number: int) -> None:
    """Sends a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def signal_group(group: int, number: int) -> None:
    """Sends a signal to a process group, if it is still there."""
    if group > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def reap(only: int = 0) -> dict[int, int]:
    """Collects children that have ended. Returns wait status by pid.

    Args:
        only: The one child to look at; all of them when 0. A library that waits for a child of its own would find it
            gone, and Python's `subprocess` takes that for success.
    """
    if not only:
        return _reap()[0]
    try:
        pid, status = os.waitpid(only, os.WNOHANG)
    except ChildProcessError:
        return {}
    return {pid: status} if pid else {}


def _reap() -> tuple[dict[int, int], bool]:
    """Collects children that have ended; also returns whether any are left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status


def kill_descendants(deadline_seconds: float = 10.0) -> dict[int, int]:
    """Kills every descendant of this process until none is left, and reaps. Returns wait status by pid.

    Forking faster than it is killed does not help a process: everything is stopped before it is killed. This process
    must be a subreaper.
    """
    ended, left = _reap()
    limit = time.monotonic() + deadline_seconds
    # A list of processes may miss one whose parent ends while it is read. The kernel's word that there are no children
    # is certain: orphans become this process's own before their parent is seen to have ended.
    while left and time.monotonic() < limit:
        signal_all(descendants(os.getpid()), signal.SIGSTOP)
        signal_all(descendants(os.getpid()), signal.SIGKILL)
        time.sleep(0.002)  # the kernel takes a moment to end them; there is nothing to wait on for grandchildren
        more, left = _reap()
        ended |= more
    return ended


def kernel_says_out_of_memory(pid: int) -> bool:
    """True when the kernel's log, if it can be read, says that it killed the process for lack of memory."""
    wanted = f"Killed process {pid} ".encode()
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while True:
            try:
                line = os.read(descriptor, 8192)
            except BrokenPipeError:  # lines were overwritten while reading
                continue
            if wanted in line:
                return True
    except OSError:  # the end
        return False
    finally:
        os.close(descriptor)
