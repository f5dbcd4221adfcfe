"""Control groups of runs, where this process may make them: limits of memory, processor share and processes.

A run's group lies below the group of its agent, in each hierarchy of version 1, or in the one of version 2. There the
agent has to step aside first (`prepare`): a group with processes of its own cannot hand its controllers down.

    <group of the agent>/heliograph-agent/          version 2: the agent and its supervisors
    <group of the agent>/heliograph-run-<name>/     one run's flow process and all that it starts
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

CONTROLLERS = ("memory", "cpu", "pids")
AGENT = "heliograph-agent"
PERIOD_MICROS = 100_000
REMOVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a run may take; 0 means no limit.

    Attributes:
        cpu_millis: Processor time, in thousandths of a processor.
        memory_bytes: Memory of all of its processes together.
        processes: Processes and threads at one time.
    """

    cpu_millis: int = 0
    memory_bytes: int = 0
    processes: int = 0

    def __bool__(self) -> bool:
        return bool(self.cpu_millis or self.memory_bytes or self.processes)


def prepare() -> None:
    """Has this process, an agent, make room for groups of runs below its own. Changes nothing where it may not."""
    base = _bases().get("")
    if base is None or base.name == AGENT or not (base / "cgroup.subtree_control").exists():
        return
    aside = base / AGENT
    with contextlib.suppress(OSError):
        aside.mkdir(exist_ok=True)
        (aside / "cgroup.procs").write_text(str(os.getpid()))
        try:
            (base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))
        except OSError:  # others live in this group: it is not this agent's to divide
            (base / "cgroup.procs").write_text(str(os.getpid()))
            aside.rmdir()


class Group:
    """The group of one run.

    Args:
        name: Name of its run directory.
    """

    def __init__(self, name: str) -> None:
        self._folders = {kind: folder / f"heliograph-run-{name}" for kind, folder in _run_bases().items()}

    def make(self, limits: Limits, pid: int) -> None:
        """Makes it, and puts a process into it, with all that it will start.

        Raises:
            OSError: It cannot be made here; nothing is left of it.
        """
        wanted = self._settings(limits)
        if not wanted:
            raise OSError("this system has no control groups for that")
        try:
            for kind in {kind for kind, _, _, _ in wanted}:
                self._folders[kind].mkdir(mode=0o755, exist_ok=True)
            for kind, file, value, needed in wanted:
                try:
                    (self._folders[kind] / file).write_text(value)
                except OSError:
                    if needed:
                        raise
            for kind in {kind for kind, _, _, _ in wanted}:
                (self._folders[kind] / "cgroup.procs").write_text(str(pid))
        except OSError:
            self.remove()
            raise

    def _settings(self, limits: Limits) -> list[tuple[str, str, str, bool]]:
        """Returns hierarchy, file, value, and whether it is needed; nothing when one of the limits cannot be set."""
        quota = str(limits.cpu_millis * PERIOD_MICROS // 1000)
        memory, found = str(limits.memory_bytes), []
        if "" in self._folders:  # version 2
            found += [("", "memory.max", memory, True), ("", "memory.swap.max", "0", False),
                      ("", "memory.oom.group", "1", False)] if limits.memory_bytes else []  # fmt: skip
            found += [("", "cpu.max", f"{quota} {PERIOD_MICROS}", True)] if limits.cpu_millis else []
            found += [("", "pids.max", str(limits.processes), True)] if limits.processes else []
            return found
        if limits.memory_bytes:
            found += [("memory", "memory.limit_in_bytes", memory, True),
                      ("memory", "memory.memsw.limit_in_bytes", memory, False)]  # fmt: skip
        if limits.cpu_millis:
            found += [("cpu", "cpu.cfs_period_us", str(PERIOD_MICROS), True), ("cpu", "cpu.cfs_quota_us", quota, True)]
        if limits.processes:
            found += [("pids", "pids.max", str(limits.processes), True)]
        return found if all(kind in self._folders for kind, _, _, _ in found) else []

    def memory_kills(self) -> int:
        """Returns how many of its processes the kernel has killed for lack of memory."""
        return _kills_in(self._folders[kind] for kind in ("", "memory") if kind in self._folders)

    def remove(self) -> None:
        """Removes it. Its processes are gone: the kernel may take a moment to notice."""
        limit = time.monotonic() + REMOVE_SECONDS
        for folder in self._folders.values():
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > limit:
                        return
                    time.sleep(0.01)


def memory_kills() -> int:
    """Returns how many processes the kernel has killed for lack of memory in this process's group; 0 when unknown."""
    folders: list[Path] = []
    for controllers, inside in _own_groups():
        if not controllers or "memory" in controllers:
            root = ROOT / "memory" if controllers else ROOT
            folders += [root / inside, root]  # in a container the path may be the host's, and the group at the root
    return _kills_in(folders)


def _kills_in(folders: Iterable[Path]) -> int:
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            with contextlib.suppress(OSError):
                for line in (folder / name).read_text().splitlines():
                    key, _, number = line.partition(" ")
                    if key == "oom_kill" and number.isdecimal():
                        return int(number)
    return 0


def _run_bases() -> dict[str, Path]:
    """Returns the folders below which groups of runs lie."""
    return {kind: folder.parent if folder.name == AGENT else folder for kind, folder in _bases().items()}


def _bases() -> dict[str, Path]:
    """Returns the folders of this process's groups: by controller, or of version 2 under the empty name."""
    found: dict[str, Path] = {}
    for controllers, inside in _own_groups():
        for name in controllers:
            if name in CONTROLLERS and (ROOT / name / inside).is_dir():
                found[name] = ROOT / name / inside
        # A mixed system has its controllers in version 1.
        if not controllers and (ROOT / "cgroup.controllers").exists():
            found[""] = ROOT / inside
    return found


def _own_groups() -> Iterator[tuple[list[str], str]]:
    """Yields the controllers of each of this process's groups, none for that of version 2, and its path."""
    with contextlib.suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            yield [name for name in controllers.split(",") if name], group.lstrip("/")
