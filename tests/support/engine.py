"""What tests of the engine share: a sink that remembers, and a clock that does not wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.sink import FailureInfo, NullSink, StoredResult


@dataclass
class RecordingSink(NullSink):
    """Remembers everything it is told, in order."""

    events: list[tuple[int, int | None, StateCode, int, int]] = field(default_factory=list)
    flow_events: list[StateCode] = field(default_factory=list)
    failures: list[tuple[str, int | None, int | None, FailureCode]] = field(default_factory=list)
    results: list[tuple[int, int | None, StoredResult]] = field(default_factory=list)
    inputs: list[tuple[int, int, dict[str, StoredResult]]] = field(default_factory=list)
    names: list[tuple[int, int | None, str]] = field(default_factory=list)
    told: list[FailureInfo | None] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)
    children: dict[int, int] = field(default_factory=dict)
    flow_failure: FailureInfo | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def task_state(
        self,
        task: int,
        map_index: int | None,
        state: StateCode,
        time_micros: int,
        run_count: int,
        start_time_micros: int = 0,
        child_count: int = 0,
        failure: FailureInfo | None = None,
        result_stored: bool = False,
    ) -> None:
        with self.lock:
            self.events.append((task, map_index, state, time_micros, run_count))
            self.told.append(failure)
            self.flags.append(result_stored)
            if state is StateCode.MAPPED:
                self.children[task] = child_count

    def flow_state(self, state: StateCode, time_micros: int, failure: FailureInfo | None = None) -> None:
        self.flow_events.append(state)
        self.flow_failure = failure

    def failed(self, error: BaseException, task: int | None, map_index: int | None, reason: FailureCode) -> FailureInfo:
        with self.lock:
            self.failures.append((str(error), task, map_index, reason))
        return super().failed(error, task, map_index, reason)

    def result(self, task: int, map_index: int | None, stored: StoredResult) -> None:
        with self.lock:
            self.results.append((task, map_index, stored))

    def mapped_input(self, task: int, map_index: int, inputs: dict[str, StoredResult]) -> None:
        with self.lock:
            self.inputs.append((task, map_index, inputs))

    def rendered_name(self, task: int, map_index: int | None, name: str) -> None:
        with self.lock:
            self.names.append((task, map_index, name))

    def states_of(self, task: int, map_index: int | None = None) -> list[StateCode]:
        """The states of one task run, in order."""
        return [event[2] for event in self.events if event[:2] == (task, map_index)]

    def times_of(self, task: int, map_index: int | None = None) -> list[int]:
        """The times of one task run's states."""
        return [event[3] for event in self.events if event[:2] == (task, map_index)]


class LeapingClock:
    """A clock whose waits end at once: it leaps to their end."""

    def __init__(self, start: int = 1_600_000_000_000_000) -> None:
        self.time = start
        self.waits: list[int] = []
        self._lock = threading.Lock()

    def now(self) -> int:
        with self._lock:
            self.time += 1
            return self.time

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        if until is None:
            condition.wait()
            return
        with self._lock:
            if until > self.time:
                self.waits.append(until - self.time)
                self.time = until
