"""One control plane and one local agent for all tests of this folder, as real processes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.support.stack import Stack

PROJECT = "e2e"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A control plane and an agent on loopback."""
    running = Stack(tmp_path_factory.mktemp("stack"))
    try:
        running.start_control_plane()
        running.start_agent()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def cli(stack: Stack) -> Cli:
    """The command line of a signed-in administrator, and a project."""
    client = Cli(stack.home, cwd=stack.root)
    client.environment["HELIOGRAPH__CLIENT__ADDRESS"] = stack.address
    client.environment["HELIOGRAPH__CLIENT__TOKEN"] = stack.environment["HELIOGRAPH__CLIENT__TOKEN"]
    client("projects", "create", PROJECT)
    return client


@pytest.fixture
def write_flow(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a flow file."""

    def write(source: str, name: str = "flow.py") -> Path:
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(textwrap.dedent(source))
        return path

    return write
