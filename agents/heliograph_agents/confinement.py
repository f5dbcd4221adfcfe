"""Puts a flow process under the limits of its run: by a control group where one can be made, else by what is left."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from heliograph_agents.control_groups import Group, Limits


@dataclass(slots=True)
class Confinement:
    """The limits of one run, as they could be set.

    Attributes:
        group: Its control group; None where there is none.
        remark: What whoever reads the run's output should know.
        kills: How many of its processes the kernel had killed for lack of memory when it was lifted.
    """

    group: Group | None = None
    remark: str = ""
    kills: int = 0

    def lift(self) -> None:
        """Notes what the kernel has to say, and removes the group. No process of the run is left."""
        group, self.group = self.group, None
        if group is not None:
            self.kills = group.memory_kills()
            group.remove()


def confine(limits: Limits, name: str, pid: int) -> Confinement:
    """Puts a process, and all that it will start, under limits.

    Without a control group memory is limited for each process by itself, and nothing else is.

    Args:
        limits: The limits.
        name: Name of the run directory.
        pid: The flow process, before any code of the flow runs.
    """
    if not limits:
        return Confinement()
    group = Group(name)
    try:
        group.make(limits, pid)
    except OSError as error:
        return Confinement(remark=_without_group(limits, pid, error))
    return Confinement(group)


def _without_group(limits: Limits, pid: int, error: OSError) -> str:
    unset = [what for what, limit in (("processors", limits.cpu_millis), ("processes", limits.processes)) if limit]
    if limits.memory_bytes and not _limit_data(pid, limits.memory_bytes):
        unset.insert(0, "memory")
    words = "each process has the memory limit for itself" if limits.memory_bytes and "memory" not in unset else ""
    missing = f"not limited: {', '.join(unset)}" if unset else ""
    return f"no control group can be made here ({error}); {'; '.join(filter(None, (words, missing)))}"


def _limit_data(pid: int, size: int) -> bool:
    """Limits a process's own memory, and that of each that it starts. Returns whether it could."""
    if sys.platform != "linux":
        return False
    import resource

    try:
        resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))
    except (OSError, ValueError):
        return False
    return True
