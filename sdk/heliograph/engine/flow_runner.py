"""Runs a flow: checks what it was given, sets up the run, lets an executor work it off, and says how it ended.

A failing task never makes `run` raise: the flow's state tells. What raises is what is wrong before anything runs
(unknown or missing parameters, a cycle, a shared target), and with `raise_on_exception()` the user's own exception.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from heliograph.config import config
from heliograph.context import context as run_context
from heliograph.context import swap
from heliograph.engine.cache_shelves import Shelf
from heliograph.engine.cancellation import Cancellation
from heliograph.engine.clock import Clock, SystemClock, to_datetime
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.graph import Graph, compile_flow
from heliograph.engine.nodes import ASKED_FOR, TARGET_ONLY, Node
from heliograph.engine.run_loop import Outward, RunLoop
from heliograph.engine.signals import ENDRUN, StateSignal
from heliograph.engine.sink import FailureInfo, NullSink, RunSink
from heliograph.engine.state import Cancelled, Failed, Mapped, Pending, Running, State, Success
from heliograph.engine.task_runner import TaskRunner
from heliograph.engine.task_states import TaskStates
from heliograph.engine.transitions import TERMINAL, flow_verdict
from heliograph.exceptions import MissingParameterError, UnknownParameterError
from heliograph.failures import safe_repr
from heliograph.logging import get_logger
from heliograph.utilities.ids import uuid7_text

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.core.task import Task
    from heliograph.executors.base import Executor

_log = logging.getLogger("heliograph.FlowRunner")

_CACHES: dict[str, Shelf] = {}
"""Cached states by cache key, for all runs of this process."""


class FlowRunner:
    """Runs one flow, once or more often.

    Args:
        flow: The flow.
        sink: Told of every change of state.
        cancel: The request to stop; a run makes its own when none is given.
        clock: The clock.
        state_handlers: Handlers `(runner, old, new)` for the flow's state, called after the flow's own.
        task_state_handlers: Handlers `(runner, old, new)` for the states of all tasks, called after the tasks' own.
        resumable: True when `resume` will be called for paused task runs, which the run then waits for. Otherwise
            approval is asked for on the terminal, and without one the run ends with the task paused.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        sink: RunSink | None = None,
        cancel: Cancellation | None = None,
        clock: Clock | None = None,
        state_handlers: tuple[Callable[..., Any], ...] = (),
        task_state_handlers: tuple[Callable[..., Any], ...] = (),
        resumable: bool = False,
    ) -> None:
        self.flow = flow
        self.sink: RunSink = sink if sink is not None else NullSink()
        self.cancel = cancel if cancel is not None else Cancellation()
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.state_handlers = tuple(state_handlers)
        self.task_state_handlers = tuple(task_state_handlers)
        self.resumable = resumable
        self._loop: RunLoop | None = None
        self._around: Cancellation | None = None

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
        state: State | None = None,
        task_states: Mapping[Task, State] | None = None,
        task_contexts: Mapping[Task, Mapping[str, Any]] | None = None,
        flow_run_id: str | None = None,
        flow_run_name: str | None = None,
    ) -> State:
        """Runs the flow until it is finished, retries and their pauses included.

        Args:
            parameters: Values by parameter name.
            context: Content of `heliograph.context` in all tasks; `date` moves `today` and its like too.
            executor: Where tasks run; the flow's executor by default, else one after the other in this thread.
            state: State to begin with; an end state is returned at once.
            task_states: States to begin with, by task. A task with an end state does not run.
            task_contexts: More content of the context, by task.
            flow_run_id: Identity of the run; a new one by default.
            flow_run_name: Name of the run.

        Returns:
            The final state; `state.result[task]` is the state of a task.

        Raises:
            UnknownParameterError: The flow has no such parameter.
            MissingParameterError: A required parameter has no value.
            FlowError: The graph is not valid, or children of a mapped task would share a target.
            TypeError: The executor is none, or `task_states` holds something else than states.
        """
        _check_given(executor if executor is not None else self.flow.executor, task_states or {})
        graph = compile_flow(self.flow)
        values = _checked_parameters(self.flow, graph, parameters, context)
        if hasattr(self.flow, "check_targets"):
            self.flow.check_targets()
        if state is not None and state.is_finished():
            return state
        base = self._base_context(values, context, flow_run_id, flow_run_name)
        loop = self._set_up(graph, values, base, task_contexts)
        for task in task_states or ():
            if task not in graph.index:
                raise ValueError(f"task_states names {task!r}, which is not a task of flow {self.flow.name!r}")
        before = swap((base, None))
        if before[1] is not None:  # a flow that runs inside a task ends with the run around it
            self._around = getattr(getattr(before[1], "loop", None), "cancellation", None)
        try:
            final = self._run(loop, state or Pending(), task_states or {}, executor)
        finally:
            self._loop = None
            swap(before)
        _drop_expired()
        return final

    def resume(self, task: int, map_index: int | None = None) -> bool:
        """Approves a paused task run, from any thread. Returns False when it is not paused."""
        loop = self._loop
        return loop is not None and loop.resume(task, map_index)

    # --- setting up -------------------------------------------------------------------------------------------------

    def _base_context(
        self,
        values: dict[str, Any],
        extra: Mapping[str, Any] | None,
        flow_run_id: str | None,
        flow_run_name: str | None,
    ) -> dict[str, Any]:
        given = {**run_context.to_dict(), **(extra or {})}
        for key in ("flow", "case", "mapped", "resource", "_created_tasks"):  # of a flow being built
            given.pop(key, None)
        now = to_datetime(self.clock.now())
        date = given.get("date") or now
        identity = flow_run_id or (extra or {}).get("flow_run_id") or uuid7_text()
        return {
            **_dates(date),
            "scheduled_start_time": now,
            "logger": _log,
            "config": config(),
            "flow_id": None,
            **given,
            "date": date,
            "caches": given.get("caches", _CACHES),
            "parameters": values,
            "flow_name": self.flow.name,
            "flow_run_id": identity,
            "flow_run_name": flow_run_name or (extra or {}).get("flow_run_name") or identity,
            "checkpointing": True,
            "_flow_result": self.flow.result,
        }

    def _set_up(
        self,
        graph: Graph,
        values: dict[str, Any],
        base: dict[str, Any],
        task_contexts: Mapping[Task, Mapping[str, Any]] | None,
    ) -> RunLoop:
        result = self.flow.result
        nodes = [Node(graph, index, task, result) for index, task in enumerate(graph.tasks)]
        approve = _ask_on_terminal if not self.resumable and _has_terminal() else None
        loop = RunLoop(graph, nodes, self.sink, self.clock, base, approve, self.resumable)
        runner = TaskRunner(
            loop,
            values,
            handlers=self.task_state_handlers,
            raise_errors=bool(base.get("raise_on_exception")),
            cancel=self.cancel.request,
        )
        loop.runner = runner
        loop.cancellation = self.cancel
        for task, content in (task_contexts or {}).items():
            runner.task_contexts[graph.index[task]] = dict(content)
        if self.task_state_handlers or task_contexts:
            for node in nodes:
                node.plain = False
        return loop

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(
        self,
        loop: RunLoop,
        state: State,
        task_states: Mapping[Task, State],
        executor: Executor | None,
    ) -> State:
        get_logger()  # sets up what a terminal shows
        _log.info("Beginning flow run of '%s'.", self.flow.name)
        for node in loop.nodes:
            if node.not_kept is ASKED_FOR or node.not_kept is TARGET_ONLY:
                _log.warning("Task '%s': nothing is kept: %s.", node.crossing_name, node.not_kept.reason)
        try:
            state = self._handled(state, Running("Running flow."))
            if not state.is_running():
                return self._finish(loop, state, state)
            self.sink.flow_state(StateCode.RUNNING, self.clock.now())
            _give_states(loop, task_states)
            self._work_off(loop, executor)
        except Outward as fault:
            self._end(loop, Failed(fault.reason, result=fault.error))
            raise fault.error from None
        except KeyboardInterrupt:
            self.cancel.request("interrupted from the keyboard")
        except (StateSignal, ENDRUN) as signal:
            return self._finish(loop, state, signal.state)
        except Exception as error:  # noqa: BLE001 - a handler's or the engine's fault: the state tells, nothing is raised
            _log.exception("The run of flow '%s' broke off.", self.flow.name, extra={"stays_local": True})
            broken = Failed(f"Unexpected error while running the flow: {safe_repr(error)}", result=error)
            return self._finish(loop, state, broken)
        except BaseException:  # meant for the run around this one, or for the whole process
            self._end(loop, Cancelled("The run was broken off from outside."))
            raise
        return self._finish(loop, state, self._verdict(loop))

    def _work_off(self, loop: RunLoop, executor: Executor | None) -> None:
        chosen = executor if executor is not None else self.flow.executor
        if chosen is None:
            from heliograph.executors.local import LocalExecutor

            chosen = LocalExecutor()
        self._loop = loop
        around = self._around
        self.cancel.add_callback(loop.stop)
        if around is not None:
            around.add_callback(self.cancel.request)
        try:
            chosen.drive(loop)
        except BaseException:
            loop.stop()  # threads that the executor left behind start nothing more
            raise
        finally:
            swap((loop.base_context, None))  # what is logged from here on is the flow run's, not the last task's
            self.cancel.remove_callback(loop.stop)
            if around is not None:
                around.remove_callback(self.cancel.request)
        if loop.fault is not None:
            raise loop.fault

    def _verdict(self, loop: RunLoop) -> State:
        if self.cancel.requested:
            loop.cancel_rest()
        loop.collect()
        codes: set[StateCode] = set()
        for number in loop.graph.reference_tasks:
            codes.add(loop.records[number].state)
            first = loop.first_child[number]
            if first >= 0:
                codes.update(record.state for record in loop.records[first : first + loop.child_count[number]])
            elif isinstance(loop.states[number], Mapped):
                codes.update(s.code for s in loop.states[number].map_states if s is not None and s.code)  # type: ignore[attr-defined]
        unfinished = any(record.state not in TERMINAL for record in loop.records)
        code = flow_verdict(frozenset(codes), unfinished=unfinished, cancelled=self.cancel.requested)
        if code is StateCode.CANCELLED:
            return Cancelled(f"Flow run cancelled: {self.cancel.reason}.")
        if code is StateCode.RUNNING:
            return Running("Task runs wait for an approval; no terminal is there to ask on.")
        if code is StateCode.FAILED:
            return Failed("Some reference tasks failed.")
        return Success("All reference tasks succeeded.")

    def _finish(self, loop: RunLoop, old: State, final: State) -> State:
        """Takes the end through the handlers and tells it."""
        final = self._with_results(loop, final)
        try:
            final = self._handled(old, final)
            handler = getattr(self.flow, "terminal_state_handler", None)
            if handler is not None and final.is_finished():
                reference = {loop.states[number] for number in loop.graph.reference_tasks}
                final = handler(self.flow, final, reference) or final
        except (StateSignal, ENDRUN) as signal:
            final = signal.state
        except Exception as error:  # noqa: BLE001 - a user's handler
            _log.exception("A state handler of flow '%s' failed.", self.flow.name, extra={"stays_local": True})
            final = Failed(
                f"Exception raised while calling the flow's state handlers: {safe_repr(error)}", result=error
            )
        return self._end(loop, final)

    def _with_results(self, loop: RunLoop, final: State) -> State:
        if (final.is_finished() and not isinstance(final.result, BaseException)) or not final.is_finished():
            final.result = TaskStates(zip(loop.graph.tasks, loop.states, strict=False))
        return final

    def _end(self, loop: RunLoop, final: State) -> State:
        code = final.code or StateCode.FAILED
        if final.is_finished():
            loop.cancel_rest()
        failure = None
        if code.is_failed:
            error = final.result
            if isinstance(error, BaseException):
                failure = self.sink.failed(error, None, None, FailureCode.EXCEPTION)
            else:
                failure = FailureInfo(FailureCode.TASKS_FAILED)
        # The last line first: who follows a run stops to wait for lines when its final state is there.
        level = logging.ERROR if code.is_failed else logging.INFO
        _log.log(level, "Flow run of '%s' ended: %s.", self.flow.name, type(final).__name__)
        if final.is_finished():
            self.sink.flow_state(code, self.clock.now(), failure)
        return final

    def _handled(self, old: State, new: State) -> State:
        """Calls the flow's state handlers; each gets what the one before returned."""
        for handler in self.flow.state_handlers:
            new = handler(self.flow, old, new) or new
        for handler in self.state_handlers:
            new = handler(self, old, new) or new
        return new


def _check_given(executor: Any, task_states: Mapping[Task, Any]) -> None:
    if executor is not None and (isinstance(executor, type) or not hasattr(executor, "drive")):
        raise TypeError(f"the executor must be an object such as LocalExecutor(), not {executor!r}")
    for task, state in task_states.items():
        if not isinstance(state, State):
            raise TypeError(f"task_states must hold states, such as Success(result=…), not {state!r} for {task!r}")


# --- parameters and context -----------------------------------------------------------------------------------------


def _checked_parameters(
    flow: Flow, graph: Graph, given: Mapping[str, Any] | None, context: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the values of all parameters, defaults included; values of unknown names in the context are kept."""
    values = dict((context or {}).get("parameters") or {})
    values.update(given or {})
    unknown = sorted(str(name) for name in given or () if name not in graph.parameters)
    if unknown:
        raise UnknownParameterError(
            f"flow {flow.name!r} has no parameter {', '.join(map(repr, unknown))};"
            f" it has {', '.join(graph.parameters) or 'none'}"
        )
    missing = sorted(name for name in graph.required_parameters if name not in values)
    if missing:
        raise MissingParameterError(f"flow {flow.name!r} needs a value for {', '.join(map(repr, missing))}")
    for name, number in graph.parameters.items():
        if name not in values:
            values[name] = graph.tasks[number].default  # type: ignore[attr-defined]
    return values


def _dates(date: Any) -> dict[str, Any]:
    """Returns the dates around `date`, in UTC, as text: fixed for the whole run."""
    if not isinstance(date, datetime):
        return {}
    day = date.astimezone(UTC) if date.tzinfo is not None else date
    texts: dict[str, Any] = {}
    for name, offset in (("today", 0), ("yesterday", -1), ("tomorrow", 1)):
        text = (day + timedelta(days=offset)).strftime("%Y-%m-%d")
        texts[name] = text
        texts[f"{name}_nodash"] = text.replace("-", "")
    return texts


def _give_states(loop: RunLoop, task_states: Mapping[Task, State]) -> None:
    ended: list[int] = []
    for task, state in task_states.items():
        while state.is_meta_state() and getattr(state, "state", None) is not None:
            state = state.state  # type: ignore[attr-defined]  # noqa: PLW2901 - unwrapping
        number = loop.graph.index[task]
        loop.nodes[number].plain = False
        if isinstance(state, Mapped) and not all(
            child is not None and child.is_finished() for child in state.map_states
        ):
            loop.states[number] = state  # runs again; children that ended keep their states
            continue
        loop.give(number, state)
        if state.code in TERMINAL:
            ended.append(number)
    if ended:
        loop.give_tasks(ended)


def _drop_expired() -> None:
    now = datetime.now(UTC)
    for key in list(_CACHES):
        kept = [s for s in _CACHES[key] if s.cached_result_expiration is None or s.cached_result_expiration > now]
        if not kept:
            _CACHES.pop(key, None)
        elif len(kept) < len(_CACHES[key]):
            _CACHES[key] = Shelf(kept)


# --- who is around ----------------------------------------------------------------------------------------------------


def _has_terminal() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False


def _ask_on_terminal(name: str) -> bool:
    return input(f"Task '{name}' is paused. Enter 'y' to resume: ").strip().lower() in ("y", "yes")
