"""Signals: what a task raises to choose its own end state.

They derive from `BaseException`, so that a task's `except Exception` does not swallow them. The keyword arguments of
a signal go to its state; without `result=` the result is the signal itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from heliograph.engine.state import (
    UNSET,
    Failed,
    Looped,
    Paused,
    Retrying,
    Skipped,
    State,
    Success,
    TriggerFailed,
    ValidationFailed,
)


class ENDRUN(BaseException):
    """Ends a task run, or a flow run, in the given state."""

    def __init__(self, state: State) -> None:
        super().__init__(state.message or type(state).__name__)
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.state,))


class StateSignal(BaseException):
    """The base of the signals.

    Args:
        message: Text for people; stays on the user's side.
        **kwargs: Arguments of the state: `result`, `context`, and what its class takes.
    """

    state_class: ClassVar[type[State]] = State

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        super().__init__(message if message is not None else "")
        kwargs.setdefault("result", self)
        self.state: State = self.state_class(message=message, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.state
        arguments = state.__getstate__()
        if arguments["value"] is self:
            arguments["value"] = _SELF
        return (_rebuild_signal, (type(self), self.args, type(state), arguments))


_SELF = "heliograph.signal.self"


def _rebuild_signal(
    kind: type[StateSignal], args: tuple[Any, ...], state_class: type[State], arguments: dict[str, Any]
) -> StateSignal:
    signal = kind.__new__(kind)
    signal.args = args
    state = state_class.__new__(state_class)
    state.__setstate__(arguments)
    if arguments["value"] == _SELF:
        state.value = signal
    signal.state = state
    return signal


class FAIL(StateSignal):
    """Ends the task run as Failed; it is retried as after an exception."""

    state_class = Failed


class TRIGGERFAIL(StateSignal):
    """Ends the task run as TriggerFailed; what triggers raise."""

    state_class = TriggerFailed


class VALIDATIONFAIL(StateSignal):
    """Ends the task run as ValidationFailed."""

    state_class = ValidationFailed


class SUCCESS(StateSignal):
    """Ends the task run as Success; its `result=` is kept like a returned value."""

    state_class = Success


class RETRY(StateSignal):
    """Runs the task again, whatever its `max_retries`: at `start_time`, by default now."""

    state_class = Retrying


class SKIP(StateSignal):
    """Ends the task run as Skipped; tasks downstream are skipped too, unless they opt out."""

    state_class = Skipped


class PAUSE(StateSignal):
    """Pauses the task run until somebody resumes it, or until `start_time`."""

    state_class = Paused


class LOOP(StateSignal):
    """Ends one iteration and runs the task again, with `result` as `context.task_loop_result`.

    Args:
        message: Text for people.
        result: What the next iteration gets.
        loop_count: Number of the iteration that ended; counted by the engine when not given.
    """

    state_class = Looped

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("result", None)
        super().__init__(message, **kwargs)


def signal_from_state(state: State) -> StateSignal:
    """Returns a signal that ends a task run as `state`, to hand on a child run's end.

    Args:
        state: A state whose class has a signal, or a subclass of one.

    Raises:
        ValueError: No signal belongs to the state.
    """
    kinds: tuple[type[StateSignal], ...] = (FAIL, TRIGGERFAIL, VALIDATIONFAIL, SUCCESS, RETRY, SKIP, PAUSE, LOOP)
    by_class: dict[type, type[StateSignal]] = {kind.state_class: kind for kind in kinds}
    for kind in type(state).__mro__:
        found = by_class.get(kind)
        if found is not None:
            signal = found.__new__(found)
            signal.args = (state.message or "",)
            signal.state = state
            if state.value is UNSET:
                state.value = signal
            return signal
    raise ValueError(f"no signal belongs to the state {type(state).__name__}")
