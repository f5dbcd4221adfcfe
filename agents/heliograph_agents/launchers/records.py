"""The agent's own folder of each attempt elsewhere: what it planned, how it ended, and a copy of what it left.

    <home>/agents/<agent>/runs/<run id>.<epoch>/
        attempt.json       flow run, epoch and name, before anything is made in the infrastructure
        started            there once the infrastructure was asked to start it
        stopped, abandoned what this agent asked of it
        outbox/, exit.json copied from what has ended
        forgotten          there once the end is reported

Without this folder (an agent in a container of its own, say) attempts are found by the labels of containers and jobs.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from heliograph.utilities.files import write_atomically
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import Handle, InfraExit
from heliograph_agents.run_directory import ExitRecord, RunDirectory, remove_torn, run_directories
from heliograph_agents.run_directory import name_of as folder_name_of


class Records:
    """The folders of one agent's attempts.

    Args:
        runs: Where they are.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def open(self) -> None:
        """Makes the folder, and removes what was left half done."""
        self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_torn(self._runs)

    def folder(self, handle: Handle) -> RunDirectory:
        """Returns an attempt's folder, which may not be there."""
        return RunDirectory(self._runs / folder_name_of(handle.run_id, handle.epoch))

    def make(self, handle: Handle) -> RunDirectory:
        """Returns an attempt's folder. One that was not there is of an attempt that somebody else started."""
        folder = self.folder(handle)
        if not folder.has("attempt.json"):
            self._note(handle)
            folder.touch("started")
        return folder

    def plan(self, handle: Handle) -> None:
        """Notes an attempt before anything is made for it."""
        self._note(handle)
        (self.folder(handle).path / "started").unlink(missing_ok=True)

    def _note(self, handle: Handle) -> None:
        path = self.folder(handle).path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        note = {"flow_run": handle.flow_run, "epoch": handle.epoch, "start_timeout": handle.start_timeout_seconds,
                "infrastructure": handle.infrastructure}  # fmt: skip
        write_atomically(path / "attempt.json", json.dumps(note).encode(), 0o600)

    def mark(self, handle: Handle, name: str) -> None:
        """Leaves a mark in the attempt's folder."""
        self.make(handle).touch(name)

    def settle(self, handle: Handle, record: ExitRecord) -> InfraExit:
        """Writes an attempt's end down, so that it stays the same when its infrastructure is gone.

        One of which nobody can say when it was is now, as far as it is known.
        """
        if not record.time_micros:
            record = replace(record, time_micros=time.time_ns() // 1000)
        self.make(handle).write_exit(record)
        return exit_of(record)

    def is_started(self, handle: Handle) -> bool:
        """True when it may have been started. Of one that this folder does not know, it was."""
        folder = self.folder(handle)
        return folder.has("started") or not folder.has("attempt.json")

    def is_forgotten(self, handle: Handle) -> bool:
        """True when its end is reported."""
        return self.folder(handle).has("forgotten")

    def forget(self, handle: Handle) -> bool:
        """Notes that its end is reported. Returns False when nothing was known of it."""
        folder = self.folder(handle)
        if not folder.has("attempt.json"):
            return False
        folder.forget()
        return True

    def remove(self, handle: Handle) -> None:
        """Removes an attempt's folder."""
        self.folder(handle).remove()

    def left(self) -> list[Handle]:
        """Returns the attempts that were planned and whose end is not reported."""
        return [handle for handle, folder in self.all() if not folder.has("forgotten")]

    def all(self) -> list[tuple[Handle, RunDirectory]]:
        """Returns all attempts that have a whole note here."""
        found = []
        for folder in run_directories(self._runs):
            try:
                note = json.loads((folder.path / "attempt.json").read_text())
                flow_run, epoch = str(note["flow_run"]), int(note["epoch"])
                name, timeout = str(note["infrastructure"]), float(note["start_timeout"])
                found.append((Handle(flow_run, epoch, name, timeout), folder))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found
