"""Leases that the agent has taken and not launched yet, on disk: what a killed agent had in its hands is given back.

A lease is noted before it is accepted, and struck out once its infrastructure is there or the lease is gone. What the
next agent of this name finds noted and not launched was never started: it releases it at once, instead of leaving it
to a deadline of the control plane.

Before that comes the asking: what a poll is answered may never reach an agent that is killed meanwhile. The poll's
request id is on disk as well, and the next agent of this name asks with it once more: it is given the same leases.

    <home>/agents/<agent>/offers/<run id>.<epoch>     the run's name
    <home>/agents/<agent>/asked                       the newest poll's request id
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from pathlib import Path

_log = logging.getLogger("heliograph.agent")


class Offers:
    """The notes of one agent. A disk that takes none is no reason to refuse work: the deadline is the second guard.

    Args:
        folder: Where they are; made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked = folder.with_name("asked")

    def ask(self, request_id: str) -> None:
        """Notes a poll that is about to be made."""
        try:
            self._asked.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._asked.write_text(request_id)
        except OSError as error:
            _log.warning("a poll cannot be noted: %s", error)

    def asked(self) -> str:
        """Returns the request id of the newest poll that was noted; empty when there is none."""
        with contextlib.suppress(OSError, ValueError):
            return str(uuid.UUID(self._asked.read_text()))
        return ""  # there is none, or its agent died while it wrote it, before it asked

    def note(self, flow_run: str, epoch: int) -> None:
        """Notes a lease that is about to be accepted."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path(flow_run, epoch).write_text(flow_run)
        except OSError as error:
            _log.warning("the lease of %s cannot be noted: %s", flow_run, error)

    def strike(self, flow_run: str, epoch: int) -> None:
        """Strikes out a lease that was launched, or that is not this agent's any more."""
        with contextlib.suppress(OSError):
            self._path(flow_run, epoch).unlink()

    def left(self) -> list[tuple[str, int]]:
        """Returns the leases that are noted, as (flow run, epoch)."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                run_id, _, epoch = entry.name.rpartition(".")
                flow_run = Path(entry.path).read_text()
                if epoch.isdecimal() and flow_run.rpartition("/")[2] == run_id:
                    found.append((flow_run, int(epoch)))
                else:  # torn: its agent died before it could accept, and the offer ends by itself
                    Path(entry.path).unlink(missing_ok=True)
        return found

    def _path(self, flow_run: str, epoch: int) -> Path:
        return self._folder / f"{flow_run.rpartition('/')[2]}.{epoch}"
