"""What the agent fetches for a container: the login of a registry is on the agent's machine, and stays there.

The supervisor in the container finds it in its cache, and compares it with the digests as if it had fetched it itself.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import StorageError
from heliograph.storage import from_reference
from heliograph_agents.bundles import launch_file, reference, settings_of
from heliograph_agents.launcher import BundleSpec, LaunchError
from heliograph_agents.launchers.docker.offer import Owner, entry_of

__all__ = ["carried"]

KINDS = ("oci",)
"""Kinds of storage whose logins are those of the engine's images: the agent has them, and containers have not."""


def carried(spec: BundleSpec, cache: Path, owner: Owner) -> bytes:
    """Returns an archive to unpack in the attempt's volume; nothing for bundles that containers fetch.

    Args:
        spec: The bundle.
        cache: The agent's cache, into which it is fetched.
        owner: Whose files they are in the container.

    Raises:
        LaunchError: It cannot be fetched, or is not what was registered.
    """
    if spec.storage not in KINDS:
        return b""
    try:
        settings_of(spec, cache)
        folder = from_reference(spec.storage, spec.location, host=spec.host).fetch(reference(spec), cache)
    except StorageError as error:
        raise LaunchError(str(error), FailureCode[error.failure]) from error
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in _paths(folder, launch_file(cache, spec.launch_digest)):
            entry = entry_of(
                f"cache/{path.relative_to(cache).as_posix()}",
                owner,
                tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE,
            )
            if not path.is_dir():
                data = path.read_bytes()
                entry.size, entry.mode = len(data), 0o500 if path.stat().st_mode & 0o100 else 0o400
                archive.addfile(entry, BytesIO(data))
            else:
                archive.addfile(entry)
    return stream.getvalue()


def _paths(folder: Path, launch: Path) -> Iterator[Path]:
    yield folder.parent
    yield folder
    yield from sorted(folder.rglob("*"))
    yield folder.with_name(f"{folder.name}.json")
    if launch.is_file():
        yield launch.parent
        yield launch
