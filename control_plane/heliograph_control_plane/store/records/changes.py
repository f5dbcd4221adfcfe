"""What the store tells by itself, and what it knows of its own: changes, leadership, rows left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from heliograph_control_plane.store.records.agents import Upcoming


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit changed, told to subscribers right after it.

    Attributes:
        runs: Ids of runs that were created or changed.
        tasks: Ids of runs whose task runs changed.
        logs: Ids of runs with new log lines.
        ready: Runs that became claimable, by requirement, with the time of the first.
        tokens: True when a token was issued, replaced or revoked.
        schedules: True when a schedule was made, changed, paused or resumed.
    """

    runs: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    logs: frozenset[str] = frozenset()
    ready: tuple[Upcoming, ...] = ()
    tokens: bool = False
    schedules: bool = False


Subscriber: TypeAlias = Callable[[Changes], None]


@dataclass(frozen=True, slots=True)
class Leadership:
    """The right to run the loops that only one control plane may run, until `expire_micros` of the store's clock."""

    holder: str
    term: int
    expire_micros: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that could not be worked with and is left alone until someone looks at it."""

    kind: str
    key: str
    reason: str
    time_micros: int
