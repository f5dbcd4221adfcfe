"""Grounds of the launchers: every test of this folder runs on each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.launchers.ground import Ground
from tests.contract.launchers.local_ground import LocalGround
from tests.support.control_plane import ControlPlaneProcess, control_plane_process

GROUNDS: dict[str, type[Ground]] = {
    "local": LocalGround,
}


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane for the tests that do not hurt it."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.xdist_group(f"launcher-{kind}")) for kind in GROUNDS])
async def ground(request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess) -> AsyncIterator[Ground]:
    """One kind of launcher, open."""
    made = GROUNDS[request.param](tmp_path, plane)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
