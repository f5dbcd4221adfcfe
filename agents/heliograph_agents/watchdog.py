"""The watchdog: ends an agent whose event loop is stuck, so that whoever restarts agents gets one that works.

An agent that is alive and does nothing looks well to everyone but the people whose runs do not start. Runs outlive
their agent, and the next agent of its name adopts them: to end costs little.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading

STUCK_EXIT_CODE = 70

CHECK_SECONDS = 5.0
MISSED_CHECKS = 12
"""Checks in a row without an answer of the loop, one minute together, after which it is stuck.

They are counted, not timed: a process that was frozen with its watchdog, or a machine that slept, missed none.
"""


class Watchdog(threading.Thread):
    """Asks an event loop for a sign of life, again and again, from a thread of its own.

    Args:
        loop: The loop of the agent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="heliograph-watchdog", daemon=True)
        self._loop = loop
        self._stop = threading.Event()
        self._answered = threading.Event()

    def stop(self) -> None:
        """Ends it; the loop may end too."""
        self._stop.set()

    def run(self) -> None:
        """Checks until told to stop, or until the loop is stuck."""
        missed = 0
        while True:
            self._answered.clear()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # closed
                return
            if self._stop.wait(CHECK_SECONDS):
                return
            missed = 0 if self._answered.is_set() else missed + 1
            if missed >= MISSED_CHECKS:
                _leave()


def _leave() -> None:
    """Says where every thread is, and ends the process. Takes no lock: a stuck thread may hold it."""
    seconds = CHECK_SECONDS * MISSED_CHECKS
    text = f"heliograph agent: stuck for {seconds:.0f} s; it ends with exit code {STUCK_EXIT_CODE}, its runs go on\n"
    try:
        os.write(2, text.encode())
        faulthandler.dump_traceback(sys.__stderr__ or 2)
    finally:
        os._exit(STUCK_EXIT_CODE)
