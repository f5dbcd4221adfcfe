"""Stores to test: every test of this folder runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.store.helpers import Bench, Clock
from tests.support.postgres import PostgresCluster, postgres

from heliograph_control_plane.store import migrate_store

__all__ = ["postgres"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of an empty SQLite store."""
    folder = tmp_path_factory.mktemp("template")
    migrate_store(f"sqlite:///{folder}/heliograph.db")
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's URL, its schema made."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("template")
        for file in template.iterdir():
            shutil.copy(file, tmp_path)
        return f"sqlite:///{tmp_path}/heliograph.db"
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    return cluster.clean_database()


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    """An open store with a clock that the test sets, and shorthands."""
    bench = Bench(url, Clock())
    yield bench
    bench.close()
