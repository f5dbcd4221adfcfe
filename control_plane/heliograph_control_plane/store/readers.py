"""The readers: a few threads with connections that only read. On SQLite each call sees one snapshot."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from heliograph.exceptions import UnavailableError
from heliograph_control_plane.store.pending import Pending, wake_all

T = TypeVar("T")


class Readers:
    """A pool of reading threads."""

    def __init__(self, engine: Engine, count: int, name: str, max_queued: int = 5_000) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Pending[Any], Callable[[Connection], Any]] | None] = queue.SimpleQueue()
        self._max_queued = max_queued
        self._closing = False
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[Connection], T]) -> Pending[T]:
        """Queues one read."""
        pending: Pending[T] = Pending()
        if self._closing:
            pending.fail(UnavailableError("the control plane is stopping"))
            return pending
        if self._queue.qsize() >= self._max_queued:
            pending.fail(UnavailableError("the control plane is too busy"))
        else:
            self._queue.put((pending, function))
        return pending

    def close(self) -> None:
        """Answers what is queued and ends the threads."""
        self._closing = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        connection: Connection | None = None
        while (call := self._queue.get()) is not None:
            pending, function = call
            for last_try in (False, True):
                try:
                    if connection is None:
                        connection = self._engine.connect()
                    with connection.begin():
                        value = function(connection)
                    waiter = pending.settle(value)
                except Exception as error:  # noqa: BLE001 - the thread's boundary: every caller gets an answer
                    answer = error
                    if isinstance(error, SQLAlchemyError):
                        _drop(connection)
                        connection = None
                        if not last_try:
                            continue  # reading again is always safe
                        if isinstance(error, DBAPIError):
                            answer = UnavailableError("the store's database does not answer")
                    waiter = pending.fail(answer)
                if waiter is not None:
                    wake_all([waiter])
                break
        _drop(connection)


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except SQLAlchemyError:
            connection.invalidate()
