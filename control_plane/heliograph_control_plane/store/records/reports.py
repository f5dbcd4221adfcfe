"""What runs report: events that change them, and log lines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias


class TaskEvent(NamedTuple):
    """A task run entered a state. `map_index` is -1 for what is not a child of a map."""

    task: int
    map_index: int
    state: int
    time_micros: int
    run_count: int
    child_count: int = 0
    result_stored: bool = False
    failure: bytes = b""


class FlowEvent(NamedTuple):
    """The flow run entered a state."""

    state: int
    time_micros: int
    failure: bytes = b""


Event: TypeAlias = TaskEvent | FlowEvent


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of one writer (run, epoch), in order. Without events it only renews the lease.

    Attributes:
        first_sequence: Sequence of the first event, from 1.
        incarnation: The store that the writer last heard from; empty before its first answer.
        hole_from_sequence: The writer no longer has the events from here up to `first_sequence`; 0 means none.
        agent: Name of the agent that reports for a run whose supervisor died; empty for the run itself.
    """

    run_id: str
    epoch: int
    first_sequence: int
    events: tuple[Event, ...] = ()
    incarnation: str = ""
    hole_from_sequence: int = 0
    agent: str = ""


class RunCommandKind(IntEnum):
    """What to do with a run; numbers of `heliograph.api.v1.Command`."""

    NONE = 0
    CANCEL = 1
    ABANDON = 2
    FORGET = 3
    CONNECTED = 4
    ACCEPT = 5


@dataclass(frozen=True, slots=True)
class EventAck:
    """All events up to `acked_sequence` are committed."""

    acked_sequence: int
    command: RunCommandKind
    incarnation: str


class LogLine(NamedTuple):
    """One line. `task` and `map_index` are -1 when not set; `epoch` is filled in when lines are read."""

    sequence: int
    time_micros: int
    level: int
    logger: str
    message: str
    task: int = -1
    map_index: int = -1
    dropped_before: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class LogAck:
    """All lines up to `acked_sequence` are stored, or refused for good because the run's quota is used up."""

    acked_sequence: int
    refused: int


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines in the order of their arrival. `cursor` goes on after them, also at the end; `more`: there are more now."""

    lines: tuple[LogLine, ...]
    cursor: str
    more: bool
