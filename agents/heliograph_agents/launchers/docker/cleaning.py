"""What is removed of attempts whose end is reported, and when."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping

from heliograph.engine.codes import StateCode
from heliograph_agents.launcher import Handle
from heliograph_agents.launchers.docker.engine import Engine
from heliograph_agents.launchers.docker.offer import blank
from heliograph_agents.launchers.docker.options import DockerOptions
from heliograph_agents.launchers.docker.plan import PLACE
from heliograph_agents.launchers.records import Records
from heliograph_agents.run_directory import RunDirectory
from heliograph_agents.run_directory import name_of as folder_name_of

_log = logging.getLogger("heliograph.agent")


def blank_secrets(engine: Engine, handle: Handle) -> None:
    """Leaves no token, parameter or key in the volume of a container that is kept. Best effort: all of it is over."""
    inside = f"runs/{folder_name_of(handle.run_id, handle.epoch)}"
    names = ("offer/launch.json", "offer/token", "offer/tls_key.pem", f"{inside}/token", f"{inside}/launch.json")
    with contextlib.suppress(OSError):
        if engine.container(handle.infrastructure) is not None:
            engine.put(handle.infrastructure, PLACE, blank(names))


def clean(engine: Engine, records: Records, options: DockerOptions, own: Mapping[str, str], busy: set[str]) -> None:
    """Removes what need not be kept: containers and volumes of reported attempts, and their folders here.

    Args:
        engine: The engine.
        records: The attempts' folders.
        options: What is kept, and how long.
        own: The labels of this agent's containers and volumes.
        busy: Names of attempts that are being launched: their volumes have no container yet.
    """
    known = records.all()
    left = {handle.infrastructure for handle, folder in known if not folder.has("forgotten")}
    kept = set(_kept(known, options))
    names = {name for one in engine.containers(own) for name in _names(one)}
    for handle, folder in known:
        name = handle.infrastructure
        if name in left or name in kept or name in busy:
            continue
        engine.remove(name, force=True)
        engine.remove_volume(name)
        names.discard(name)
        folder.remove()
    # Volumes without a container: of launches that an agent died in, when its folder went with it.
    for volume in engine.volumes(own):
        name = str(volume.get("Name"))
        if name not in names | left | busy:
            _log.info("removing volume %s, which no container uses", name)
            engine.remove_volume(name)


def _kept(known: list[tuple[Handle, RunDirectory]], options: DockerOptions) -> list[str]:
    """Returns the names of reported attempts that stay for a while: the newest ones."""
    horizon, found = time.time() - options.keep_seconds, []
    for handle, folder in known:
        with contextlib.suppress(OSError):
            ended = (folder.path / "forgotten").stat().st_mtime
            if ended > horizon and _wanted(folder, options.keep):
                found.append((ended, handle.infrastructure))
    return [name for _, name in sorted(found, reverse=True)[: options.keep_count]]


def _wanted(folder: RunDirectory, keep: str) -> bool:
    if keep != "failed":
        return keep == "always"
    record = folder.exit()
    return record is None or StateCode(record.state).is_failed


def _names(container: Mapping[str, object]) -> list[str]:
    names = container.get("Names") or []
    assert isinstance(names, list)
    return [str(name).lstrip("/") for name in names]
