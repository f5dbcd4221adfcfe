"""The books of one flow run, in numbers: which task runs wait for what, which can be worked on, and how each change of
one changes the others.

A task run is a number. The tasks' own runs are 0 … n-1, as in the compiled graph; when a task is mapped, its children
get the next block of numbers. Everything known of a run stands in lists under its number. All changes happen under one
lock. Who works on the runs, and when, is in `run_loop`.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from heliograph.engine.cancellation import Cancellation
from heliograph.engine.clock import Clock
from heliograph.engine.graph import Graph
from heliograph.engine.interrupts import Seat
from heliograph.engine.nodes import Node
from heliograph.engine.sink import FailureInfo, RunSink, StoredResult
from heliograph.engine.state import Cancelled, Mapped, Pending, State, Success
from heliograph.engine.transitions import TERMINAL, Event, EventKind, Record, next_state

if TYPE_CHECKING:
    from heliograph.engine.task_runner import TaskRunner

PENDING = Pending("Waits for its upstream tasks.")
"""The state of every task run before anything happened; shared, because most are never looked at."""

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


class RunBooks:
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
