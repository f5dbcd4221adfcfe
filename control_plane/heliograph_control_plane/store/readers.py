"""The readers: a few threads with connections that only read. On SQLite each call sees one snapshot.

Calls of one kind that wait together are read together (`GroupRead`): every read begins after all its calls came.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from heliograph.exceptions import HeliographError, UnavailableError
from heliograph_control_plane.store.pending import Pending, join_threads, wake_all

T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class GroupRead(Generic[A, T]):
    """A read that answers many calls at once: `run` returns, for each argument, its value or its error."""

    run: Callable[[Connection, list[A]], list[T | HeliographError]]


class _Group:
    """Calls of one `GroupRead` that no thread has taken yet."""

    def __init__(self, read: GroupRead[Any, Any]) -> None:
        self.read = read
        self.waiting: list[tuple[Pending[Any], Any]] = []


_Work: TypeAlias = "tuple[Pending[Any], Callable[[Connection], Any]] | _Group"


class Readers:
    """A pool of reading threads."""

    def __init__(self, engine: Engine, count: int, name: str, max_queued: int = 5_000) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._groups: dict[int, _Group] = {}
        self._lock = threading.Lock()
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
        with self._lock:
            refusal = self._refusal(self._queue.qsize())
            if refusal is None:
                self._queue.put((pending, function))
        if refusal is not None:
            pending.fail(refusal)
        return pending

    def submit_grouped(self, read: GroupRead[A, T], argument: A) -> Pending[T]:
        """Queues one call of a read that answers many at once."""
        pending: Pending[T] = Pending()
        with self._lock:
            group = self._groups.get(id(read))
            refusal = self._refusal(0 if group is None else len(group.waiting))
            if refusal is None:
                if group is None:
                    group = self._groups[id(read)] = _Group(read)
                    self._queue.put(group)
                group.waiting.append((pending, argument))
        if refusal is not None:
            pending.fail(refusal)
        return pending

    def close(self) -> None:
        """Answers what is queued and ends the threads."""
        with self._lock:  # what comes before is answered, and what comes after is refused
            self._closing = True
            for _ in self._threads:
                self._queue.put(None)
        join_threads(self._threads)

    def _refusal(self, waiting: int) -> UnavailableError | None:
        if self._closing:
            return UnavailableError("the control plane is stopping")
        return UnavailableError("the control plane is too busy") if waiting >= self._max_queued else None

    def _take(self, work: _Work) -> tuple[list[Pending[Any]], Callable[[Connection], list[Any]]]:
        if not isinstance(work, _Group):
            pending, function = work
            return [pending], lambda connection: [function(connection)]
        with self._lock:
            del self._groups[id(work.read)]
        arguments = [argument for _, argument in work.waiting]
        return [pending for pending, _ in work.waiting], lambda connection: work.read.run(connection, arguments)

    def _loop(self) -> None:
        connection: Connection | None = None
        while (work := self._queue.get()) is not None:
            pendings, function = self._take(work)
            for last_try in (False, True):
                try:
                    if connection is None:
                        connection = self._engine.connect()
                    with connection.begin():
                        values = function(connection)
                except Exception as error:  # noqa: BLE001 - the thread's boundary: every caller gets an answer
                    answer = error
                    if isinstance(error, SQLAlchemyError):
                        _drop(connection)
                        connection = None
                        if not last_try:
                            continue  # reading again is always safe
                        if isinstance(error, DBAPIError):
                            answer = UnavailableError("the store's database does not answer")
                    values = [answer for _ in pendings]
                _answer(pendings, values)
                break
        _drop(connection)


def _answer(pendings: list[Pending[Any]], values: list[Any]) -> None:
    waiters = []
    for pending, value in zip(pendings, values, strict=True):
        waiter = pending.fail(value) if isinstance(value, Exception) else pending.settle(value)
        if waiter is not None:
            waiters.append(waiter)
    wake_all(waiters)


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except SQLAlchemyError:
            connection.invalidate()
