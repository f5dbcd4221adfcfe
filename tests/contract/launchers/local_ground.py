"""The ground of the local launcher: processes of this host."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.contract.launchers.ground import Ground

from heliograph.run_configs import LocalRun, RunConfig
from heliograph.storage import Storage
from heliograph.storage.local import Local
from heliograph_agents import processes
from heliograph_agents.launcher import Handle, Launcher
from heliograph_agents.launchers.local.launcher import LocalLauncher
from heliograph_agents.run_directory import RunDirectory, RunSettings


class LocalGround(Ground):
    """Processes of this host."""

    kind = "local"

    def make_launcher(self, agent: str = "") -> Launcher:
        settings = RunSettings(
            address=self.plane.address, agent=agent or self.agent, home=str(self.folder / "home"),
            cache=str(self.folder / "cache"), work_dir=str(self.folder), grace_seconds=0.5,
        )  # fmt: skip
        return LocalLauncher(settings, self._runs(agent))

    def storage(self) -> Storage:
        return Local(self.folder / "storage")

    def run_config(self) -> RunConfig | None:
        return LocalRun()

    async def kill(self, handle: Handle) -> None:
        record = self._directory(handle).processes()
        assert record is not None
        for pid in (record.supervisor_pid, record.flow_pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def remains(self, handle: Handle) -> list[str]:
        directory = self._directory(handle)
        found = await asyncio.to_thread(processes.members, directory.path, 0)
        return [f"process {pid}" for pid in found] + [str(directory.path)] * directory.token_file.exists()

    def _runs(self, agent: str) -> Path:
        return self.folder / f"runs-{agent or self.agent}"

    def _directory(self, handle: Handle) -> RunDirectory:
        return RunDirectory(self._runs("") / handle.infrastructure)
