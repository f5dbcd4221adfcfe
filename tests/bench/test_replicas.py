"""One control plane and two on one PostgreSQL: what a call costs them and the database, and how its tables are updated.

With two, half of the clients ask each. On a machine with two cores the rate says little: servers, clients and database
share them. CPU time for a call says what a second server adds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from tests.bench.conftest import Say, cpu_seconds
from tests.bench.test_server import Server
from tests.support.postgres import PostgresCluster, postgres

__all__ = ["postgres"]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

CLIENTS = 8
COUNTS = {"create": 4_000, "report": 80_000, "claim": 3_900}
MOST_CPU_MILLISECONDS = 8.0
"""Of servers and database together, for one call: several times what it costs here."""


def of_the_database(cluster: PostgresCluster) -> Callable[[], float]:
    """Returns what tells the CPU time of PostgreSQL's processes so far."""
    pid = int((cluster.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    return lambda: cpu_seconds(*psutil.Process(pid).children())


def together(servers: list[Server], scenario: str, at_once: int) -> list[dict[str, Any]]:
    """Has an equal part of the clients load each server at the same time."""

    def one(server: Server) -> dict[str, Any]:
        part = len(servers)
        return server.load(scenario, clients=CLIENTS // part, count=COUNTS[scenario] // part, at_once=at_once)

    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(one, servers))


@pytest.mark.parametrize("count", [1, 2])
def test_calls_of_several_servers(tmp_path: Path, postgres: PostgresCluster, say: Say, count: int) -> None:
    url = postgres.store_database()
    servers = [Server(tmp_path / str(number), url, "postgresql", tmp_path / "shared") for number in range(count)]
    try:
        database = of_the_database(postgres)
        for scenario, at_once in (("create", 1), ("report", 100), ("claim", 10)):
            before = database()
            found = together(servers, scenario, at_once)
            made = sum(one["count"] for one in found)
            cost = 1000 * sum(one["cpu"] for one in found) / made
            cost_of_database = 1000 * (database() - before) / made
            rate = sum(one["count"] / one["seconds"] for one in found)
            say(
                f"{count} servers: {scenario} {rate:,.0f}/s, {cost:.3f} ms of CPU in servers,"
                f" {cost_of_database:.3f} ms in PostgreSQL, p99 {1000 * max(one['p99'] for one in found):.0f} ms"
            )
            assert cost + cost_of_database < MOST_CPU_MILLISECONDS
        say(f"{count} servers: {updates(url)}")
    finally:
        for server in servers:
            server.process.terminate()


def updates(url: str) -> str:
    """Returns how often rows were updated, and how often within their page, without touching an index."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        rows = connection.execute(
            "SELECT relname, n_tup_upd, n_tup_hot_upd, n_dead_tup FROM pg_stat_user_tables WHERE n_tup_upd > 0"
            " ORDER BY n_tup_upd DESC LIMIT 4"
        ).fetchall()
    return "; ".join(
        f"{name}: {made:,} updates, {hot:,} within the page, {dead:,} dead" for name, made, hot, dead in rows
    )
