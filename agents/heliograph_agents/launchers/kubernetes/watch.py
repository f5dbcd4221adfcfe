"""Watches of Jobs and pods: what changes in a cluster is known at once, and no watch ever dies unheard.

A watch begins with a list. It goes on from the last version that it has seen, bookmarks included; a version that is too
old (410, as an answer or as an event in the stream) means another list, and so does time. Whatever goes wrong is tried
again, with longer pauses, until the watch is stopped: reconciling finds meanwhile what it misses.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from heliograph_agents.launchers.kubernetes.api import Api, ApiAwayError, ApiRefusedError, Watching

_log = logging.getLogger("heliograph.agent")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
STREAM_SECONDS = 300
SHORTEST_STREAM_SECONDS = 1.0
TOO_OLD = 410
"""What is answered where a version is asked for that the server has dropped."""
RELIST_SECONDS = (600.0, 900.0)

OnList = Callable[[str, str, list[dict[str, Any]]], None]
OnChange = Callable[[str, str, dict[str, Any]], None]


class Watch:
    """Watches one kind of object in one namespace, on a thread of its own.

    Args:
        api: The API.
        kind: `jobs` or `pods`.
        namespace: The namespace.
        selector: Label selector.
        on_list: Called with kind, namespace and all objects.
        on_change: Called with kind, what happened, and the object.
    """

    def __init__(
        self, api: Api, kind: str, namespace: str, selector: str, on_list: OnList, on_change: OnChange
    ) -> None:
        self._api, self._kind, self._namespace, self._selector = api, kind, namespace, selector
        self._on_list, self._on_change = on_list, on_change
        self._stopped = threading.Event()
        self._stream: Watching | None = None
        self._thread = threading.Thread(target=self._run, name=f"heliograph-watch-{kind}", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self._close()
        self._thread.join(2.0)

    @property
    def alive(self) -> bool:
        """True while it watches."""
        return self._thread.is_alive()

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _run(self) -> None:
        pause, away, version, relist_at = FIRST_PAUSE_SECONDS, False, "", 0.0
        while not self._stopped.is_set():
            try:
                if not version or time.monotonic() > relist_at:
                    items, version = self._api.list(self._kind, self._namespace, labelSelector=self._selector)
                    relist_at = time.monotonic() + random.uniform(*RELIST_SECONDS)  # noqa: S311 (jitter)
                    self._on_list(self._kind, self._namespace, items)
                if away:
                    _log.warning("%s in %s are watched again", self._kind, self._namespace)
                away = False
                version = self._follow(version)
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:  # noqa: BLE001 (a watch that died of anything would be missed by nobody)
                refused = error.status if isinstance(error, ApiRefusedError) else 0
                version = "" if refused else version
                if refused != TOO_OLD:
                    away = self._tell(error, away=away)
                    pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                self._stopped.wait(pause * random.uniform(0.25, 0.75))  # noqa: S311 (jitter)
            finally:
                self._close()

    def _tell(self, error: Exception, *, away: bool) -> bool:
        if not (away or self._stopped.is_set()):
            _log.warning("%s in %s cannot be watched: %s", self._kind, self._namespace, error)
        return True

    def _follow(self, version: str) -> str:
        """Follows the changes after a version. Returns the last one that it has seen.

        Raises:
            ApiRefusedError: That version is too old, or the stream says that it cannot go on.
            ApiAwayError: The stream breaks, or is none: ended as soon as it began, it would be begun again and again.
        """
        began, heard = time.monotonic(), False
        seconds = int(STREAM_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 (jitter)
        self._stream = stream = self._api.watch(
            self._kind, self._namespace, version, seconds, labelSelector=self._selector
        )
        for change, item in stream.changes():
            heard = True
            if self._stopped.is_set():
                break
            if change == "ERROR":
                raise ApiRefusedError(int(item.get("code") or 500), str(item.get("reason")), str(item.get("message")))
            version = str((item.get("metadata") or {}).get("resourceVersion") or version)
            if change != "BOOKMARK":
                self._on_change(self._kind, change, item)
        if not heard and time.monotonic() - began < SHORTEST_STREAM_SECONDS:
            raise ApiAwayError("the server ends the stream at once")
        return version
