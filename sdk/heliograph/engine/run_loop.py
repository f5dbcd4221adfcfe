"""One flow run in numbers: which task runs wait for what, which can be worked on, and when the run is over.

A task run is a number. The tasks' own runs are 0 … n-1, as in the compiled graph; when a task is mapped, its children
get the next block of numbers. Everything known of a run stands in lists under its number. All changes happen under one
lock; executors see this as `Work`.

Plain tasks - no handlers, cache, target, result, limit or other extra - take a short way through `step`; all others,
and every plain task whose inputs are not plain successes, go through `TaskRunner`. Both dispatch to the same state
machine.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from heliograph.context import enter_task
from heliograph.engine.cancellation import Cancellation
from heliograph.engine.clock import Clock
from heliograph.engine.codes import StateCode
from heliograph.engine.graph import Graph, Input
from heliograph.engine.interrupts import Interrupted, RunStopped, Seat, seat_here
from heliograph.engine.nodes import Node, TaskFrame
from heliograph.engine.sink import FailureInfo, RunSink, StoredResult
from heliograph.engine.state import UNSET, Cancelled, Mapped, Pending, State, Success, success_with
from heliograph.engine.transitions import TERMINAL, Event, EventKind, Record, next_state

if TYPE_CHECKING:
    from heliograph.engine.task_runner import TaskRunner

PENDING = Pending("Waits for its upstream tasks.")
"""The state of every task run before anything happened; shared, because most are never looked at."""

_START = Event(EventKind.START)
_RETURNED = Event(EventKind.RETURNED)
_FIRST = Record()


class Source(NamedTuple):
    """Where the children of a mapped task take one input from. Exactly one field is set.

    Attributes:
        children_of: Number of the first child upstream: child i takes from child i.
        items: Values by index.
        states: States by index, where some are not plain successes.
        whole: The state that all children share.
    """

    children_of: int = -1
    items: Sequence[Any] | None = None
    states: Sequence[State] | None = None
    whole: State | None = None


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


class RunLoop:
    """The bookkeeping of one flow run.

    Args:
        graph: The compiled flow.
        nodes: The tasks, ready to run, by number.
        sink: Told of every change of state.
        clock: The clock.
        base_context: Content of the context that all task runs share.
        approve: Asks somebody whether a paused task run may go on; None when nobody can be asked.
        resumable: True when `resume` may be called: then a paused run waits for it.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: list[Node],
        sink: RunSink,
        clock: Clock,
        base_context: dict[str, Any],
        approve: Callable[[str], bool] | None = None,
        resumable: bool = False,
    ) -> None:
        count = len(nodes)
        self.graph = graph
        self.nodes = nodes
        self.sink = sink
        self.clock = clock
        self.base_context = base_context
        self.approve = approve
        self.resumable = resumable
        self.runner: TaskRunner | None = None
        self.cancellation: Cancellation | None = None
        self.condition = threading.Condition()
        # By number of the run:
        self.node_of = list(range(count))
        self.records: list[Record] = [_FIRST] * count
        self.states: list[State] = [PENDING] * count
        self.pending = [len(inputs) for inputs in graph.inputs]
        # By number of the task:
        self.first_child = [-1] * count
        self.child_count = [0] * count
        self.open_children = [0] * count
        self.sources: list[tuple[Source, ...]] = [()] * count
        self.clean_children = [False] * count
        self.after_done: list[tuple[int, ...]] = [()] * count
        self.after_mapped: list[tuple[int, ...]] = [()] * count
        self._find_dependents()
        # What goes on:
        self.ready: deque[int] = deque(number for number in range(count) if not self.pending[number])
        self.waiting: list[tuple[int, int]] = []
        self.paused: set[int] = set()
        self.active = 0
        self.idle = 0
        self.asking = False
        self.left = count
        self.stopping = False
        self.over = count == 0
        self.fault: BaseException | None = None
        self.seats: list[Seat] = []
        self.ends: list[Callable[[], None]] = []
        self.given_children: dict[int, list[State | None]] = {}

    def _find_dependents(self) -> None:
        """Mapped tasks after mapped tasks depend child on child; everything else on the whole."""
        graph = self.graph
        is_mapped = graph.mapped
        any_mapped = True in is_mapped
        for number, after in enumerate(graph.downstream):
            if any_mapped and is_mapped[number]:
                done: list[int] = []
                mapped: list[int] = []
                for following in dict.fromkeys(after):
                    for item in graph.inputs[following]:
                        if item.upstream == number:
                            (mapped if item.mapped and not item.flattened else done).append(following)
                self.after_done[number], self.after_mapped[number] = tuple(done), tuple(mapped)
            else:
                self.after_done[number] = after

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

    # --- changes, under the lock ------------------------------------------------------------------------------------

    def complete(
        self, run: int, record: Record, state: State, failure: FailureInfo | None = None, stored: bool = False
    ) -> int | None:
        """Ends a task run, and returns one that became ready by it, to go on with at once, or None."""
        with self.condition:
            self.active -= 1
            if self.records[run][0] in TERMINAL:  # cancelled meanwhile: the answer comes too late
                return None
            self.records[run] = record
            self.states[run] = state
            became: list[int] = []
            number = self.node_of[run]
            if run == number:
                self.sink.task_state(number, None, record[0], record[3], record[1], 0, 0, failure, stored)
                self._task_done(number, became, mapped_out=False)
            else:
                index = run - self.first_child[number]
                self.sink.task_state(number, index, record[0], record[3], record[1], 0, 0, failure, stored)
                pending = self.pending
                for following in self.after_mapped[number]:
                    child = self.first_child[following]
                    if child >= 0 and index < self.child_count[following]:
                        child += index
                        pending[child] -= 1
                        if not pending[child]:
                            became.append(child)
                self.open_children[number] -= 1
                if not self.open_children[number]:
                    self._children_done(number, became)
            return self._next_of(became)

    def map_out(self, run: int, record: Record, state: Mapped, sources: tuple[Source, ...]) -> int | None:
        """Makes the children of a mapped task, and returns the first that is ready, or None."""
        with self.condition:
            self.active -= 1
            if self.records[run].state in TERMINAL:
                return None
            number, count = run, record.children
            self.sink.task_state(number, None, record.state, record.updated, 0, 0, count)
            first = self.first_child[number] = len(self.node_of)
            self.records[run] = record
            self.states[run] = state
            self.child_count[number] = self.open_children[number] = count
            self.sources[number] = sources
            self.node_of.extend([number] * count)
            self.records.extend([_FIRST] * count)
            self.states.extend([PENDING] * count)
            self.pending.extend(self._open_upstream(sources, count))
            became: list[int] = []
            self._release(self.after_mapped[number], became)
            became.extend(child for child in range(first, first + count) if not self.pending[child])
            given = self.given_children.pop(number, [])
            for child, child_state in zip(range(first, first + count), given, strict=False):
                if child_state is not None:
                    self._give(child, child_state)
            if given:
                became = [child for child in became if self.records[child].state not in TERMINAL]
            if not self.open_children[number]:
                self._children_done(number, became)
            return self._next_of(became)

    def give(self, run: int, state: State) -> None:
        """Sets the state of a task run before anything runs: an end state, or one to go on from."""
        self._give(run, state)

    def _give(self, run: int, state: State) -> None:
        number = self.node_of[run]
        code = state.code
        record = self.records[run]
        map_index = None if run == number else run - self.first_child[number]
        if code in TERMINAL:
            record, _ = next_state(record, Event(EventKind.GIVEN, code), self.clock.now(), self.nodes[number].policy)
            self.records[run], self.states[run] = record, state
            self._tell(run, record)
            if map_index is not None:
                self.open_children[number] -= 1
                for following in self.after_mapped[number]:
                    if self.first_child[following] >= 0 and map_index < self.child_count[following]:
                        self.pending[self.first_child[following] + map_index] -= 1
        else:
            assert self.runner is not None
            self.records[run], self.states[run] = self.runner.record_of(state), state

    def give_tasks(self, numbers: Sequence[int]) -> None:
        """Tells what waits for tasks whose end states were given."""
        with self.condition:
            given = set(numbers)
            self.ready = deque(number for number in self.ready if number not in given)
            became: list[int] = []
            for number in numbers:
                self._task_done(number, became, mapped_out=False)
            self.ready.extend(number for number in became if number not in given)

    def park(self, run: int, record: Record, state: State, failure: FailureInfo | None = None) -> None:
        """Puts a task run away until its time comes."""
        with self.condition:
            self.active -= 1
            if self.records[run].state in TERMINAL or self.stopping:
                return
            if record.state is not self.records[run].state:
                self._tell(run, record, failure)
            self.records[run], self.states[run] = record, state
            heapq.heappush(self.waiting, (record.due, run))
            self.condition.notify()

    def pause(self, run: int, record: Record, state: State) -> None:
        """Puts a task run away until somebody approves."""
        with self.condition:
            self.active -= 1
            if self.records[run].state in TERMINAL or self.stopping:
                return
            self._tell(run, record)
            self.records[run], self.states[run] = record, state
            self.paused.add(run)
            self.condition.notify()

    def again(self, run: int, record: Record, state: State) -> int | None:
        """Lets a task run start over in this thread."""
        with self.condition:
            if self.records[run].state in TERMINAL or self.stopping:
                self.active -= 1
                return None
            self._tell(run, record)
            self.records[run], self.states[run] = record, state
            return run

    def resume(self, task: int, map_index: int | None) -> bool:
        """Lets a paused task run go on. Returns False when it is not paused."""
        with self.condition:
            run = task if map_index is None else self.first_child[task] + map_index
            if run not in self.paused or (map_index is not None and self.first_child[task] < 0):
                return False
            self._resume(run)
            return True

    def cancel_rest(self) -> None:
        """Ends everything that did not end as Cancelled."""
        with self.condition:
            now = self.clock.now()
            event = Event(EventKind.CANCEL)
            for run, before in enumerate(self.records):
                if before.state in TERMINAL:
                    continue
                number = self.node_of[run]
                record, _ = next_state(before, event, now, self.nodes[number].policy)
                self.records[run] = record
                self.states[run] = Cancelled("The flow run was cancelled.")
                self._tell(run, record)
            self._collect_children()

    def collect(self) -> None:
        """Gives mapped tasks whose children did not all end the states that there are."""
        with self.condition:
            self._collect_children()

    def _collect_children(self) -> None:
        for number, first in enumerate(self.first_child):
            if first >= 0 and self.open_children[number]:
                state = self.states[number]
                assert isinstance(state, Mapped)
                state.map_states = self.states[first : first + self.child_count[number]]

    # --- parts, called with the lock held ---------------------------------------------------------------------------

    def _task_done(self, number: int, became: list[int], *, mapped_out: bool) -> None:
        self.left -= 1
        if not mapped_out and self.after_mapped[number]:
            self._release(self.after_mapped[number], became)
        pending = self.pending
        for following in self.after_done[number]:
            pending[following] -= 1
            if not pending[following]:
                became.append(following)

    def _release(self, followers: tuple[int, ...], became: list[int]) -> None:
        for following in followers:
            self.pending[following] -= 1
            if not self.pending[following]:
                became.append(following)

    def _children_done(self, number: int, became: list[int]) -> None:
        state = self.states[number]
        assert isinstance(state, Mapped)
        first = self.first_child[number]
        children = self.states[first : first + self.child_count[number]]
        state.map_states = children
        self.clean_children[number] = all(child.__class__ is Success for child in children)
        self._task_done(number, became, mapped_out=True)

    def _open_upstream(self, sources: tuple[Source, ...], count: int) -> list[int]:
        open_upstream = [0] * count
        for source in sources:
            if source.children_of >= 0:
                for index in range(count):
                    if self.records[source.children_of + index].state not in TERMINAL:
                        open_upstream[index] += 1
        return open_upstream

    def _next_of(self, became: list[int]) -> int | None:
        """Returns the first of the runs that became ready and queues the others before all that waited longer."""
        if self.stopping:
            return None
        if not became:
            if self.ready:
                self.active += 1
                return self.ready.popleft()
            if not self.left:
                self._end()
            elif not self.active:
                self.condition.notify()  # whoever waits finds that only paused or timed runs are left
            return None
        if len(became) > 1:
            self.ready.extendleft(became[:0:-1])
            if self.idle:
                self.condition.notify(len(became) - 1)
        self.active += 1
        return became[0]

    def _wake(self, run: int) -> None:
        node = self.nodes[self.node_of[run]]
        record = self.records[run]
        if record.state in TERMINAL:
            return
        before = record.state
        record, _ = next_state(record, Event(EventKind.DUE), self.clock.now(), node.policy)
        if record.state is not before:
            self._tell(run, record)
        self.records[run] = record
        self.ready.append(run)

    def _resume(self, run: int) -> None:
        self.paused.discard(run)
        node = self.nodes[self.node_of[run]]
        record, _ = next_state(self.records[run], Event(EventKind.RESUME), self.clock.now(), node.policy)
        self.records[run] = record
        self._tell(run, record)
        self.ready.append(run)
        self.condition.notify()

    def _tell(self, run: int, record: Record, failure: FailureInfo | None = None) -> None:
        number = self.node_of[run]
        map_index = None if run == number else run - self.first_child[number]
        self.sink.task_state(number, map_index, record.state, record.updated, record.run_count, record.due, 0, failure)

    def _ask_or_end(self) -> None:
        """Nothing is left to do by itself: asks for an approval, or ends the run."""
        if not self.paused or self.approve is None:
            self._end()
            return
        run = min(self.paused)
        approve, name = self.approve, self.name_of(run)
        self.asking = True
        self.condition.release()
        try:
            approved = approve(name)
        finally:
            self.condition.acquire()
            self.asking = False
        if approved and run in self.paused:
            self._resume(run)

    def _end(self) -> None:
        self.over = True
        self.condition.notify_all()
        ends, self.ends = self.ends, []
        for callback in ends:
            callback()

    # --- for others -------------------------------------------------------------------------------------------------

    def name_of(self, run: int) -> str:
        """Returns the name of a task run for log lines, which may cross: the task's, with the index of a child."""
        node = self.nodes[self.node_of[run]]
        name = node.crossing_name
        return name if run == node.index else f"{name}[{run - self.first_child[node.index]}]"

    def told(self, number: int, map_index: int | None, stored: StoredResult) -> None:
        """Tells the sink where a result is."""
        self.sink.result(number, map_index, stored)
