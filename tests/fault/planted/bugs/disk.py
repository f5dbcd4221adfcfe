"""Mistakes of what is written to disks, and of what is read from clocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def tell_later(writer: Any) -> None:
    """A state is written by the outbox's thread, some time after it was told."""
    writer.OutboxWriter.put_start = writer.OutboxWriter.put_state


def _synchronous(database: Any, level: str) -> None:
    make = database._sqlite_engine

    def engine(path: Any, _level: str, **options: Any) -> Any:
        return make(path, level, **options)

    database._sqlite_engine = engine


def sync_seldom(database: Any) -> None:
    """The main store is synced as the log lines are."""
    _synchronous(database, "NORMAL")


def never_sync(database: Any) -> None:
    """Nothing is synced."""
    _synchronous(database, "OFF")


def trust_the_cache(database: Any) -> None:
    """Commits are not synced, so that a disk that keeps nothing is not noticed."""
    _synchronous(database, "NORMAL")


def try_again(writer: Any) -> None:
    """A transaction whose sync failed is tried again, as any other."""
    writer.is_fatal = lambda _: False


def no_start_up_grace(server: Any) -> None:
    """Not a bug: what is due is reaped from the start on."""
    server.start_up_grace = lambda *_: 0


def believe_any_clock(reaper: Any) -> None:
    """The reaper does not notice that time jumped."""
    reaper.GAP_SECONDS = float("inf")


def start_by_own_clock(agent: Any) -> None:
    """An agent takes a run for what is due when its own clock says so."""
    offer = agent.Agent._offer

    def take(self: Any, lease: Any) -> None:
        if abs(agent.time.time() - lease.flow_run.scheduled_time.ToSeconds()) < 3600:
            offer(self, lease)

    agent.Agent._offer = take


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "believe_any_clock": {"heliograph_control_plane.loops.reaper": believe_any_clock},
    "never_sync": {"heliograph_control_plane.store.database": never_sync},
    "no_start_up_grace": {"heliograph_control_plane.server": no_start_up_grace},
    "start_by_own_clock": {"heliograph_agents.agent": start_by_own_clock},
    "sync_seldom": {"heliograph_control_plane.store.database": sync_seldom},
    "trust_the_cache": {"heliograph_control_plane.store.database": trust_the_cache},
    "try_again": {"heliograph_control_plane.store.writer": try_again},
    "tell_later": {"heliograph.reporting.writer": tell_later},
}
