"""One control plane for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.support.control_plane import control_plane
from tests.support.hints import no_slow_poll
from tests.support.scene import Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane, ExitStack() as stack:
        yield Scene(stack, plane)


@pytest.fixture
def hints_only(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself for what changed: what is not told of at once is never found."""
    no_slow_poll(monkeypatch, scene.plane)
