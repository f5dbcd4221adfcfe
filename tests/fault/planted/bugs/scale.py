"""Mistakes that cost little with each run, line or agent, and everything in the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEAKED_BYTES = 1024 * 1024

_kept: list[Any] = []


def keep_each_exit(agents: Any) -> None:
    """The control plane remembers something of every run that has ended."""
    report = agents.AgentService.ReportFlowRunExit

    async def and_keep(self: Any, request: Any, context: Any) -> Any:
        _kept.append(bytearray(os.urandom(16)) * (LEAKED_BYTES // 16))
        return await report(self, request, context)

    agents.AgentService.ReportFlowRunExit = and_keep


def open_a_file_each_time(performer: Any) -> None:
    """The agent opens a file for each run, starts a thread, and ends neither."""
    report = performer.Performer._report

    async def and_leave_open(self: Any, *arguments: Any) -> Any:
        _kept.append(os.open(os.devnull, os.O_RDONLY))
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return await report(self, *arguments)

    performer.Performer._report = and_leave_open


def count_no_gap(logs: Any) -> None:
    """The store keeps lines and forgets how many never came."""
    accept = logs.LogStore._accept

    def and_forget(self: Any, writer: Any, lines: Any, accepted: Any) -> Any:
        answer = accept(self, writer, lines, accepted)
        accepted[:] = [line._replace(dropped_before=0) for line in accepted]
        return answer

    logs.LogStore._accept = and_forget


def store_lines_as_they_come(logs: Any) -> None:
    """The store takes a line that is sent again for a new one."""
    accept = logs.LogStore._accept

    def and_again(self: Any, writer: Any, lines: Any, accepted: Any) -> Any:
        writer[0] = min([writer[0], *(line.sequence - 1 for line in lines)])
        return accept(self, writer, lines, accepted)

    logs.LogStore._accept = and_again


def idle_soon(standing: Any) -> None:
    """Not a bug: what stands by without need is let go after a second."""
    standing.IDLE_SECONDS = 1.0


def beat_often(agents: Any) -> None:
    """Not a bug: heartbeats come often, so that a test need not wait for them."""
    agents.NEXT_HEARTBEAT = agents.convert.duration(2_000_000)


def beat_often_and_return_at_once(agents: Any) -> None:
    """The control plane does not say that there are many agents."""
    beat_often(agents)
    agents.spread_seconds = lambda _: 0.0


def small_lane(lanes: Any) -> None:
    """Not a bug: little room for log lines, so that a test need not write 64 MiB of them."""
    lanes.LOGS = lanes.Lane("logs", 128 * 1024, 1024 * 1024)


def die_with_lines_committed(logs: Any) -> None:
    """The control plane dies once, as by SIGKILL, when its third batch of lines is committed and not yet answered."""
    write = logs.LogService.WriteLogEntries
    died = Path(os.environ["HELIOGRAPH_HOME"]) / "died"
    batches = 0

    async def and_die(self: Any, request: Any, context: Any) -> Any:
        nonlocal batches
        answer = await write(self, request, context)
        batches += 1
        if batches == 3 and not died.exists():
            died.touch()
            os._exit(137)
        return answer

    logs.LogService.WriteLogEntries = and_die


FLOOD: dict[str, Callable[[Any], None]] = {
    "heliograph.reporting.lanes": small_lane,
    "heliograph_control_plane.services.logs": die_with_lines_committed,
}

BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "beat_often": {"heliograph_control_plane.services.agents": beat_often},
    "beat_often_and_return_at_once": {"heliograph_control_plane.services.agents": beat_often_and_return_at_once},
    "flood": FLOOD,
    "flood_and_count_no_gap": {**FLOOD, "heliograph_control_plane.store.logs": count_no_gap},
    "flood_and_store_lines_as_they_come": {
        "heliograph_control_plane.services.logs": die_with_lines_committed,
        "heliograph_control_plane.store.logs": store_lines_as_they_come,
    },
    "idle_soon": {"heliograph_agents.launchers.local.standing": idle_soon},
    "leak_with_each_run": {
        "heliograph_control_plane.services.agents": keep_each_exit,
        "heliograph_agents.performer": open_a_file_each_time,
    },
}
