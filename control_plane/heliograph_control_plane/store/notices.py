"""Hints between control planes that share a PostgreSQL: NOTIFY by one thread, LISTEN by another.

What a commit changed is merged and sent at most once in `INTERVAL_SECONDS`, never per commit and never inside the
commit itself. Hints may be lost (a broken connection, a transaction pooler that swallows LISTEN, more changes than
fit): whoever waits for them also looks by itself now and then.

A pooler in front of PostgreSQL hands out a different session for each transaction: LISTEN would be heard by nobody, and
would stay behind in a session that others get. It is recognised, and nothing is listened to.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from heliograph_control_plane.store.pending import join_threads
from heliograph_control_plane.store.records import Changes, Requirement, Upcoming

CHANNEL: Final = "heliograph"
INTERVAL_SECONDS: Final = 0.01
"""Least time between two notices."""
MAX_IDS: Final = 60
"""Ids of one kind in a notice: PostgreSQL takes 8,000 bytes."""
MAX_READY: Final = 2
MAX_WAITING: Final = 5_000
"""Ids of one kind that wait to be sent; beyond it they are forgotten."""
_MAX_PAYLOAD_BYTES: Final = 7_900
_RECONNECT_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class _Outgoing:
    """Changes that were not sent yet, merged."""

    def __init__(self) -> None:
        self.ids: dict[str, dict[str, None]] = {"runs": {}, "tasks": {}, "logs": {}}
        self.ready: dict[Requirement, int] = {}
        self.flags: set[str] = set()

    def __bool__(self) -> bool:
        return any(self.ids.values()) or bool(self.ready) or bool(self.flags)

    def add(self, changes: Changes) -> None:
        for kind, found in (("runs", changes.runs), ("tasks", changes.tasks), ("logs", changes.logs)):
            waiting = self.ids[kind]
            if len(waiting) < MAX_WAITING:
                waiting.update(dict.fromkeys(found))
        for upcoming in changes.ready:
            known = self.ready.get(upcoming.requirement, upcoming.ready_micros)
            self.ready[upcoming.requirement] = min(known, upcoming.ready_micros)
        self.flags.update(name for name in ("tokens", "schedules") if getattr(changes, name))

    def take(self, sender: str) -> str:
        """Removes what fits into one notice, and returns its text."""
        message: dict[str, Any] = {"from": sender}
        for kind, waiting in self.ids.items():
            message[kind] = [waiting.popitem()[0] for _ in range(min(len(waiting), MAX_IDS))]
        taken = [self.ready.popitem() for _ in range(min(len(self.ready), MAX_READY))]
        message["ready"] = [
            [needed.project, needed.launcher, needed.host, list(needed.labels), at] for needed, at in taken
        ]
        message["flags"] = sorted(self.flags)
        self.flags.clear()
        encoded = json.dumps({key: value for key, value in message.items() if value}, ensure_ascii=False)
        if len(encoded.encode()) > _MAX_PAYLOAD_BYTES:
            del message["ready"]  # labels of uncommon length: the slow poll finds these runs
            encoded = json.dumps({key: value for key, value in message.items() if value})
        return encoded


def read_notice(payload: str, own: str) -> Changes | None:
    """Reads a notice; None for one of this control plane's own, or of another version's that cannot be read."""
    try:
        message = json.loads(payload)
        if message["from"] == own:
            return None
        flags = message.get("flags", ())
        return Changes(
            frozenset(map(str, message.get("runs", ()))),
            frozenset(map(str, message.get("tasks", ()))),
            frozenset(map(str, message.get("logs", ()))),
            tuple(
                Upcoming(Requirement(str(project), str(launcher), str(host), tuple(map(str, labels))), int(at))
                for project, launcher, host, labels, at in message.get("ready", ())
            ),
            "tokens" in flags,
            "schedules" in flags,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


class Notices:
    """Sends this control plane's changes to the others, and calls `deliver` with theirs."""

    def __init__(self, engine: Engine, deliver: Callable[[Changes], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._own = uuid.uuid4().hex
        self._condition = threading.Condition()
        self._outgoing = _Outgoing()
        self._closing = threading.Event()
        self._stop_reading, self._stop_writing = os.pipe()
        self.listening = threading.Event()
        self.pooled = threading.Event()
        self.sent = 0
        self._threads = [
            threading.Thread(target=self._send_all, name="store-notify", daemon=True),
            threading.Thread(target=self._listen_always, name="store-listen", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def publish(self, changes: Changes) -> None:
        """Queues what a commit changed. Never waits for the database."""
        with self._condition:
            self._outgoing.add(changes)
            self._condition.notify()

    def close(self) -> None:
        """Sends what waits and ends the threads."""
        with self._condition:
            self._closing.set()
            self._condition.notify()
        os.write(self._stop_writing, b"x")
        if join_threads(self._threads):
            os.close(self._stop_reading)
            os.close(self._stop_writing)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        connection: Connection | None = None
        while True:
            with self._condition:
                while not self._outgoing and not self._closing.is_set():
                    self._condition.wait()
                if not self._outgoing:
                    break
                payload = self._outgoing.take(self._own)
            try:
                if connection is None:
                    connection = self._engine.connect()
                connection.execute(
                    text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload}
                )
                self.sent += 1
            except SQLAlchemyError as error:
                _log.warning("other control planes cannot be told of changes: %s", type(error).__name__)
                _drop(connection)
                connection = None
                if self._closing.wait(_RECONNECT_SECONDS):
                    break
            self._closing.wait(INTERVAL_SECONDS)
        _drop(connection)

    # --- listening --------------------------------------------------------------------------------------------------

    def _listen_always(self) -> None:
        while not self._closing.is_set():
            connection: Connection | None = None
            try:
                connection = self._engine.connect()
                self._listen(connection)
            except (SQLAlchemyError, OSError) as error:
                _log.warning("changes of other control planes are not heard of: %s", type(error).__name__)
            except _driver_error(self._engine) as error:
                _log.warning("changes of other control planes are not heard of: %s", type(error).__name__)
            finally:
                self.listening.clear()
                _drop(connection)
            self._closing.wait(_RECONNECT_SECONDS)

    def _listen(self, connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        if _is_pooled(driver):
            if not self.pooled.is_set():
                _log.warning(
                    "a connection pooler stands in front of the database: changes of other control planes are found by "
                    "looking, within some seconds"
                )
            self.pooled.set()
            self._closing.wait()
            return
        driver.execute(f"LISTEN {CHANNEL}")
        self.listening.set()
        while not self._closing.is_set():
            readable, _, _ = select.select([driver.fileno(), self._stop_reading], [], [])
            if self._stop_reading in readable:
                return
            for notice in driver.notifies(timeout=0):
                if (changes := read_notice(notice.payload, self._own)) is not None:
                    self._deliver(changes)


def _is_pooled(driver: Any) -> bool:
    """True when the session that answers is not the one that was connected to: a pooler names a process of its own."""
    row = driver.execute("SELECT pg_backend_pid()").fetchone()
    return bool(row[0] != driver.info.backend_pid)


def _driver_error(engine: Engine) -> type[Exception]:
    error: type[Exception] = engine.dialect.loaded_dbapi.Error
    return error


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(SQLAlchemyError):
            connection.invalidate()
        with suppress(SQLAlchemyError):
            connection.close()
