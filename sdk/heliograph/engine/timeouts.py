"""Time limits of one attempt.

In the main thread the alarm interrupts the task itself. In a worker thread the attempt runs in a helper thread: when
its time is over the task run is TimedOut at once and the worker goes on; the helper is interrupted, and ends when it
next runs Python code. Nothing has to be pickled, and the task sees the objects that it was given. A limit covers `run`
alone, never the waiting before it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from heliograph.context import TaskSurroundings, enter_task
from heliograph.engine.interrupts import Interrupted, RunStopped, Seat, TimeOver


class Stoppable(Protocol):
    """The run that a limited call belongs to.

    Attributes:
        stopping: True once the run is ending.
    """

    stopping: bool

    def watch(self, seat: Seat) -> None:
        """Lets a cancellation reach `seat`."""

    def forget(self, seat: Seat) -> None:
        """Undoes `watch`."""


def call_limited(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    seconds: float,
    surroundings: TaskSurroundings,
    run: Stoppable,
) -> Any:
    """Calls `function` in a helper thread for at most `seconds`.

    Args:
        function: The function.
        arguments: Its arguments.
        seconds: The limit.
        surroundings: Content of the context, for the helper thread.
        run: The run, whose cancellation reaches the helper.

    Raises:
        TimeOver: The limit passed.
        RunStopped: The run was cancelled meanwhile.
    """
    helper = _Helper(function, arguments, surroundings, run)
    seat = helper.seat
    run.watch(seat)
    try:
        helper.start()
        if not helper.ended.wait(seconds):
            helper.given_up = True
            seat.strike(TimeOver)
            raise TimeOver
    finally:
        run.forget(seat)
    if isinstance(helper.error, Interrupted) and helper.error.owner is seat:
        raise RunStopped
    if helper.error is not None:
        raise helper.error
    return helper.value


class _Helper(threading.Thread):
    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        surroundings: TaskSurroundings,
        run: Stoppable,
    ) -> None:
        super().__init__(name="heliograph-limited", daemon=True)
        self.function = function
        self.arguments = arguments
        self.surroundings = surroundings
        self.flow_run = run
        self.variables = contextvars.copy_context()
        self.seat = Seat(0)
        self.given_up = False
        self.ended = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Calls the function and keeps what comes of it."""
        self.seat.ident = threading.get_ident()
        enter_task(self.surroundings)
        try:
            self.seat.busy = True
            if self.given_up or self.flow_run.stopping:  # before there was anything to strike
                raise RunStopped  # noqa: TRY301 - as if the interrupt had come a moment later
            self.value = self.variables.run(self._call)
        except BaseException as error:  # noqa: BLE001 - user code: the caller raises it again in its own thread
            self.error = error
        self.seat.leave()
        self.ended.set()

    def _call(self) -> Any:
        return self.function(**self.arguments)
