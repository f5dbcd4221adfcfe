"""How this agent's runs ended, on disk: told again to a control plane that was restored from a backup.

Such a control plane has forgotten what came after the backup. Runs that ended meanwhile are waiting there as if they
had never been started, or seem to run still; told in time, they are finished there too, and nobody starts them again.
Only the final state is kept, not what led to it: the control plane records how many events it will never have.

    <home>/agents/<agent>/ended/<run id>.<epoch>     the run's name, then the final state's sequence and event
    <home>/agents/<agent>/incarnation                the store that the agent last heard from
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from heliograph.reporting.lanes import STATES, LaneReader
from heliograph_agents.shipping import final_state

_log = logging.getLogger("heliograph.agent")

KEEP_SECONDS = 7 * 24 * 3600
"""How old a backup may be that is mended by what agents remember."""

KEEP = 10_000
"""Most ends that are kept."""

PRUNE_EVERY = 200


@dataclass(frozen=True, slots=True)
class End:
    """The end of one attempt: its final state as the event that told of it."""

    flow_run: str
    epoch: int
    sequence: int
    event: bytes


class Ended:
    """The notes of one agent. A disk that takes none costs no run: they are a second memory.

    Args:
        folder: Where they are; made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incarnation = folder.with_name("incarnation")
        self._notes = 0

    def note(self, flow_run: str, epoch: int, outbox: Path) -> None:
        """Notes the final state in a run's outbox, if there is one."""
        try:
            reader = LaneReader(outbox, STATES)
            last = reader.last()
            reader.close()
            if last is None or final_state(last[1]) is None:
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = json.dumps([flow_run, last[0], base64.b64encode(last[1]).decode()])
            (self._folder / f"{flow_run.rpartition('/')[2]}.{epoch}").write_text(text)
            self._notes += 1
            if self._notes % PRUNE_EVERY == 0:
                self._prune()
        except OSError as error:
            _log.warning("the end of %s cannot be noted: %s", flow_run, error)

    def all(self) -> list[End]:
        """Returns the ends that are noted."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                with contextlib.suppress(OSError, ValueError):  # torn: its agent died while it wrote it
                    flow_run, sequence, event = json.loads(Path(entry.path).read_text())
                    epoch = int(entry.name.rpartition(".")[2])
                    found.append(End(flow_run, epoch, sequence, base64.b64decode(event)))
        return found

    def incarnation(self) -> str:
        """Returns the store that the agent last heard from; empty before the first."""
        with contextlib.suppress(OSError):
            return self._incarnation.read_text()
        return ""

    def hear(self, incarnation: str) -> None:
        """Notes which store the agent hears from now."""
        try:
            self._incarnation.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._incarnation.with_name(".incarnation")
            draft.write_text(incarnation)
            draft.replace(self._incarnation)
        except OSError as error:
            _log.warning("the control plane's identity cannot be noted: %s", error)

    def _prune(self) -> None:
        aged = sorted((entry.stat().st_mtime, entry.path) for entry in os.scandir(self._folder))
        horizon = time.time() - KEEP_SECONDS
        for number, (written, path) in enumerate(aged):
            if written < horizon or number < len(aged) - KEEP:
                Path(path).unlink(missing_ok=True)
