"""What the agent itself checks before anything is launched for a run: its launch settings are those registered.

The supervisor checks the bundle, where the code will run; the agent checks what it is asked to start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import StorageError
from heliograph.storage import LaunchSettings
from heliograph_agents.bundles import settings_of
from heliograph_agents.launcher import LaunchError, RunSpec


class Gate:
    """Admits runs.

    Args:
        cache: Folder of fetched bundles and launch settings.
        needs_settings: True when the launcher wants the launch settings.
    """

    def __init__(self, cache: Path, *, needs_settings: bool) -> None:
        self._cache, self._needs_settings = cache, needs_settings

    async def admit(self, spec: RunSpec) -> LaunchSettings | None:
        """Returns the launch settings of a run that may be launched; None where nobody here needs them.

        Raises:
            LaunchError: It may not, or nobody can tell.
        """
        if not self._needs_settings:
            return None
        try:
            return await asyncio.to_thread(settings_of, spec.bundle, self._cache)
        except StorageError as error:
            raise LaunchError(f"its launch settings: {error}", FailureCode[error.failure]) from error
