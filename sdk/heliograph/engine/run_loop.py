"""How one flow run is worked off: executors see it as `Work`, and take task runs from it until it is over.

Plain tasks - no handlers, cache, target, result, limit or other extra - take a short way through `step`; all others,
and every plain task whose inputs are not plain successes, go through `TaskRunner`. Both dispatch to the same state
machine, and both tell the `run_books` what became of a run.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from typing import Any

from heliograph.context import enter_task
from heliograph.engine.codes import StateCode
from heliograph.engine.graph import Input
from heliograph.engine.interrupts import Interrupted, RunStopped, Seat, seat_here
from heliograph.engine.nodes import Node, TaskFrame
from heliograph.engine.run_books import RunBooks
from heliograph.engine.state import UNSET, Mapped, State, Success, success_with
from heliograph.engine.transitions import Event, EventKind, next_state

_START = Event(EventKind.START)
_RETURNED = Event(EventKind.RETURNED)


class Outward(BaseException):
    """Carries a user's exception out of the run, to its caller.

    Args:
        error: The exception.
        reason: Why it is let through.
    """

    def __init__(self, error: BaseException, reason: str) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason


class RunLoop(RunBooks):
    """One flow run that is worked off: its books, and what threads and signal handlers do with them."""

    # --- what executors see -----------------------------------------------------------------------------------------

    def take(self) -> int | None:
        """Waits for a task run that can be worked on and returns its number; None when the flow run is over."""
        with self.condition:
            while not self.over:
                if self.ready:
                    self.active += 1
                    return self.ready.popleft()
                due = self.waiting[0][0] if self.waiting else None
                if due is not None and due <= self.clock.now():
                    self._wake(heapq.heappop(self.waiting)[1])
                elif due is None and not self.active and not self.asking and not (self.paused and self.resumable):
                    self._ask_or_end()
                else:
                    self.idle += 1
                    self.clock.wait(self.condition, due)
                    self.idle -= 1
            return None

    def step(self, run: int, seat: Seat) -> int | None:
        """Works on a task run in this thread. Returns another one to go on with at once, or None."""
        node = self.nodes[self.node_of[run]]
        if node.plain and not self.stopping and self.records[run].run_count == 0:
            inputs = self._plain_inputs(node, run)
            if inputs is not None:
                return self._step_plain(node, run, inputs, seat)
        assert self.runner is not None
        return self.runner.work_on(run, node, seat)

    def add_seat(self) -> Seat:
        """Makes the seat of this thread, through which a cancellation can reach it."""
        seat = seat_here(self.abort)
        seat.open()
        self.watch(seat)
        return seat

    def remove_seat(self, seat: Seat) -> None:
        """Gives it back."""
        self.forget(seat)
        seat.close()

    def watch(self, seat: Seat) -> None:
        """Lets a cancellation reach `seat`."""
        with self.condition:
            self.seats.append(seat)

    def forget(self, seat: Seat) -> None:
        """Undoes `watch`."""
        with self.condition:
            if seat in self.seats:
                self.seats.remove(seat)

    def add_end(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when nothing is left to work on; at once when that is so already."""
        with self.condition:
            if not self.over:
                self.ends.append(callback)
                return
        callback()

    def crash(self, error: BaseException) -> None:
        """Ends the flow run because of a fault outside all tasks."""
        with self.condition:
            if self.fault is None:
                self.fault = error
        self.stop()

    def abort(self, error: BaseException) -> None:
        """Ends the flow run because of what was raised in the thread that runs it, from outside the run."""
        if not isinstance(error, KeyboardInterrupt | Interrupted):
            error = Outward(error, f"{type(error).__name__} was raised from outside the run.")
        self.crash(error)

    def stop(self) -> None:
        """Starts nothing more and interrupts what runs. From any thread, and from signal handlers."""
        self.stopping = True
        with self.condition:
            self._end()
            seats = list(self.seats)
        # This thread's own seat comes last: striking it may leave this function.
        for seat in sorted(seats, key=lambda seat: seat.ident == threading.get_ident()):
            seat.strike(RunStopped)

    # --- the short way ----------------------------------------------------------------------------------------------

    def _plain_inputs(self, node: Node, run: int) -> dict[str, Any] | None:
        """Returns the inputs if all upstream states are plain successes, else None."""
        states = self.states
        inputs: dict[str, Any] = dict(node.constants) if node.constants else {}
        if run != node.index:
            index = run - self.first_child[node.index]
            for item, source in zip(node.inputs, self.sources[node.index], strict=True):
                if source.items is not None:
                    value = source.items[index]
                else:
                    state = states[source.children_of + index] if source.children_of >= 0 else source.whole
                    value = UNSET if state is None else self._plain_value(state, item)
                    if value is UNSET:
                        return None
                if item.key is not None:
                    inputs[item.key] = value
            return inputs
        if node.mapped:
            return None
        for item in node.inputs:
            state = states[item[0]]
            value = state.value if state.__class__ is Success else self._plain_value(state, item)
            if value is UNSET or item[3]:
                return None
            if item[1] is not None:
                inputs[item[1]] = value
        return inputs

    def _plain_value(self, state: State, item: Input) -> Any:
        if state.__class__ is Success:
            return state.value
        if state.__class__ is Mapped and self.clean_children[item.upstream] and not item.flattened:
            return state.result
        return UNSET

    def _step_plain(self, node: Node, run: int, inputs: dict[str, Any], seat: Seat) -> int | None:
        sink, now, index = self.sink, self.clock.now, node.index
        map_index = None if run == index else run - self.first_child[index]
        record, _ = next_state(self.records[run], _START, now(), node.policy)
        self.records[run] = record
        sink.task_state(index, map_index, StateCode.RUNNING, record[3], 1)
        frame = TaskFrame(self, node, run, map_index, record)
        enter_task(frame)
        try:
            seat.busy = True
            if self.stopping:
                raise RunStopped  # noqa: TRY301 - as if the interrupt had come a moment later
            value = node.run(**inputs)
            with seat.lock:
                seat.busy = False
            if seat.struck is not None:
                seat.leave()
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises decides its state
            seat.leave()
            assert self.runner is not None
            return self.runner.ended_badly(frame, error, inputs, None, seat)
        record, _ = next_state(record, _RETURNED, now(), node.policy)
        if map_index is None:
            sink.result(index, None, node.not_kept)
        return self.complete(run, record, success_with(value, node.tags))
