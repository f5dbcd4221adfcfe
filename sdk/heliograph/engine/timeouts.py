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
from typing import Any

from heliograph.context import TaskSurroundings, enter_task
from heliograph.engine.interrupts import Interrupted, RunStopped, Seat, TimeOver


def call_limited(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    seconds: float,
    surroundings: TaskSurroundings,
    watch: Callable[[Seat], None],
    forget: Callable[[Seat], None],
) -> Any:
    """Calls `function` in a helper thread for at most `seconds`.

    Args:
        function: The function.
        arguments: Its arguments.
        seconds: The limit.
        surroundings: Content of the context, for the helper thread.
        watch: Told of the helper's seat, so that a cancellation can reach it.
        forget: Told when the helper is done, or given up.

    Raises:
        TimeOver: The limit passed.
        RunStopped: The run was cancelled meanwhile.
    """
    helper = _Helper(function, arguments, surroundings, watch)
    helper.start()
    helper.ended.wait(seconds)
    seat = helper.seat
    try:
        if not helper.ended.is_set():
            if seat is not None:
                seat.strike(TimeOver)
            raise TimeOver
        if isinstance(helper.error, Interrupted) and helper.error.owner is seat:
            raise RunStopped
        if helper.error is not None:
            raise helper.error
        return helper.value
    finally:
        if seat is not None:
            forget(seat)


class _Helper(threading.Thread):
    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        surroundings: TaskSurroundings,
        watch: Callable[[Seat], None],
    ) -> None:
        super().__init__(name="heliograph-limited", daemon=True)
        self.function = function
        self.arguments = arguments
        self.surroundings = surroundings
        self.variables = contextvars.copy_context()
        self.watch = watch
        self.seat: Seat | None = None
        self.ended = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Calls the function and keeps what comes of it."""
        seat = self.seat = Seat(threading.get_ident())
        self.watch(seat)
        enter_task(self.surroundings)
        try:
            seat.busy = True
            self.value = self.variables.run(self._call)
        except BaseException as error:  # noqa: BLE001 - user code: the caller raises it again in its own thread
            self.error = error
        seat.leave()
        self.ended.set()

    def _call(self) -> Any:
        return self.function(**self.arguments)
