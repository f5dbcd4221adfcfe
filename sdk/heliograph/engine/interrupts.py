"""Interrupting user code: because its time is over, or because the run is cancelled.

Every thread that runs tasks has a `Seat`. The seat is `busy` exactly while user code runs, so that an interrupt never
lands in the engine's own code. In the main thread an interrupt is an alarm signal, which wakes a waiting system call.
In other threads it is an asynchronous exception, which arrives when the thread next runs Python code: a thread
that waits in C code for long notices late.

The process has one alarm clock, and somebody may have set it before the run began: a watchdog, or a test's time limit.
Their alarm rings in time, and what its handler raises ends the run and reaches its caller.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

_AGAIN_SECONDS = 0.25
_ARRIVAL_SECONDS = 1.0


class Interrupted(BaseException):
    """Raised inside user code. Derived from `BaseException`, so that tasks do not swallow it by accident.

    Attributes:
        owner: The seat that was meant: a flow that runs inside a task lets the interrupts of the outer one pass.
    """

    owner: ClassVar[Seat | None] = None


class TimeOver(Interrupted):
    """The time limit of the attempt is over."""


class RunStopped(Interrupted):
    """The run is being cancelled."""


class Seat:
    """Where one thread runs user code.

    Attributes:
        busy: True exactly while user code runs.
        struck: What it was interrupted with, while that has not been taken note of.
        over: True when the last limit passed, whatever the user code made of the interrupt.
    """

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.lock = threading.Lock()
        self.busy = False
        self.struck: type[Interrupted] | None = None
        self.over = False

    def strike(self, kind: type[Interrupted]) -> bool:
        """Interrupts the user code that runs here now, if any. From any thread. Returns whether there was some."""
        with self.lock:
            if not self.busy or self.struck is not None:
                return self.busy
            self.struck = self._owned(kind)
            _raise_in(self.ident, self.struck)
            return True

    def leave(self) -> None:
        """Ends user code, from its own thread. An interrupt that is still under way arrives here and ends here."""
        while True:
            try:
                with self.lock:
                    self.busy = False
                    struck, self.struck = self.struck, None
                if struck is not None:
                    self._let_arrive(struck)
                return  # noqa: TRY300 - the loop goes on only when an interrupt arrived just here
            except Interrupted as late:
                if late.owner is not self:
                    raise

    def _let_arrive(self, kind: type[Interrupted]) -> None:
        """Raises an interrupt in this thread, instead of one that may still be under way.

        Withdrawing that one would leave CPython's mark that an exception waits (to 3.12): all threads would look for it
        before each call for ever, and those that are traced, as under debuggers, would never get any further (3.11).
        """
        _raise_in(self.ident, kind)
        limit = time.monotonic() + _ARRIVAL_SECONDS
        while time.monotonic() < limit:
            pass

    def _owned(self, kind: type[Interrupted]) -> type[Interrupted]:
        return type(kind.__name__, (kind,), {"owner": self})

    def limit(self, seconds: float) -> bool:  # noqa: ARG002 - only some seats can
        """Interrupts the user code that starts now after `seconds`. Returns False when this seat cannot."""
        return False

    def unlimit(self) -> None:
        """Withdraws the limit."""

    def open(self) -> None:
        """Takes the seat."""

    def close(self) -> None:
        """Leaves it for good."""


def _raise_in(ident: int, kind: type[Interrupted]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(kind))


class MainSeat(Seat):
    """The seat of the main thread, where alarms interrupt. Seats stack when a task runs a flow.

    Args:
        abort: Ends the run with what the handler of somebody else's alarm raised.
    """

    def __init__(self, abort: Callable[[BaseException], None]) -> None:
        super().__init__(threading.main_thread().ident or 0)
        self.abort = abort
        self.deadline: float | None = None

    @staticmethod
    def available() -> bool:
        """Tells whether this is the main thread of a system with alarms."""
        return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")

    def strike(self, kind: type[Interrupted]) -> bool:
        """Interrupts the user code that runs here now, if any. From any thread, and from signal handlers."""
        if threading.get_ident() == self.ident:  # no lock: this may be a signal handler of the very thread
            return self._strike(kind)
        with _alarms.lock:
            return self in _alarms.seats and self._strike(kind)

    def _strike(self, kind: type[Interrupted]) -> bool:
        if not self.busy:
            return False
        self.struck = self._owned(kind)
        # The clock rings again after a moment: a signal that arrives just before a system call does not end it.
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
        signal.pthread_kill(self.ident, signal.SIGALRM)
        return True

    def leave(self) -> None:
        """Ends user code."""
        while True:
            try:
                self.busy = False
                self.struck = None
                return  # noqa: TRY300 - the loop goes on only when an interrupt arrived just here
            except Interrupted as late:
                if late.owner is not self:
                    raise

    def limit(self, seconds: float) -> bool:
        """Interrupts the user code that starts now after `seconds`."""
        self.over = False
        self.deadline = time.monotonic() + seconds
        _alarms.arm()
        return True

    def unlimit(self) -> None:
        """Withdraws the limit."""
        self.deadline = None
        _alarms.arm()

    def open(self) -> None:
        """Takes the seat."""
        _alarms.push(self)

    def close(self) -> None:
        """Leaves it for good; alarms are then handled as before."""
        self.busy = False
        self.deadline = None
        _alarms.pop(self)

    def check(self, now: float) -> None:
        """Raises what is due here; the alarm's handler calls it."""
        if not self.busy:
            return
        if self.struck is not None:
            struck, self.struck = self.struck, None
            self.busy = False
            raise struck
        if self.deadline is not None and self.deadline <= now:
            self.deadline = None
            self.busy = False
            self.over = True
            raise self._owned(TimeOver)


class _Alarms:
    """Shares the alarm clock between nested runs, and with whoever used it before.

    Attributes:
        seats: The runs' seats, the outermost first.
        lock: Held while another thread strikes, so that its alarm finds our handler.
    """

    def __init__(self) -> None:
        self.seats: list[MainSeat] = []
        self.lock = threading.Lock()
        self._handler: Any = None
        self._foreign: float | None = None
        self._interval = 0.0

    def push(self, seat: MainSeat) -> None:
        if not self.seats:
            remaining, self._interval = signal.getitimer(signal.ITIMER_REAL)
            self._foreign = time.monotonic() + remaining if remaining else None
            self._handler = signal.signal(signal.SIGALRM, self._ring)
        self.seats.append(seat)

    def pop(self, seat: MainSeat) -> None:
        with self.lock:
            if self.seats == [seat]:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_IGN)  # drops an alarm of ours that is on its way
                signal.signal(signal.SIGALRM, self._handler if self._handler is not None else signal.SIG_DFL)
            self.seats.remove(seat)
        self.arm()

    def arm(self) -> None:
        """Sets the clock to the first deadline."""
        now = time.monotonic()
        deadlines = [seat.deadline for seat in self.seats if seat.deadline is not None]
        deadlines += [now + _AGAIN_SECONDS for seat in self.seats if seat.struck is not None]
        interval = _AGAIN_SECONDS if deadlines else self._interval
        if self._foreign is not None:
            deadlines.append(self._foreign)
        if deadlines:
            signal.setitimer(signal.ITIMER_REAL, max(min(deadlines) - now, 1e-6), interval)
        elif signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        try:
            if self._foreign is not None and self._foreign <= now:
                self._foreign = now + self._interval if self._interval else None
                self._ring_foreign(signum, frame)
            for seat in self.seats:  # the outermost first: what it runs ends with it
                seat.check(now)
        finally:
            self.arm()

    def _ring_foreign(self, signum: int, frame: FrameType | None) -> None:
        """Does what the alarm would have done without us; what its handler raises ends all runs."""
        if self._handler == signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)  # ends the process
        if not callable(self._handler):
            return
        try:
            self._handler(signum, frame)
        except BaseException as error:
            in_user_code = self.seats[-1].busy
            for seat in self.seats:
                seat.busy = False
                seat.abort(error)
            if in_user_code:  # the engine ends by itself, in order
                raise


_alarms = _Alarms()


def seat_here(abort: Callable[[BaseException], None]) -> Seat:
    """Makes the seat that fits the current thread.

    Args:
        abort: Ends the run with what the handler of somebody else's alarm raised.
    """
    return MainSeat(abort) if MainSeat.available() else Seat(threading.get_ident())
