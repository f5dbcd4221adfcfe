"""The states of flow runs and task runs, as users of Prefect 1 know them.

States are what users see: in `state.result[task]`, in state handlers, in triggers. The engine itself works on
`StateCode` numbers and makes a state only where somebody may look at it. Every concrete class has its number in
`code`. A state holds its value directly; the `Result` around it is made when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.engine.result import Result


class _Unset:
    """The mark of a state without a result, which is not a result of None."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<no result>"

    def __reduce__(self) -> str:
        return "UNSET"


UNSET = _Unset()


def _as_result(value: object) -> Result | None:
    """Returns `value` when it is a `Result`. While that module is not imported, nothing can be one."""
    module = sys.modules.get("heliograph.engine.result")
    if module is not None and isinstance(value, module.Result):
        held: Result = value
        return held
    return None


def utc_now() -> datetime:
    """Returns the present time, aware, in UTC."""
    return datetime.now(UTC)


class State:
    """The base of all states.

    Args:
        message: Text for people. Stays on the user's side.
        result: The value, or a `Result` that holds it or knows where it is. Without one the state has no result,
            which differs from a result of None.
        context: Facts for handlers, `tags` among them.
        cached_inputs: The inputs that the task ran with, by name: values or `Result`s.

    Attributes:
        value: The value, or `UNSET`; for the engine, users look at `result`.
        stored: The `Result` around the value, once there is one.
        raw_context: `context` before anybody looked: a dictionary, the task's tags, or None.
    """

    __slots__ = ("cached_inputs", "message", "raw_context", "stored", "value")

    code: ClassVar[StateCode | None] = None
    """The number of the state; None for the bases that no run is ever in."""
    color: ClassVar[str] = "#4d5561"
    """The color of the state in pictures, as `#rrggbb`."""

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        context: Mapping[str, Any] | None = None,
        cached_inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.message = message
        self.raw_context: dict[str, Any] | tuple[str, ...] | None = dict(context) if context else None
        self.cached_inputs: dict[str, Any] = dict(cached_inputs) if cached_inputs else {}
        self._set_result(result)

    def _set_result(self, result: Any) -> None:
        held = _as_result(result)
        if held is not None:
            self.stored: Result | None = held
            self.value: Any = UNSET if _is_no_result(held) else held.value
        else:
            self.stored = None
            self.value = result

    @property
    def result(self) -> Any:
        """The value; None without a result. Of a flow's state: a dictionary from task to its state."""
        value = self.value
        return None if value is UNSET else value

    @result.setter
    def result(self, value: Any) -> None:
        self._set_result(value)

    @property
    def _result(self) -> Result:
        """The `Result` that holds the value; `NoResult` without one."""
        if self.stored is None:
            from heliograph.engine.result import NoResult, Result

            if self.value is UNSET:
                return NoResult
            self.stored = Result(value=self.value)
        return self.stored

    @_result.setter
    def _result(self, value: Any) -> None:
        self._set_result(value)

    @property
    def has_result(self) -> bool:
        """True when there is a result, were it None."""
        return self.value is not UNSET

    @property
    def context(self) -> dict[str, Any]:
        """Facts for handlers; `tags` of the task in a task run's state."""
        context = self.raw_context
        if type(context) is not dict:
            context = self.raw_context = {"tags": list(context)} if context else {}
        return context

    @context.setter
    def context(self, value: Mapping[str, Any] | None) -> None:
        self.raw_context = dict(value) if value else None

    def load_result(self, result: Result | None = None) -> State:
        """Reads the value when only its place is known.

        Args:
            result: The `Result` to read with, usually that of the task; by default the state's own.

        Returns:
            The state itself, with its value.

        Raises:
            ResultStoreError: The value cannot be read.
        """
        held = self.stored
        location = getattr(held, "location", None)
        if held is not None and location is not None and held.value is None:
            self._set_result((result or held).read(location))
        return self

    def load_cached_results(self, results: Mapping[str, Result] | None = None) -> State:
        """Reads the cached inputs of which only the places are known, with the `Result`s given by name."""
        for key, held in list(self.cached_inputs.items()):
            known = _as_result(held)
            if known is not None and known.location is not None and known.value is None:
                self.cached_inputs[key] = ((results or {}).get(key) or known).read(known.location)
        return self

    # --- questions --------------------------------------------------------------------------------------------------

    def is_pending(self) -> bool:
        """True before the run starts, Scheduled, Retrying and Paused included."""
        return isinstance(self, Pending)

    def is_queued(self) -> bool:
        """True while it waits for a slot."""
        return isinstance(self, Queued)

    def is_retrying(self) -> bool:
        """True while it waits for its next attempt."""
        return isinstance(self, Retrying)

    def is_running(self) -> bool:
        """True while it runs, or is being cancelled."""
        return isinstance(self, Running)

    def is_finished(self) -> bool:
        """True when it ended, in whatever way."""
        return isinstance(self, Finished)

    def is_looped(self) -> bool:
        """True when one iteration ended and the next follows."""
        return isinstance(self, Looped)

    def is_skipped(self) -> bool:
        """True when it was skipped."""
        return isinstance(self, Skipped)

    def is_scheduled(self) -> bool:
        """True when it waits for a time: Scheduled and its kinds, and Queued."""
        return isinstance(self, Scheduled | Queued)

    def is_submitted(self) -> bool:
        """True when it was handed over to be started."""
        return isinstance(self, Submitted)

    def is_successful(self) -> bool:
        """True for Success, Cached, Mapped and Skipped."""
        return isinstance(self, Success)

    def is_failed(self) -> bool:
        """True for Failed, TimedOut, TriggerFailed, ValidationFailed and Crashed; not for Cancelled."""
        return isinstance(self, Failed)

    def is_cancelled(self) -> bool:
        """True when it was cancelled."""
        return isinstance(self, Cancelled)

    def is_mapped(self) -> bool:
        """True for the parent of mapped children."""
        return isinstance(self, Mapped)

    def is_cached(self) -> bool:
        """True when the result came from, or went to, a cache or a target."""
        return isinstance(self, Cached)

    def is_meta_state(self) -> bool:
        """True for states that wrap another one."""
        return isinstance(self, _MetaState)

    @classmethod
    def children(cls, include_self: bool = False, names_only: bool = False) -> list[type[State]] | list[str]:
        """Returns all classes below this one, or their names."""
        found: list[type[State]] = [cls] if include_self else []
        for child in cls.__subclasses__():
            found.extend(child.children(include_self=True))  # type: ignore[arg-type]
        return [kind.__name__ for kind in found] if names_only else found

    @classmethod
    def parents(cls, include_self: bool = False, names_only: bool = False) -> list[type[State]] | list[str]:
        """Returns all state classes above this one, nearest first, or their names."""
        found = [kind for kind in cls.__mro__ if issubclass(kind, State) and (include_self or kind is not cls)]
        return [kind.__name__ for kind in found] if names_only else found

    # --- data model -------------------------------------------------------------------------------------------------

    def _compared(self) -> tuple[Any, ...]:
        return (self.value,)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        assert isinstance(other, State)
        for mine, theirs in zip(self._compared(), other._compared(), strict=True):
            if mine is theirs:
                continue
            try:
                if not bool(mine == theirs):
                    return False
            except (ValueError, TypeError):  # arrays and frames have no single truth: then identity decides
                return False
        return True

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: "{self.message}">' if self.message else f"<{type(self).__name__}>"

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for kind in type(self).__mro__:
            for name in kind.__dict__.get("__slots__", ()):
                state[name] = getattr(self, name)
        if self.value is not UNSET and isinstance(self.value, BaseException):
            state["value"] = portable_exception(self.value)
            state["stored"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __copy__(self) -> State:
        twin = type(self).__new__(type(self))
        for kind in type(self).__mro__:
            for name in kind.__dict__.get("__slots__", ()):
                value = getattr(self, name)
                setattr(twin, name, dict(value) if type(value) is dict else value)
        return twin


def portable_exception(error: BaseException) -> Any:
    """Returns `error` when it survives pickling, else its repr: states travel between processes."""
    import cloudpickle

    from heliograph.failures import safe_repr

    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a foreign class does when pickled, its repr is what can travel
        return safe_repr(error)
    return error


def _is_no_result(held: Result) -> bool:
    from heliograph.engine.result import NoResult

    return held is NoResult or type(held) is type(NoResult)


# --- before the run -------------------------------------------------------------------------------------------------


class Pending(State):
    """Waits for its upstream tasks."""

    __slots__ = ()
    code = StateCode.PENDING
    color = "#b8c0cc"


class Scheduled(Pending):
    """Waits for a time.

    Args:
        start_time: When to start, aware; now by default.
        run_count: Times that the task ran already.
    """

    __slots__ = ("run_count", "start_time")
    code = StateCode.SCHEDULED
    color = "#e9a820"

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        start_time: datetime | None = None,
        cached_inputs: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        run_count: int | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.start_time: datetime | None = start_time if start_time is not None else self._default_start()
        if run_count is None:
            run_count = int(self.context.get("task_run_count", 0))
        else:
            self.context["task_run_count"] = run_count
        self.run_count = run_count

    @staticmethod
    def _default_start() -> datetime | None:
        return utc_now()

    def _compared(self) -> tuple[Any, ...]:
        return (self.value, self.start_time, self.run_count)


class Paused(Scheduled):
    """Waits for somebody's approval, or for `start_time` when one is given."""

    __slots__ = ()
    code = StateCode.PAUSED
    color = "#8b9ad6"

    @staticmethod
    def _default_start() -> datetime | None:
        return None


class Resume(Scheduled):
    """Was paused and may go on."""

    __slots__ = ()
    code = StateCode.RESUME
    color = "#20a8a0"


class Retrying(Scheduled):
    """Failed, and will run again at `start_time`."""

    __slots__ = ()
    code = StateCode.RETRYING
    color = "#f08a24"


class _MetaState(State):
    """Wraps another state: what a run was in when it was submitted or queued."""

    __slots__ = ("state",)

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        cached_inputs: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        state: State | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        while isinstance(state, _MetaState):  # wrapping is one level deep
            state = state.state
        self.state: State | None = state

    def _compared(self) -> tuple[Any, ...]:
        return (self.value, self.state)


class Submitted(_MetaState):
    """Was handed over to be started."""

    __slots__ = ()
    code = StateCode.SUBMITTED
    color = "#cfa94a"


class Queued(_MetaState):
    """Waits for a slot, until `start_time` before it asks again."""

    __slots__ = ("start_time",)
    code = StateCode.QUEUED
    color = "#b58a3c"

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        cached_inputs: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        state: State | None = None,
        start_time: datetime | None = None,
    ) -> None:
        super().__init__(message, result, cached_inputs, context, state)
        self.start_time: datetime = start_time or utc_now()

    def _compared(self) -> tuple[Any, ...]:
        return (self.value, self.state, self.start_time)


class ClientFailed(_MetaState):
    """Its state could not be reported."""

    __slots__ = ()
    color = "#7a1f1f"


# --- the run --------------------------------------------------------------------------------------------------------


class Running(State):
    """Runs."""

    __slots__ = ()
    code = StateCode.RUNNING
    color = "#2f6fde"


class Cancelling(Running):
    """Runs, and was asked to stop."""

    __slots__ = ()
    code = StateCode.CANCELLING
    color = "#9c7fae"


# --- after the run --------------------------------------------------------------------------------------------------


class Finished(State):
    """Ended."""

    __slots__ = ()
    color = "#6b5ca5"


class Looped(Finished):
    """Ended one iteration; the next one gets its result.

    Args:
        loop_count: Number of the iteration that ended, from 1.
    """

    __slots__ = ("loop_count",)
    code = StateCode.LOOPED
    color = "#7d4fb3"

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        loop_count: int | None = None,
        context: Mapping[str, Any] | None = None,
        cached_inputs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        if loop_count is None:
            loop_count = int(self.context.get("task_loop_count", 1))
        self.context["task_loop_count"] = loop_count
        self.loop_count = loop_count

    def _compared(self) -> tuple[Any, ...]:
        return (self.value, self.loop_count)


class Success(Finished):
    """Ended well."""

    __slots__ = ()
    code = StateCode.SUCCESS
    color = "#2e9e4f"


class Cached(Success):
    """Ended well, with a result that a cache or a target holds.

    Args:
        cached_parameters: The flow's parameters at that time.
        cached_result_expiration: When the cache ends, aware; None means never.
    """

    __slots__ = ("cached_parameters", "cached_result_expiration")
    code = StateCode.CACHED
    color = "#2ba58b"

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        cached_inputs: Mapping[str, Any] | None = None,
        cached_parameters: Mapping[str, Any] | None = None,
        cached_result_expiration: datetime | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.cached_parameters: dict[str, Any] | None = dict(cached_parameters) if cached_parameters else None
        self.cached_result_expiration = cached_result_expiration

    def _compared(self) -> tuple[Any, ...]:
        return (self.value, self.cached_parameters, self.cached_result_expiration)


class Mapped(Success):
    """Made children, whose states are in `map_states`; its result is the list of theirs, in order.

    Success, whatever becomes of the children: a flow's final state looks at them. In the list a failed child stands
    as its exception and a skipped one as its signal.

    Args:
        map_states: The children's states, by index.
        n_map_states: Number of children, where their states are not known.
    """

    __slots__ = ("_n_map_states", "map_states")
    code = StateCode.MAPPED
    color = "#58b368"

    def __init__(
        self,
        message: str | None = None,
        result: Any = UNSET,
        map_states: Iterable[State | None] | None = None,
        context: Mapping[str, Any] | None = None,
        cached_inputs: Mapping[str, Any] | None = None,
        n_map_states: int | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.map_states: list[Any] = list(map_states) if map_states is not None else []
        self._n_map_states = n_map_states

    @property
    def n_map_states(self) -> int:
        """Number of children."""
        return self._n_map_states if self._n_map_states is not None else len(self.map_states)

    @property
    def result(self) -> Any:
        """The children's results, in order."""
        if self.value is not UNSET:
            return self.value
        results = [None if state is None else state.result for state in self.map_states]
        if len(results) == self.n_map_states and all(
            state is not None and state.is_finished() for state in self.map_states
        ):
            self.value = results  # a handler may look before the children ended
        return results

    @result.setter
    def result(self, value: Any) -> None:
        self._set_result(value)

    def _compared(self) -> tuple[Any, ...]:
        return (self.map_states, self.n_map_states)


class Skipped(Success):
    """Was not run, on purpose."""

    __slots__ = ()
    code = StateCode.SKIPPED
    color = "#9fb8a4"


class Failed(Finished):
    """Ended badly; the result is the exception."""

    __slots__ = ()
    code = StateCode.FAILED
    color = "#d6322f"


class TimedOut(Failed):
    """Ran longer than its timeout."""

    __slots__ = ()
    code = StateCode.TIMED_OUT
    color = "#b3261e"


class TriggerFailed(Failed):
    """Did not run: its trigger refused the states upstream."""

    __slots__ = ()
    code = StateCode.TRIGGER_FAILED
    color = "#e2725b"


class ValidationFailed(Failed):
    """Ran, and its output did not pass a check."""

    __slots__ = ()
    code = StateCode.VALIDATION_FAILED
    color = "#c2477f"


class Crashed(Failed):
    """Its process died, or lost its right to go on."""

    __slots__ = ()
    code = StateCode.CRASHED
    color = "#8c1d40"


class Cancelled(Finished):
    """Was stopped on request: neither failed nor successful."""

    __slots__ = ()
    code = StateCode.CANCELLED
    color = "#7b6f80"


def _collect(kind: type[State]) -> dict[StateCode, type[State]]:
    found = {kind.code: kind} if "code" in kind.__dict__ and kind.code is not None else {}
    for child in kind.__subclasses__():
        found.update(_collect(child))
    return found


CLASS_OF: dict[StateCode, type[State]] = _collect(State)
"""State number to the class that users see."""


def success_with(value: Any, tags: tuple[str, ...] | None = None) -> Success:
    """Makes the state of a plain success; quicker than the constructor, for the engine's common case."""
    state = Success.__new__(Success)
    state.message = SUCCEEDED
    state.value = value
    state.stored = None
    state.raw_context = tags
    state.cached_inputs = _NO_INPUTS
    return state


SUCCEEDED = "Task run succeeded."
_NO_INPUTS: dict[str, Any] = {}
