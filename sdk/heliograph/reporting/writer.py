"""Turns what the engine told into records of the outbox, in the flow process.

That a task runs is in the file before its code begins, and with it all that was told before: a flow that dies in that
code has told what it did. A thread does what may wait, at once after a silence and every few milliseconds in a busy
run: it writes states behind which no code has begun, and log lines, and pokes the supervisor.

A disk that is full, or a state lane at its cap, sets `full`: what was told is kept in memory and tried again by the
thread, no new task may start until there is room, and standard error says so. Log lines make room instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path

from heliograph.reporting.events import FlowItem, LogItem, TaskItem, flow_event, log_entry, task_event
from heliograph.reporting.lanes import LOGS, STATES, Lane, LaneLostError, LaneWriter, identity_of

GATHER_SECONDS = 0.003
"""How long a busy run's states gather between two pokes, and its log lines between two writes."""

RETRY_SECONDS = 1.0
"""How long to wait before a full disk or lane is tried again."""

EXIT_LOST = 70
"""Exit code of a flow process whose own code closed the outbox, or that is a forked copy of another one."""

_BATCH = 4096

_FLOW_ITEM_LENGTH = 3  # items of tasks are longer


class OutboxWriter:
    """Writes both lanes of one run. Anything may be put from any thread; nothing that is put raises.

    Args:
        folder: The outbox's folder; exists.
        poke_descriptor: Non-blocking pipe or socket that gets a byte after each write; -1 for none.
        states: The state lane; another one only in tests.
        logs: The log lane; another one only in tests.

    Attributes:
        logs: Where items of log lines are appended. After an append, call `wake` when `idle`.
        idle: True while the thread sleeps.
        full: True while no new task may start.
    """

    def __init__(self, folder: Path, poke_descriptor: int = -1, *, states: Lane = STATES, logs: Lane = LOGS) -> None:
        self.logs: deque[LogItem] = deque()
        self.idle = False
        self.full = False
        self._poke_descriptor = poke_descriptor
        self._poke_identity = identity_of(poke_descriptor) if poke_descriptor >= 0 else None
        self._states_cap_bytes = states.cap_bytes
        self._state_lane = LaneWriter(folder, states)
        self._log_lane = LaneWriter(folder, logs)
        self._log_sequence = self._log_lane.next_sequence
        self._states: deque[TaskItem | FlowItem] = deque()
        self._kept: list[bytes] = []
        # Held while the state lane is written; a signal handler may tell something in the middle of it.
        self._states_lock = threading.RLock()
        self._writing_states = False
        self._told = False
        self._logs_lock = threading.RLock()
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

    def put_state(self, item: TaskItem | FlowItem) -> None:
        """Takes a state, which is written within milliseconds."""
        self._states.append(item)
        if self.idle:
            self._wake.set()

    def put_start(self, item: TaskItem | FlowItem) -> None:
        """Takes a state and writes it, and what was put before it; keeps it in memory when the outbox is full."""
        self._states.append(item)
        if not self.full:
            self._guarded(self._write_states)
        if self.idle:
            self._wake.set()

    def put_end(self, item: FlowItem) -> None:
        """Writes the flow's final state behind the log lines that came before it: who sees the end can see them."""
        if not self._forked:
            self._guarded(self._write_logs)
        self.put_start(item)

    def flush(self, timeout_seconds: float) -> bool:
        """Waits until all that was put before is written. False when it was not within the time."""
        self._leave_if_forked()
        self._guarded(self._write_logs)
        limit = time.monotonic() + timeout_seconds
        while True:
            if not self.full:
                self._guarded(self._write_states)
            if not (self._states or self._kept):
                return True
            left = limit - time.monotonic()
            if left <= 0 or not self._room.wait(left):
                return False

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

    def _guarded(self, write: Callable[[], bool]) -> bool:
        try:
            return write()
        except LaneLostError as error:
            # Whatever has the descriptors now is not to be written to, and a flow that tells nothing must not go on.
            _say(f"{error}; the run ends here")
            os._exit(EXIT_LOST)

    def _run(self) -> None:
        wake, closing = self._wake, self._closing
        while True:
            self.idle = True
            if not (self._states or self._told or self.logs or self.full or closing.is_set()):
                wake.wait()
            self.idle = False
            wake.clear()
            wrote = self._guarded(self._write_logs)
            if self._states or self.full:
                self._guarded(self._write_states)
            told, self._told = self._told, False
            if wrote or told:
                self._poke()
            if closing.is_set() and not (self._states or self.logs):
                break
            closing.wait(RETRY_SECONDS if self.full else GATHER_SECONDS)
        self._state_lane.close()
        self._log_lane.close()

    def _write_states(self) -> bool:
        """Writes what was told and not written. Returns whether something was."""
        with self._states_lock:
            if self._writing_states:
                return False  # this is a signal handler: the writing that it interrupted goes on with what it put
            self._writing_states = True
            lane = self._state_lane
            before = first = lane.next_sequence
            try:
                while self._states or self._kept:
                    self._take_states()
                    first = lane.next_sequence
                    lane.append(self._kept)
                    self._kept = []
                if self.full or lane.at_segment_end:
                    self._look_at_the_cap()
            except OSError as error:
                self._kept = self._kept[lane.next_sequence - first :]
                self._set_full(f"the run's outbox cannot be written: {error}")
            finally:
                self._writing_states = False
            if lane.next_sequence == before:
                return False
            self._told = True
            return True

    def _take_states(self) -> None:
        """Encodes what was told, behind what could not be written before."""
        payloads, queue = self._kept, self._states
        while queue and len(payloads) < _BATCH:
            item = queue.popleft()
            try:
                payloads.append(flow_event(item) if len(item) == _FLOW_ITEM_LENGTH else task_event(item))  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:  # one event that cannot be told must not silence all others
                _say(f"an event of this run could not be recorded: {error}")

    def _look_at_the_cap(self) -> None:
        taken = self._state_lane.bytes_on_disk()
        if taken > self._states_cap_bytes:
            self._set_full(f"the run's outbox holds {taken >> 20} MiB that the control plane has not taken yet")
        elif self.full:
            self._set_room()

    def _write_logs(self) -> bool:
        with self._logs_lock:
            queue, first = self.logs, self._log_sequence
            payloads: list[bytes] = []
            while queue and len(payloads) < _BATCH:
                try:
                    payloads.append(log_entry(queue.popleft(), self._log_sequence))
                except (TypeError, ValueError) as error:
                    _say(f"a log line of this run could not be recorded: {error}")
                self._log_sequence += 1
            if payloads:
                # When the disk takes no more, the lines are dropped; the gap in their numbers says how many.
                with contextlib.suppress(OSError):
                    self._log_lane.append(payloads)
            if self._log_lane.at_segment_end:
                self._log_lane.drop_oldest()
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
                # A flow that closed it may have a file of its own under its number.
                if identity_of(self._poke_descriptor) == self._poke_identity:
                    os.write(self._poke_descriptor, b"\0")


def _note_fork(outbox: OutboxWriter | None) -> None:
    """In a forked child: no new task may start, and the first that tries to ends the child."""
    if outbox is not None:
        outbox._forked = outbox.full = True  # noqa: SLF001 (one module, one concept)


def _say(text: str) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # the flow may have closed or replaced it
        sys.stderr.write(f"heliograph: {text}\n")
        sys.stderr.flush()
