"""Mistakes of what is written to disks, and of what is read from clocks."""

from __future__ import annotations

import os
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


def _short_rest(agent: Any) -> None:
    agent.FIRST_SUSPENSION_SECONDS, agent.LONGEST_SUSPENSION_SECONDS = 1.0, 2.0
    agent.RECONCILE_SECONDS = (1.0, 1.5)


def _short_back_off(performer: Any) -> None:
    performer.RELEASE_BACK_OFF_SECONDS = 1.0


def never_rest(agent: Any) -> None:
    """An agent goes on claiming, whatever becomes of what it claims."""
    agent.LAUNCH_FAILURES = 10**9


def burn_runs(cache: Any) -> None:
    """That the host's disk is full is told as the run's own failure."""
    cache.disk_failed = lambda _: False


def _small_outbox(lanes: Any) -> None:
    lanes.STATES = lanes.Lane("states", 4096, 16384)


def never_full(writer: Any) -> None:
    """The outbox takes whatever comes."""
    writer.OutboxWriter._look_at_the_cap = lambda _: None


def _short_farewell(flow_process: Any) -> None:
    flow_process.FLUSH_SECONDS = 2.0


def fail_with_the_ledger(writer: Any) -> None:
    """A ledger that cannot be written ends the flow."""

    def end(*_: object) -> None:
        os._exit(9)

    writer.LedgerWriter._pause = end


def blind_to_memory(processes: Any) -> None:
    """Nobody asks the kernel why it killed."""
    from heliograph_agents import control_groups

    control_groups.memory_kills = lambda: 0
    processes.kernel_says_out_of_memory = lambda _: False


def lose_results(local_result: Any) -> None:
    """A result that cannot be kept is not worth a word."""

    def write(path: Any, data: bytes) -> None:
        try:
            path.write_bytes(data)
        except OSError:
            path.unlink(missing_ok=True)

    local_result.write_atomically = write


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    # Not bugs: they shorten what a test would wait for, or lower a limit that it would take long to reach.
    "short_rest": {
        "heliograph_agents.agent": _short_rest,
        "heliograph_agents.performer": _short_back_off,
        "heliograph_agents.flow_process": _short_farewell,
    },
    "small_outbox": {"heliograph.reporting.lanes": _small_outbox},
    "never_rest": {"heliograph_agents.agent": never_rest},
    "burn_runs": {"heliograph.storage.cache": burn_runs},
    "lose_results": {"heliograph.engine.results.local_result": lose_results},
    "never_full": {"heliograph.reporting.writer": never_full},
    "fail_with_the_ledger": {"heliograph.ledger.writer": fail_with_the_ledger},
    "blind_to_memory": {"heliograph_agents.processes": blind_to_memory},
    "believe_any_clock": {"heliograph_control_plane.loops.reaper": believe_any_clock},
    "never_sync": {"heliograph_control_plane.store.database": never_sync},
    "no_start_up_grace": {"heliograph_control_plane.server": no_start_up_grace},
    "start_by_own_clock": {"heliograph_agents.agent": start_by_own_clock},
    "sync_seldom": {"heliograph_control_plane.store.database": sync_seldom},
    "trust_the_cache": {"heliograph_control_plane.store.database": trust_the_cache},
    "try_again": {"heliograph_control_plane.store.writer": try_again},
    "tell_later": {"heliograph.reporting.writer": tell_later},
}
