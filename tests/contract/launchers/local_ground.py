"""The ground of the local launcher: processes of this host."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from tests.contract.launchers.ground import Attempt, Ground, Step
from tests.fault.conftest import PLANTED
from tests.fault.planted.bugs.unheard import LAST_WORDS

from heliograph.run_configs import LocalRun, RunConfig
from heliograph.storage import Storage
from heliograph.storage.local import Local
from heliograph_agents import processes, run_directory
from heliograph_agents.launcher import Handle, Launcher
from heliograph_agents.launchers.local.launcher import LocalLauncher
from heliograph_agents.launchers.local.options import LocalOptions
from heliograph_agents.launchers.local.parents import WarmParent
from heliograph_agents.run_directory import RunDirectory, RunSettings


class LocalGround(Ground):
    """Processes of this host."""

    kind = "local"
    seen_from_everywhere = False

    def make_launcher(self, agent: str = "", disk: str = "runs") -> Launcher:
        settings = RunSettings(
            address=self.address, agent=agent or self.agent, home=str(self.folder / "home"),
            cache=str(self.folder / "cache"), work_dir=str(self.folder), grace_seconds=0.5,
        )  # fmt: skip
        return LocalLauncher(settings, self._runs(agent, disk), LocalOptions(crash_lines=self.early_lines))

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

    async def vanish(self, handle: Handle) -> None:
        await self.kill(handle)
        shutil.rmtree(self._directory(handle).path)

    async def launch_dead(self) -> tuple[Attempt, Handle, str]:
        attempt = self.attempt("pass")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PYTHONPATH", str(PLANTED))
            patched.setenv("HELIOGRAPH_PLANTED_BUG", "die_unheard")
            await self.restart()
        return attempt, await self.launch(attempt), LAST_WORDS

    def steps(self) -> list[Step]:
        return [
            Step(run_directory, "_write"),
            Step(RunDirectory, "create"),
            Step(WarmParent, "launch"),
            Step(LocalLauncher, "_watch"),
        ]

    async def remains(self, handle: Handle) -> list[str]:
        directory = self._directory(handle)
        found = await asyncio.to_thread(processes.members, directory.path, 0)
        return [f"process {pid}" for pid in found] + [str(directory.path)] * directory.token_file.exists()

    def _runs(self, agent: str, disk: str = "runs") -> Path:
        return self.folder / f"{disk}-{agent or self.agent}"

    def _directory(self, handle: Handle) -> RunDirectory:
        return RunDirectory(self._runs("") / handle.infrastructure)
