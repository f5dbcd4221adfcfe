"""The thread of the flow process that turns what the engine told into records of the outbox.

It sleeps until something is put, writes at once, then gathers for some milliseconds before it writes again: the first
event goes out without delay, and a busy run costs one write and one poke for hundreds of events.

A disk that is full, or a state lane at its cap, sets `full`: what was told is kept in memory and tried again, no new
task may start until there is room, and standard error says so. Log lines make room instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections import deque
from pathlib import Path

from heliograph.reporting.events import FlowItem, LogItem, TaskItem, flow_event, log_entry, task_event
from heliograph.reporting.lanes import LOGS, STATES, Lane, LaneLostError, LaneWriter

GATHER_SECONDS = 0.003
"""How long events gather between two writes of a busy run."""

RETRY_SECONDS = 1.0
"""How long to wait before a full disk or lane is tried again."""

EXIT_LOST = 70
"""Exit code of a flow process whose own code closed the outbox, or that is a forked copy of another one."""

_BATCH = 4096


class OutboxWriter:
    """Writes both lanes of one run. Anything may be put from any thread; nothing that is put raises.

    Args:
        folder: The outbox's folder; exists.
        poke_descriptor: Non-blocking pipe or socket that gets a byte after each write; -1 for none.
        states: The state lane; another one only in tests.
        logs: The log lane; another one only in tests.

    Attributes:
        states: Where items of task and flow states are appended. After an append, call `wake` when `idle`.
        logs: The same for log lines.
        idle: True while the thread sleeps.
        full: True while no new task may start.
    """

    def __init__(self, folder: Path, poke_descriptor: int = -1, *, states: Lane = STATES, logs: Lane = LOGS) -> None:
        self.states: deque[TaskItem | FlowItem | threading.Event] = deque()
        self.logs: deque[LogItem | threading.Event] = deque()
        self.idle = False
        self.full = False
        self._poke_descriptor = poke_descriptor
        self._states_cap_bytes = states.cap_bytes
        self._state_lane = LaneWriter(folder, states)
        self._log_lane = LaneWriter(folder, logs)
        self._log_sequence = self._log_lane.next_sequence
        self._kept: list[bytes] = []
        self._wake = threading.Event()
        self._room = threading.Event()
        self._room.set()
        self._closing = threading.Event()
        self._said_full = False
        self._forked = False
        if hasattr(os, "register_at_fork"):
            this = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _note_fork(this()))
        self._thread = threading.Thread(target=self._run, name="heliograph-outbox", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Wakes the thread."""
        self._wake.set()

    def flush(self, timeout_seconds: float) -> bool:
        """Waits until all that was put before is written. False when it was not within the time."""
        self._leave_if_forked()
        states, logs = threading.Event(), threading.Event()
        self.states.append(states)
        self.logs.append(logs)
        self._wake.set()
        return states.wait(timeout_seconds) and logs.wait(timeout_seconds)

    def wait_for_room(self) -> None:
        """Returns when a new task may start."""
        self._leave_if_forked()
        while self.full:
            self._room.wait(RETRY_SECONDS)

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """Writes what is left and ends the thread. False when it could not within the time.

        A full disk is waited for, however long: the end of a flow is not told by leaving it out.
        """
        done = self.flush(timeout_seconds)
        while not done and self.full:
            done = self.flush(timeout_seconds)
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        return done and not self._thread.is_alive()

    def _leave_if_forked(self) -> None:
        """Ends a copy of the flow process that a task forked and that went on with the flow: there is one already."""
        if self._forked:
            _say("a task forked, and the child returned into the flow; the child ends here (os._exit ends it in order)")
            os._exit(EXIT_LOST)

    def _run(self) -> None:
        try:
            self._write()
        except LaneLostError as error:
            # Whatever has the descriptors now is not to be written to, and a flow that tells nothing must not go on.
            _say(f"{error}; the run ends here")
            os._exit(EXIT_LOST)

    def _write(self) -> None:
        wake, closing = self._wake, self._closing
        while True:
            self.idle = True
            if not (self.states or self.logs or self.full or closing.is_set()):
                wake.wait()
            self.idle = False
            wake.clear()
            # States are taken before log lines and written after them: when a final state can be read, so can every
            # line that came before it.
            payloads, marks = self._take_states()
            wrote = self._write_logs()
            wrote = self._write_states(payloads, marks) or wrote
            if wrote:
                self._poke()
            if closing.is_set() and not (self.states or self.logs):
                break
            closing.wait(RETRY_SECONDS if self.full else GATHER_SECONDS)
        self._state_lane.close()
        self._log_lane.close()

    def _take_states(self) -> tuple[list[bytes], list[threading.Event]]:
        payloads: list[bytes] = self._kept
        marks: list[threading.Event] = []
        self._kept = []
        queue = self.states
        while queue and len(payloads) < _BATCH:
            item = queue.popleft()
            if isinstance(item, threading.Event):
                marks.append(item)
                continue
            try:
                # A length tells the kinds apart; mypy knows tuples by their length only where it is matched.
                match item:
                    case (_, _, _):
                        payloads.append(flow_event(item))
                    case _:
                        payloads.append(task_event(item))
            except (TypeError, ValueError) as error:  # one event that cannot be told must not silence all others
                _say(f"an event of this run could not be recorded: {error}")
        return payloads, marks

    def _write_states(self, payloads: list[bytes], marks: list[threading.Event]) -> bool:
        before = self._state_lane.next_sequence
        if payloads:
            try:
                self._state_lane.append(payloads)
            except OSError as error:
                written = self._state_lane.next_sequence - before
                self._kept = payloads[written:]
                self.states.extendleft(reversed(marks))
                self._set_full(f"the run's outbox cannot be written: {error}")
                return written > 0
        for mark in marks:
            mark.set()
        if self.full or self._state_lane.at_segment_end:
            taken = self._state_lane.bytes_on_disk()
            if taken > self._states_cap_bytes:
                self._set_full(f"the run's outbox holds {taken >> 20} MiB that the control plane has not taken yet")
            elif self.full:
                self._set_room()
        return bool(payloads)

    def _write_logs(self) -> bool:
        queue = self.logs
        payloads: list[bytes] = []
        marks: list[threading.Event] = []
        first = self._log_sequence
        while queue and len(payloads) < _BATCH:
            item = queue.popleft()
            if isinstance(item, threading.Event):
                marks.append(item)
                continue
            try:
                payloads.append(log_entry(item, self._log_sequence))
            except (TypeError, ValueError) as error:
                _say(f"a log line of this run could not be recorded: {error}")
            self._log_sequence += 1
        if payloads:
            # When the disk takes no more, the lines are dropped; the gap in their numbers says how many.
            with contextlib.suppress(OSError):
                self._log_lane.append(payloads)
        if self._log_lane.at_segment_end:
            self._log_lane.drop_oldest()
        for mark in marks:
            mark.set()
        return self._log_sequence > first

    def _set_full(self, why: str) -> None:
        self.full = True
        self._room.clear()
        if not self._said_full:
            self._said_full = True
            _say(f"{why}; no new task starts until there is room")

    def _set_room(self) -> None:
        self.full = False
        self._room.set()
        self._said_full = False
        _say("the run's outbox has room again; tasks go on")

    def _poke(self) -> None:
        if self._poke_descriptor >= 0:
            with contextlib.suppress(OSError):  # full: a poke is waiting already; closed: the supervisor is gone
                os.write(self._poke_descriptor, b"\0")


def _note_fork(outbox: OutboxWriter | None) -> None:
    """In a forked child: no new task may start, and the first that tries to ends the child."""
    if outbox is not None:
        outbox._forked = outbox.full = True  # noqa: SLF001 (one module, one concept)


def _say(text: str) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # the flow may have closed or replaced it
        sys.stderr.write(f"heliograph: {text}\n")
        sys.stderr.flush()
