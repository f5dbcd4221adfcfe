"""The engine's events: a hint that a container has ended, so that nobody waits for the next reconcile."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from heliograph_agents.launchers.docker.engine import Engine, reading

_log = logging.getLogger("heliograph.agent")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0


class Watch:
    """Listens on a thread of its own until it is stopped. What it misses, reconciling finds.

    Args:
        engine: The engine.
        labels: Labels of the containers to hear of.
        ended: Called, on the thread, with the labels of a container that has ended.
    """

    def __init__(self, engine: Engine, labels: Mapping[str, str], ended: Callable[[dict[str, str]], None]) -> None:
        self._engine, self._labels, self._ended = engine, labels, ended
        self._stopped = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._listen, name="heliograph-docker-events", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self._close()
        self._thread.join(1.0)

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):  # the SDK shuts a socket that may be gone, and raises what it likes
                stream.close()

    def _listen(self) -> None:
        pause, away = FIRST_PAUSE_SECONDS, False
        while not self._stopped.is_set():
            try:
                self._stream = self._engine.events(self._labels)
                if away:
                    _log.warning("Docker at %s is back", self._engine.address)
                pause, away = FIRST_PAUSE_SECONDS, False
                for event in reading(self._stream):
                    self._ended((event.get("Actor") or {}).get("Attributes") or {})
            except (OSError, RuntimeError, ValueError) as error:
                # A loop that is closed, a line that is none: nothing of it is worth more than another try.
                if not (away or self._stopped.is_set()):
                    _log.warning("Docker at %s is away: %s", self._engine.address, error)
                away = True
            finally:
                self._close()
            if self._stopped.wait(pause):
                return
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
