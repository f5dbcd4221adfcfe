"""What an executor is: it decides where and in which order the task runs of a flow run are worked off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from heliograph.engine.interrupts import Seat


class Work(Protocol):
    """A flow run, as executors see it. Thread-safe."""

    def take(self) -> int | None:
        """Waits for a task run that can be worked on and returns its number; None when the flow run is over."""

    def step(self, run: int, seat: Seat) -> int | None:
        """Works on a task run in this thread. Returns another one to go on with at once, or None."""

    def add_seat(self) -> Seat:
        """Makes the seat of this thread, through which a cancellation can reach it."""

    def remove_seat(self, seat: Seat) -> None:
        """Gives it back."""

    def add_end(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when nothing is left to work on; at once when that is so already."""

    def crash(self, error: BaseException) -> None:
        """Ends the flow run because of a fault outside all tasks."""

    def abort(self, error: BaseException) -> None:
        """Ends the flow run because of what was raised in the thread that runs it, from outside the run."""


class Executor:
    """The base of executors.

    The engine calls `drive` with a flow run. `start`, `submit` and `wait` are the way to run functions by themselves,
    as Prefect 1's executors did.

    Attributes:
        shares_memory: True when tasks run in this process.
        needs_pickle: True when tasks, inputs and results are pickled.
    """

    shares_memory: ClassVar[bool] = True
    needs_pickle: ClassVar[bool] = False

    @contextmanager
    def start(self) -> Iterator[None]:
        """Sets up what submitted functions need, for the duration of the block."""
        yield

    def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Submits a function and returns its future, or its value.

        Args:
            fn: The function.
            *args: Its arguments.
            extra_context: Facts about the call, for executors that show them.
            **kwargs: Its keyword arguments.
        """
        del extra_context
        return fn(*args, **kwargs)

    def wait(self, futures: Any) -> Any:
        """Returns the values of futures: of one, or of those in a list, tuple, set or dict."""
        return futures

    def drive(self, work: Work) -> None:
        """Works off a flow run in this thread."""
        work_off(work)

    def __repr__(self) -> str:
        return f"<Executor: {type(self).__name__}>"


def work_off(work: Work) -> None:
    """Takes task runs and works on them, in this thread, until the flow run is over."""
    seat = work.add_seat()
    step, take = work.step, work.take
    try:
        run = take()
        while run is not None:
            run = step(run, seat)
            if run is None:
                run = take()
    finally:
        work.remove_seat(seat)
