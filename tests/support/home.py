"""A product folder of its own for a test, with no settings from the machine that the test runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliograph import config


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sets HELIOGRAPH_HOME to an empty folder and removes all settings from the environment."""
    for name in list(os.environ):
        if name.startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HELIOGRAPH_HOME", str(folder))
    config.reload()
    yield folder
    config.reload()
