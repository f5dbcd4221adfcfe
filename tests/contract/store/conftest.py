"""Stores to test: every test of this folder runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.store.helpers import Bench, Clock
from tests.support.postgres import PostgresCluster, postgres

__all__ = ["postgres"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's URL, its schema made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/heliograph.db"
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    return cluster.clean_database()


@pytest.fixture
def bench(url: str) -> Iterator[Bench]:
    """An open store with a clock that the test sets, and shorthands."""
    bench = Bench(url, Clock())
    yield bench
    bench.close()
