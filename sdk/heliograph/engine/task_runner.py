"""One attempt of a task run, with everything a task may ask for. What is kept of its value is `keeping`'s business.

The order of the steps is Prefect 1's: skips upstream, mapping, run name, trigger, target and cache, Running, `run`
itself, keeping the value, cache, retry, loop. Each change of state goes through the state handlers, then through the
state machine, whose effects are performed by the run loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from heliograph.context import enter_task
from heliograph.engine.clock import to_datetime, to_micros
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.interrupts import Interrupted, RunStopped, Seat, TimeOver
from heliograph.engine.keeping import Keeper
from heliograph.engine.mapping import MappingError, plan_children, upstream_states
from heliograph.engine.nodes import Node, TaskFrame
from heliograph.engine.retries import may_retry
from heliograph.engine.run_loop import Outward, RunLoop
from heliograph.engine.signals import ENDRUN, StateSignal
from heliograph.engine.sink import FailureInfo
from heliograph.engine.state import (
    Failed,
    Looped,
    Mapped,
    Paused,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Success,
    TimedOut,
    TriggerFailed,
    success_with,
)
from heliograph.engine.stdout import printed_lines_to
from heliograph.engine.timeouts import call_limited
from heliograph.engine.tracebacks import from_user_code, has_user_code, last_line
from heliograph.engine.transitions import Event, EventKind, Record, next_state
from heliograph.failures import class_name, safe_repr
from heliograph.triggers import all_successful

if TYPE_CHECKING:
    from heliograph.core.edge import Edge

_RUNNING = Running("Starting task run.")
_EVENT_OF: dict[StateCode, EventKind] = {
    StateCode.SUCCESS: EventKind.RETURNED,
    StateCode.CACHED: EventKind.HIT,
    StateCode.MAPPED: EventKind.RETURNED,
    StateCode.SKIPPED: EventKind.SKIP,
    StateCode.PAUSED: EventKind.PAUSE,
    StateCode.LOOPED: EventKind.LOOP,
    StateCode.CANCELLED: EventKind.CANCEL,
}
_LET_THROUGH = "A task raised, and `raise_on_exception()` lets it through."
_log = logging.getLogger("heliograph.TaskRunner")


class TaskRunner:
    """Works on task runs that need more than the run loop's short way.

    Args:
        loop: The flow run.
        parameters: The flow's parameters.
        handlers: State handlers for all tasks, called after the task's own.
        raise_errors: True to let users' exceptions end the run and reach the caller.
        cancel: Ends the run as cancelled; called on Ctrl-C.
    """

    def __init__(
        self,
        loop: RunLoop,
        parameters: Mapping[str, Any],
        *,
        handlers: tuple[Callable[..., Any], ...] = (),
        raise_errors: bool = False,
        cancel: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.parameters = parameters
        self.handlers = handlers
        self.raise_errors = raise_errors
        self.cancel = cancel
        self.keeper = Keeper(loop, parameters)
        self.loop_results: dict[int, Any] = {}
        self.task_contexts: dict[int, dict[str, Any]] = {}

    # --- the steps --------------------------------------------------------------------------------------------------

    def work_on(self, run: int, node: Node, seat: Seat) -> int | None:
        """Works on one attempt. Returns a run to go on with at once, or None."""
        loop = self.loop
        record = loop.records[run]
        map_index = None if run == node.index else run - loop.first_child[node.index]
        frame = TaskFrame(loop, node, run, map_index, record)
        frame.resumed = record.state is StateCode.RESUME
        enter_task(frame)
        old = loop.states[run]
        inputs: dict[str, Any] = {}
        try:
            upstream = upstream_states(loop, node, run)
            self._check_skips(node, upstream)
            if node.mapped and run == node.index:
                return self._map_out(frame, old)
            inputs = self._inputs(node, upstream)
            self._name_run(frame, inputs)
            self._check_trigger(node, upstream)
            hit = None if record.state is StateCode.LOOPED else self.keeper.find(frame, inputs)
            if hit is not None:
                return self._settle(frame, old, hit, inputs)
            running = self._handled(frame, old, _RUNNING)
            if not running.is_running():
                return self._settle_handled(frame, running, inputs)
        except ENDRUN as end:
            return self._settle(frame, old, end.state, inputs)
        except StateSignal as signal:
            return self._settle(frame, old, signal.state, inputs)
        except _HandlerFault as fault:
            return self._settle_handled(frame, fault.state, inputs, retry=False)
        except Exception as error:  # noqa: BLE001 - user code in triggers, templates and results: the task fails, the flow goes on
            return self._settle(frame, old, _failed(error), inputs)
        return self._attempt(frame, inputs, seat)

    def _attempt(self, frame: TaskFrame, inputs: dict[str, Any], seat: Seat) -> int | None:
        loop, node, run = self.loop, frame.node, frame.run
        record, _ = next_state(loop.records[run], Event(EventKind.START), loop.clock.now(), node.policy)
        if record.state is not StateCode.RUNNING:  # its time has not come
            loop.park(run, record, loop.states[run])
            return None
        frame.record = loop.records[run] = record
        loop.sink.task_state(node.index, frame.map_index, record.state, record.updated, record.run_count)
        self.keeper.tell_inputs(frame)
        enter_task(frame)
        try:
            value = self._call(frame, inputs, seat)
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises decides its state
            seat.leave()
            return self.ended_badly(frame, error, inputs, None, seat)
        return self._ended_well(frame, success_with(value, node.tags), inputs)

    def _call(self, frame: TaskFrame, inputs: dict[str, Any], seat: Seat) -> Any:
        task = frame.node.task
        redirect: AbstractContextManager[None] = nullcontext()
        if task.log_stdout:
            redirect = printed_lines_to(task.logger)
        with redirect:
            if task.timeout is not None and not seat.limit(task.timeout):
                return call_limited(frame.node.run, inputs, task.timeout, frame, self.loop)
            try:
                seat.busy = True
                if self.loop.stopping:
                    raise RunStopped
                value = frame.node.run(**inputs)
                with seat.lock:
                    seat.busy = False
                if seat.struck is not None:
                    seat.leave()
            finally:
                if task.timeout is not None:
                    seat.unlimit()
            if task.timeout is not None and seat.over:
                raise TimeOver  # the task caught the interrupt and went on
            return value

    def ended_badly(
        self, frame: TaskFrame, error: BaseException, inputs: dict[str, Any], old: State | None, seat: Seat
    ) -> int | None:
        """Ends an attempt that raised: a signal, an error, an interrupt."""
        old = old or _RUNNING
        if isinstance(error, StateSignal | ENDRUN):
            state = error.state
            if type(state) is Success:
                return self._ended_well(frame, state, inputs)
            if isinstance(state, Looped):
                return self._looped(frame, state, inputs)
            return self._settle(frame, old, state, inputs)
        if isinstance(error, Interrupted):
            if error.owner is not None and error.owner is not seat:
                raise error  # meant for a flow further out
            if isinstance(error, TimeOver):
                return self._settle(frame, old, self._timed_out(frame), inputs)
            self._stopped()
            return None
        if isinstance(error, KeyboardInterrupt):
            self.cancel("interrupted from the keyboard")
            self._stopped()
            return None
        if self.raise_errors:
            raise Outward(error, _LET_THROUGH)
        return self._settle(frame, old, _failed(from_user_code(error)), inputs)

    def _stopped(self) -> None:
        # The run is ending: what did not end by itself is cancelled at its end, in one place.
        with self.loop.condition:
            self.loop.active -= 1

    def _timed_out(self, frame: TaskFrame) -> State:
        message = f"Task run exceeded its timeout of {frame.node.task.timeout} s."
        return TimedOut(message, result=TimeoutError(message))

    def _ended_well(self, frame: TaskFrame, state: State, inputs: dict[str, Any]) -> int | None:
        """Keeps the value, then ends the attempt as a success."""
        node, loop = frame.node, self.loop
        try:
            stored = self.keeper.keep(frame, state, inputs)
        except Exception as error:  # noqa: BLE001 - storage of the user's choice: the task failed, its value is not safe
            return self._settle(frame, _RUNNING, _failed(error), inputs, reason=FailureCode.RESULT_STORE)
        record = frame.record
        if node.policy.keeps:
            record, _ = next_state(record, Event(EventKind.RETURNED), loop.clock.now(), node.policy)
        try:
            state = self._handled(frame, _RUNNING, state)
            if type(state) is Success and node.task.cache_for is not None:
                state = self._handled(frame, state, self.keeper.to_cache(frame, state, inputs))
        except _HandlerFault as fault:
            return self._settle_handled(frame, fault.state, inputs, retry=False)
        if not state.is_successful():
            return self._settle_handled(frame, state, inputs)
        kind = EventKind.KEPT if node.policy.keeps else EventKind.RETURNED
        code = state.code if state.code is not StateCode.MAPPED else StateCode.SUCCESS
        record, _ = next_state(record, Event(kind, code), loop.clock.now(), node.policy)
        return loop.complete(frame.run, record, state, None, stored)

    def _looped(self, frame: TaskFrame, state: Looped, inputs: dict[str, Any]) -> int | None:
        given = state.loop_count if "task_loop_count" in state.context and state.loop_count > 1 else 0
        count = given or frame.record.loop_count + 1
        state.loop_count = count
        state.context["task_loop_count"] = count
        try:
            if frame.node.task.target is None and state.result is not None:
                self.keeper.keep(frame, state, inputs)
            handled = self._handled(frame, _RUNNING, state)
        except _HandlerFault as fault:
            return self._settle_handled(frame, fault.state, inputs, retry=False)
        except Exception as error:  # noqa: BLE001 - storage of the user's choice
            return self._settle(frame, _RUNNING, _failed(error), inputs, reason=FailureCode.RESULT_STORE)
        if not isinstance(handled, Looped):
            return self._settle_handled(frame, handled, inputs)
        self.loop_results[frame.run] = handled.result
        event = Event(EventKind.LOOP, children=count)
        record, _ = next_state(frame.record, event, self.loop.clock.now(), frame.node.policy)
        return self.loop.again(frame.run, record, handled)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _settle(
        self, frame: TaskFrame, old: State, new: State, inputs: dict[str, Any], reason: FailureCode | None = None
    ) -> int | None:
        """Takes the change to `new` through the handlers and ends the attempt."""
        try:
            new = self._handled(frame, old, new)
        except _HandlerFault as fault:
            return self._settle_handled(frame, fault.state, inputs, retry=False)
        return self._settle_handled(frame, new, inputs, reason=reason)

    def _settle_handled(
        self,
        frame: TaskFrame,
        new: State,
        inputs: dict[str, Any],
        *,
        retry: bool = True,
        reason: FailureCode | None = None,
    ) -> int | None:
        """Ends the attempt in `new`, which the handlers saw, or sends it into another one."""
        loop, node, run = self.loop, frame.node, frame.run
        record, now = frame.record, loop.clock.now()
        if new.is_failed():
            return self._fail(frame, new, inputs, retry=retry, reason=reason)
        if isinstance(new, Retrying) or (isinstance(new, Scheduled) and not isinstance(new, Paused)):
            at = to_micros(new.start_time) if new.start_time is not None else now
            record, _ = next_state(record, Event(EventKind.RETRY, at=at), now, node.policy)
            new.run_count = record.run_count
            loop.park(run, record, new)
            return None
        if isinstance(new, Paused):
            at = to_micros(new.start_time) if new.start_time is not None else 0
            record, _ = next_state(record, Event(EventKind.PAUSE, at=at), now, node.policy)
            (loop.park if at else loop.pause)(run, record, new)
            return None
        code = new.code or StateCode.SUCCESS
        kind = _EVENT_OF.get(code)
        if kind is None:  # a handler gave a state that no attempt ends in
            return self._fail(frame, _failed(TypeError(f"a task run cannot end as {type(new).__name__}")), inputs)
        if kind is EventKind.RETURNED and record.state is not StateCode.RUNNING:
            kind = EventKind.GIVEN if record.state is StateCode.PENDING else EventKind.HIT
            code = StateCode.SUCCESS
        policy = node.policy._replace(keeps=False)
        record, _ = next_state(record, Event(kind, code), now, policy)
        return loop.complete(run, record, new, None, run in self.keeper.stored)

    def _fail(
        self,
        frame: TaskFrame,
        failed: State,
        inputs: dict[str, Any],
        *,
        retry: bool = True,
        reason: FailureCode | None = None,
    ) -> int | None:
        loop, node, run, record = self.loop, frame.node, frame.run, frame.record
        now, code = loop.clock.now(), failed.code or StateCode.FAILED
        failure = self._tell_failure(frame, failed, reason)
        if record.state is not StateCode.RUNNING:
            refused, _ = next_state(record, Event(EventKind.REFUSE, code), now, node.policy)
            self._log_end(frame, failed, refused)
            return loop.complete(run, refused, failed, failure)
        event = Event(EventKind.RAISED, code, retry=retry and may_retry(node.task, failed))
        after, _ = next_state(record, event, now, node.policy)
        if after.state is StateCode.RETRYING:
            waiting: State = Retrying(
                f"Retrying task (after attempt {record.run_count} of {node.policy.max_retries + 1})",
                start_time=to_datetime(after.due),
                run_count=record.run_count,
                cached_inputs=inputs,
            )
            try:
                handled = self._handled(frame, failed, waiting)
            except _HandlerFault as fault:
                return self._fail(frame, fault.state, inputs, retry=False)
            if handled is not waiting:
                if handled.is_failed():
                    return self._fail(frame, handled, inputs, retry=False)
                return self._settle_handled(frame, handled, inputs)
            self._log_end(frame, failed, after)
            loop.park(run, after, waiting, failure)
            return None
        self._log_end(frame, failed, after)
        return loop.complete(run, after, failed, failure)

    def _tell_failure(self, frame: TaskFrame, failed: State, reason: FailureCode | None) -> FailureInfo:
        error = failed.result
        if not isinstance(error, BaseException):
            error = RuntimeError(failed.message or type(failed).__name__)
        if reason is None:
            if isinstance(failed, TriggerFailed):
                reason = FailureCode.TRIGGER
            elif isinstance(failed, TimedOut):
                reason = FailureCode.TIMEOUT
            else:
                reason = FailureCode.EXCEPTION
        return self.loop.sink.failed(error, frame.node.index, frame.map_index, reason)

    def _log_end(self, frame: TaskFrame, failed: State, record: Record) -> None:
        """Says on this side what failed. The line names the class only; text and traceback stay local."""
        name = self.loop.name_of(frame.run)
        error = failed.result
        if isinstance(failed, TriggerFailed) and not isinstance(error, Exception):
            _log.warning("Task '%s': not run, its trigger refused the states upstream.", name)
            return
        kind = class_name(error).rpartition(".")[2] if isinstance(error, BaseException) else type(failed).__name__
        if record.state is StateCode.RETRYING:
            seconds = max(0.0, (record.due - record.updated) / 1e6)
            line = "Task '%s': attempt %d of %d failed (%s); the next one follows in %g s."
            attempts = frame.node.policy.max_retries + 1
            _log.warning(line, name, record.run_count, attempts, kind, seconds)
        else:
            _log.error("Task '%s': %s (%s).", name, type(failed).__name__, kind)
        if isinstance(error, BaseException) and not isinstance(error, StateSignal | TimeoutError):
            if has_user_code(error):
                _log.error("Task '%s':", name, exc_info=from_user_code(error), extra={"stays_local": True})
            else:
                _log.error("Task '%s': %s", name, last_line(error), extra={"stays_local": True})
        elif failed.message:
            _log.error("Task '%s': %s", name, failed.message, extra={"stays_local": True})

    # --- the parts of an attempt ------------------------------------------------------------------------------------

    def _check_skips(self, node: Node, upstream: Mapping[Edge, State]) -> None:
        if not node.task.skip_on_upstream_skip:
            return
        for edge, state in upstream.items():
            whole = isinstance(state, Mapped) and not edge.mapped
            if state.is_skipped() or (whole and any(child.is_skipped() for child in _children(state))):
                raise ENDRUN(
                    Skipped(
                        "Upstream task was skipped; if this was not the intended behavior, consider changing"
                        " `skip_on_upstream_skip=False` for this task."
                    )
                )

    def _check_trigger(self, node: Node, upstream: Mapping[Edge, State]) -> None:
        trigger: Callable[..., bool] | None = node.task.trigger
        assert trigger is not None
        try:
            if trigger is all_successful and all(state.__class__ is Success for state in upstream.values()):
                return
            if trigger(upstream):
                return
        except (StateSignal, ENDRUN):
            raise
        except Exception as error:  # a user's trigger
            if self.raise_errors:
                raise Outward(error, _LET_THROUGH) from error
            raise ENDRUN(TriggerFailed("Unexpected error while checking the trigger.", result=error)) from error
        raise ENDRUN(TriggerFailed(f"Trigger returned False: {getattr(trigger, '__name__', trigger)}"))

    def _inputs(self, node: Node, upstream: Mapping[Edge, State]) -> dict[str, Any]:
        inputs = dict(node.constants)
        for edge, state in upstream.items():
            if edge.key is not None:
                inputs[edge.key] = state.load_result().result
        return inputs

    def _map_out(self, frame: TaskFrame, old: State) -> int | None:
        loop, node = self.loop, frame.node
        try:
            count, sources = plan_children(loop, node)
        except MappingError as error:
            raise ENDRUN(Failed(str(error), result=error)) from error
        given = loop.states[frame.run]
        state = self._handled(frame, old, Mapped("Mapped tasks submitted for execution.", n_map_states=count))
        if not isinstance(state, Mapped):
            return self._settle_handled(frame, state, {})
        if isinstance(given, Mapped):
            loop.given_children[node.index] = list(given.map_states)
        if node.result is None:
            loop.told(node.index, None, node.not_kept)
        event = Event(EventKind.MAP, children=count)
        record, _ = next_state(frame.record, event, loop.clock.now(), node.policy)
        return loop.map_out(frame.run, record, state, sources)

    def _name_run(self, frame: TaskFrame, inputs: dict[str, Any]) -> None:
        template = frame.node.task.task_run_name
        if template is None:
            return
        variables = self.keeper.variables(inputs)
        name = template.format(**variables) if isinstance(template, str) else str(template(**variables))
        frame.run_name = name
        enter_task(frame)
        self.loop.sink.rendered_name(frame.node.index, frame.map_index, name)

    # --- handlers ---------------------------------------------------------------------------------------------------

    def _handled(self, frame: TaskFrame, old: State, new: State) -> State:
        """Calls the state handlers, the task's own first; each gets what the one before returned."""
        handlers = frame.node.handlers
        if not handlers and not self.handlers:
            return new
        if frame.node.tags and new.raw_context is None and new is not _RUNNING:
            new.raw_context = frame.node.tags
        if new is _RUNNING:
            new = Running("Starting task run.")
        original = new
        try:
            for handler in handlers:
                new = handler(frame.node.task, old, new) or new
            for handler in self.handlers:
                new = handler(self, old, new) or new
        except (StateSignal, ENDRUN) as signal:
            return signal.state
        except Exception as error:  # a user's handler
            if self.raise_errors:
                raise Outward(error, _LET_THROUGH) from error
            raise _HandlerFault(Failed("Exception raised while calling state handlers.", result=error)) from error
        if not isinstance(new, State):
            error = TypeError(f"a state handler returned {type(new).__name__}, not a state")
            raise _HandlerFault(Failed(str(error), result=error))
        return _RUNNING if new is original and type(new) is Running else new

    # --- for the run loop and the frame -----------------------------------------------------------------------------

    def record_of(self, state: State) -> Record:
        """Returns the record of a state that the caller gave and from which the run goes on."""
        run_count = int(getattr(state, "run_count", 0) or 0)
        start = getattr(state, "start_time", None)
        due = to_micros(start) if start is not None else 0
        code = state.code or StateCode.PENDING
        if code in (StateCode.RUNNING, StateCode.CANCELLING, StateCode.LOOPED, StateCode.PAUSED):
            code = StateCode.PENDING
        if code is StateCode.RESUME:
            due = 0
        return Record(state=code, run_count=run_count, due=due)

    def add_content(self, frame: TaskFrame, content: dict[str, Any]) -> None:
        """Adds what only some task runs have to the content of their context."""
        if frame.run in self.loop_results:
            content["task_loop_result"] = self.loop_results[frame.run]
        if frame.resumed:
            content["resume"] = True
        extra = self.task_contexts.get(frame.node.index)
        if extra:
            content.update(extra)


class _HandlerFault(Exception):
    """A state handler raised: the run ends in `state`."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state


def _failed(error: BaseException) -> State:
    return Failed(f"Error during execution of task: {safe_repr(error)}", result=error)


def _children(state: State) -> list[State]:
    assert isinstance(state, Mapped)
    return state.map_states
