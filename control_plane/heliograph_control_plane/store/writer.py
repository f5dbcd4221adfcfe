"""The writer: one thread, one transaction for all that is queued, answers after the commit.

Calls that arrive while a transaction commits wait for the next one and share it. Calls of one kind share their
statements, too (`GroupOperation`). Should a transaction fail, its calls are run again one by one, so that a bad one
harms nobody else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from heliograph.exceptions import HeliographError, InternalError, UnavailableError
from heliograph_control_plane.store.database import Database, is_conflict, is_fatal
from heliograph_control_plane.store.pending import Pending, join_threads, wake_all
from heliograph_control_plane.store.records import Changes, Requirement, Subscriber, Upcoming

T = TypeVar("T")
A = TypeVar("A")

_log = logging.getLogger(__name__)

MAX_QUEUED: Final = 20_000
"""Most weight (about rows) that may wait; beyond it callers get UnavailableError."""
MAX_DRAINED: Final = 2_000
"""Weight after which a transaction is closed, so that it stays within some tens of milliseconds."""
_RETRIES: Final = 5


@dataclass(slots=True)
class Transaction:
    """What an operation works with: the connection, the time, and a place to note what it changed."""

    connection: Connection
    now: int
    memory: dict[str, Any]
    runs: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)
    ready: dict[Requirement, int] = field(default_factory=dict)
    tokens: bool = False
    schedules: bool = False

    @property
    def locking(self) -> bool:
        """True when rows must be locked before they are changed: several writers share the database."""
        return self.connection.dialect.name == "postgresql"

    def becomes_ready(self, requirement: Requirement, ready_micros: int) -> None:
        """Notes that a run can be claimed from `ready_micros` on."""
        self.ready[requirement] = min(ready_micros, self.ready.get(requirement, ready_micros))

    def changes(self) -> Changes | None:
        """Returns what was noted; None when it is nothing."""
        if not (self.runs or self.tasks or self.logs or self.ready or self.tokens or self.schedules):
            return None
        return Changes(
            frozenset(self.runs),
            frozenset(self.tasks),
            frozenset(self.logs),
            tuple(Upcoming(requirement, at) for requirement, at in self.ready.items()),
            self.tokens,
            self.schedules,
        )


@dataclass(frozen=True, slots=True)
class GroupOperation(Generic[A, T]):
    """An operation that does many calls at once. `run` returns, for each argument, its value or its error, and must
    refuse (by an error) before it writes anything for that argument."""

    run: Callable[[Transaction, list[A]], list[T | HeliographError]]


@dataclass(frozen=True, slots=True)
class _Call:
    pending: Pending[Any]
    weight: int
    function: Callable[[Transaction], Any] | None
    group: GroupOperation[Any, Any] | None = None
    argument: Any = None


Outcome = tuple[_Call, Any]


class Writer:
    """The thread that writes.

    Attributes:
        failed: True once the disk under SQLite failed: what was synced is unknown, so nothing is written any more.
    """

    def __init__(self, database: Database, engine: Engine, subscribers: list[Subscriber], name: str) -> None:
        self._database = database
        self._engine = engine
        self._subscribers = subscribers
        self._condition = threading.Condition()
        self._queue: deque[_Call] = deque()
        self._weight = 0
        self._closing = False
        self.failed = False
        self._connection: Connection | None = None
        self._memory: dict[str, Any] = {}
        self.on_begin: Callable[[Transaction], None] | None = None
        self.on_commit: Callable[[Changes], None] | None = None
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[Transaction], T], weight: int = 1) -> Pending[T]:
        """Queues one operation. It runs inside a shared transaction and must refuse, by a `HeliographError`, before
        it writes anything. `weight` is about the rows that it writes."""
        pending: Pending[T] = Pending()
        self._enqueue(_Call(pending, weight, function))
        return pending

    def submit_grouped(self, group: GroupOperation[A, T], argument: A, weight: int = 1) -> Pending[T]:
        """Queues one call of an operation that does many at once; `weight` is about the rows that it writes."""
        pending: Pending[T] = Pending()
        self._enqueue(_Call(pending, weight, None, group, argument))
        return pending

    def close(self) -> None:
        """Commits what is queued and ends the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        join_threads([self._thread])

    def _enqueue(self, call: _Call) -> None:
        with self._condition:
            if self.failed:
                error = _disk_failed()
            elif self._closing:
                error = UnavailableError("the control plane is stopping")
            elif self._weight >= MAX_QUEUED:
                error = UnavailableError("the control plane is too busy")
            else:
                self._weight += call.weight
                self._queue.append(call)
                if len(self._queue) == 1:
                    self._condition.notify()
                return
        call.pending.fail(error)

    def _loop(self) -> None:
        while True:
            calls = self._drain()
            if not calls:
                break
            self._process(calls)
        self._disconnect()

    def _drain(self) -> list[_Call]:
        calls: list[_Call] = []
        weight = 0
        with self._condition:
            while not self._queue and not self._closing:
                self._condition.wait()
            while self._queue and weight < MAX_DRAINED:
                call = self._queue.popleft()
                weight += call.weight
                calls.append(call)
            self._weight -= weight
        return calls

    def _process(self, calls: list[_Call]) -> None:
        try:
            outcomes, changes = self._commit(calls)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: every caller gets an answer
            if len(calls) == 1 or self._is_fatal(error):
                self._refuse(calls, error)
                return
            for call in calls:
                self._process([call])
        else:
            self._answer(outcomes, changes)  # what fails here is no reason to run again what is committed

    def _is_fatal(self, error: BaseException) -> bool:
        """True when nothing may be tried again: what a failed sync did not keep, the next one need not keep either."""
        return self.failed or (isinstance(error, DBAPIError) and is_fatal(error))

    def _commit(self, calls: list[_Call]) -> tuple[list[Outcome], Changes | None]:
        """Runs the calls in one transaction and commits it; returns what is to be answered now."""
        if self.failed:
            raise _disk_failed()
        return self._transact(calls)

    def _transact(self, calls: list[_Call]) -> tuple[list[Outcome], Changes | None]:
        retries = _RETRIES
        while True:
            committing = False
            try:
                connection = self._connected()
                with connection.begin():
                    self._database.check_clock(connection)
                    transaction = Transaction(connection, self._database.now(), self._memory)
                    if self.on_begin is not None:
                        self.on_begin(transaction)
                    outcomes = self._execute(transaction, calls)
                    committing = True
            except Exception as error:
                self._memory.clear()
                if not isinstance(error, SQLAlchemyError):
                    raise
                lost = isinstance(error, DBAPIError) and error.connection_invalidated
                if lost:
                    self._disconnect()
                retries -= 1
                if committing or not retries or not (lost or _may_retry(error)):
                    raise
            else:
                return outcomes, transaction.changes()

    def _execute(self, transaction: Transaction, calls: list[_Call]) -> list[Outcome]:
        """Runs the calls: those of one group together, at the place of its first one."""
        outcomes: list[Outcome] = []
        groups: dict[int, list[_Call]] = {}
        for call in calls:
            if call.group is not None:
                groups.setdefault(id(call.group), []).append(call)
        for call in calls:
            if call.group is None:
                assert call.function is not None
                try:
                    outcomes.append((call, call.function(transaction)))
                except HeliographError as error:
                    outcomes.append((call, error))
            elif together := groups.pop(id(call.group), None):
                values = call.group.run(transaction, [one.argument for one in together])
                outcomes.extend(zip(together, values, strict=True))
        return outcomes

    def _answer(self, outcomes: list[Outcome], changes: Changes | None) -> None:
        waiters = []
        for call, value in outcomes:
            waiter = call.pending.fail(value) if isinstance(value, HeliographError) else call.pending.settle(value)
            if waiter is not None:
                waiters.append(waiter)
        wake_all(waiters)
        if changes is not None:
            for subscriber in (*self._subscribers, self.on_commit):
                if subscriber is not None:
                    _tell(subscriber, changes)

    def _refuse(self, calls: list[_Call], error: BaseException) -> None:
        answer: BaseException = error
        if isinstance(error, DBAPIError):
            if is_fatal(error) and not self.failed:
                with self._condition:
                    self.failed = True
                _log.critical(
                    "the disk under the store failed; nothing is written until the control plane is restarted"
                )
            if self.failed:
                answer = _disk_failed()
            elif isinstance(error, IntegrityError) or not isinstance(error.orig, Exception):
                answer = InternalError("the store refused a row")
            else:
                answer = UnavailableError("the store's database did not take the change")
            # The text of a database error may quote values that users sent: only its kind is logged.
            _log.error("the store's database raised %s", type(error.orig).__name__)
        answer.__cause__ = error if answer is not error else error.__cause__
        wake_all([waiter for call in calls if (waiter := call.pending.fail(answer)) is not None])

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except SQLAlchemyError:
                self._connection.invalidate()
            self._connection = None


def _tell(subscriber: Callable[[Changes], None], changes: Changes) -> None:
    """Tells one subscriber; its failure is neither the writer's nor the other subscribers'."""
    try:
        subscriber(changes)
    except Exception:  # noqa: BLE001 - whoever it is: what is committed stands
        _log.exception("a subscriber did not take what was committed; it will find it by its slow poll")


def _disk_failed() -> UnavailableError:
    return UnavailableError("the disk under the store failed", hint="see to the disk, then restart the control plane")


def _may_retry(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and is_conflict(error)
