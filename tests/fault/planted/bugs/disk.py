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


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "never_sync": {"heliograph_control_plane.store.database": never_sync},
    "sync_seldom": {"heliograph_control_plane.store.database": sync_seldom},
    "trust_the_cache": {"heliograph_control_plane.store.database": trust_the_cache},
    "try_again": {"heliograph_control_plane.store.writer": try_again},
    "tell_later": {"heliograph.reporting.writer": tell_later},
}
