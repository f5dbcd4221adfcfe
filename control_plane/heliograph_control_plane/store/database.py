"""Connections to the two databases, and what differs between them.

SQLite: one file in WAL mode at `synchronous=FULL` (log lines in a second one at NORMAL), held by exactly one process
through a lock file. PostgreSQL: psycopg 3 without prepared statements or session state, so that a transaction pooler
may stand in front.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Engine, LargeBinary, Table, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from heliograph.exceptions import ConfigurationError
from heliograph_control_plane.store.errors import StoreInUseError

_BUSY_MILLIS: Final = 10_000
_CHECKPOINT_PAGES: Final = 4_000
_CLOCK_CHECK_SECONDS: Final = 30.0
_MAX_ROWS_AT_ONCE: Final = 64
_LIVENESS: Final = {
    "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000,
}  # fmt: skip
"""A PostgreSQL that vanished without a word is known in half a minute. Without these, the kernel waits for a quarter of
an hour, and every call and the end of this process with it."""


class Database:
    """One database: where it is, how connections to it are made, what time it is there."""

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        """Opens nothing yet, but takes the lock of a SQLite file.

        Args:
            url: `sqlite:///path/to/file` or `postgresql://user@host/name`.
            clock: Tells the time in microseconds, in place of this host's or the database's clock.

        Raises:
            ConfigurationError: The URL cannot be read or names another kind of database.
            StoreInUseError: Another process has the SQLite file open.
        """
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigurationError("the store's URL cannot be read", hint=_URL_HINT) from error
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigurationError(f"{backend} is no kind of store", hint=_URL_HINT)
        self.kind = backend
        self._lock: int | None = None
        self._clock = clock
        self._clock_offset = 0
        self._clock_checked = float("-inf")
        if backend == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise ConfigurationError("a SQLite store needs a file", hint=_URL_HINT)
            path = Path(parsed.database).absolute()
            self._lock = _lock_file(path)
            self.main = _sqlite_engine(path, "FULL")
            self.logs = _sqlite_engine(path.with_name(path.name + "-logs"), "NORMAL")
            self.reading = _sqlite_engine(path, "FULL", read_only=True)
            self.reading_logs = _sqlite_engine(path.with_name(path.name + "-logs"), "NORMAL", read_only=True)
        else:
            self.main = _postgresql_engine(parsed, durable=True)
            self.logs = self.main
            self.reading = self.reading_logs = _postgresql_engine(parsed, durable=False)

    def engines(self) -> tuple[Engine, ...]:
        """The databases that have a schema: one on PostgreSQL, two files on SQLite."""
        return (self.main,) if self.main is self.logs else (self.main, self.logs)

    def now(self) -> int:
        """The time in microseconds. On PostgreSQL it is the database's (`check_clock`): setting this host's clock
        changes nothing."""
        if self._clock is not None:
            return self._clock()
        if self.kind == "sqlite":
            return time.time_ns() // 1000
        return time.monotonic_ns() // 1000 + self._clock_offset

    def check_clock(self, connection: Connection) -> None:
        """Asks the database for its time, now and then. Decisions of all replicas use it."""
        if self.kind == "sqlite" or time.monotonic() - self._clock_checked < _CLOCK_CHECK_SECONDS:
            return
        before = time.monotonic_ns() // 1000
        there = connection.scalar(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"))
        after = time.monotonic_ns() // 1000
        assert there is not None
        self._clock_offset = there - (before + after) // 2
        self._clock_checked = time.monotonic()

    def dispose(self) -> None:
        """Closes pooled connections and lets go of the lock."""
        for engine in {id(e): e for e in (self.main, self.logs, self.reading, self.reading_logs)}.values():
            engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


_URL_HINT: Final = "sqlite:///path/to/heliograph.db or postgresql://user@host/name"


def _lock_file(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(path.name + ".lock")
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StoreInUseError(
            f"the database {path} is in use by another process{f' (process {holder})' if holder else ''}",
            hint="stop the other control plane, or use PostgreSQL to run several",
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _sqlite_engine(path: Path, synchronous: str, *, read_only: bool = False) -> Engine:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"check_same_thread": False, "isolation_level": None, "cached_statements": 512},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in (
            f"busy_timeout = {_BUSY_MILLIS}",
            "journal_mode = WAL",
            f"synchronous = {synchronous}",
            "foreign_keys = ON",
            "secure_delete = ON",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            "journal_size_limit = 67108864",
            "cache_size = -65536",
            "temp_store = MEMORY",
            f"query_only = {'ON' if read_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        with _hot(connection) as cursor:
            cursor.execute(begin)

    return engine


def _postgresql_engine(url: URL, *, durable: bool) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"prepare_threshold": None, "connect_timeout": 10, **_LIVENESS},
    )
    if durable:

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            with _hot(connection) as cursor:
                # The driver would send its own BEGIN by itself: this way both go in one message.
                cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on")

    return engine


# --- statements over many rows --------------------------------------------------------------------------------------

Row = tuple[Any, ...]


@contextmanager
def _hot(connection: Connection) -> Iterator[Any]:
    """A cursor of the driver: statements of the hot paths cost a third of what they cost through SQLAlchemy. Errors
    are SQLAlchemy's all the same, and tell whether the connection was lost."""
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor()
    try:
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        lost = connection.dialect.is_disconnect(error, driver, cursor)
        wrapped = DBAPIError.instance(
            None, None, error, connection.dialect.loaded_dbapi.Error, hide_parameters=True,
            connection_invalidated=lost, dialect=connection.dialect,
        )  # fmt: skip
        if lost:
            connection.invalidate()
        raise wrapped from error
    finally:
        cursor.close()


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> Callable[[Row], Any]:
    kind: Any = namedtuple("StoredRow", list(names), rename=True)  # type: ignore[misc]
    made: Callable[[Row], Any] = kind._make
    return made


def _rows(cursor: Any) -> list[Any]:
    make = _row_type(tuple(column[0] for column in cursor.description))
    return [make(row) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class BulkStatement:
    """A statement over many rows at once: one call per row inside SQLite, one over arrays on PostgreSQL.

    `marks` are an INSERT's values in `sqlite`, which then may stand there several times: a statement over some rows
    lets other threads have the interpreter once, not once a row.
    """

    sqlite: str
    postgresql: str
    marks: str = ""

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Runs it; every row is a tuple of values in the order of the columns. Returns how many rows it changed."""
        if not rows:
            return 0
        with _hot(connection) as cursor:
            if connection.dialect.name == "sqlite":
                if not self.marks or len(rows) > _MAX_ROWS_AT_ONCE:
                    cursor.executemany(self.sqlite, rows)
                    return int(cursor.rowcount)
                changed = 0
                for statement, values in self._chunks(rows):
                    changed += int(cursor.execute(statement, values).rowcount)
                return changed
            cursor.execute(self.postgresql, _columns(rows))
            return int(cursor.rowcount)

    def run_returning(self, connection: Connection, rows: Sequence[Row]) -> list[Any]:
        """Runs one that ends in RETURNING; returns what it returned, in no order."""
        if not rows:
            return []
        with _hot(connection) as cursor:
            if connection.dialect.name == "sqlite":
                chunks = self._chunks(rows) if self.marks else ((self.sqlite, row) for row in rows)
                return [found for statement, values in chunks for found in _rows(cursor.execute(statement, values))]
            cursor.execute(self.postgresql, _columns(rows))
            return _rows(cursor)

    def _chunks(self, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
        """Statements over 64, 32, … 1 rows with their values: few texts, so that each is compiled once."""
        start, size = 0, _MAX_ROWS_AT_ONCE
        while start < len(rows):
            while size > len(rows) - start:
                size //= 2
            yield _repeated(self.sqlite, self.marks, size), tuple(chain.from_iterable(rows[start : start + size]))
            start += size


@lru_cache(maxsize=256)
def _repeated(statement: str, marks: str, count: int) -> str:
    return statement.replace(marks, ", ".join([marks] * count), 1)


def _columns(rows: Sequence[Row]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


@dataclass(frozen=True, slots=True)
class Query:
    """A statement of the hot paths as text, one for each database: nothing is compiled when it runs."""

    sqlite: str
    postgresql: str

    def run(self, connection: Connection, *values: Any) -> list[Any]:
        """Runs it and returns its rows. A list is one value: an array in PostgreSQL, JSON in SQLite."""
        with _hot(connection) as cursor:
            if connection.dialect.name == "sqlite":
                cursor.execute(self.sqlite, [json.dumps(v) if isinstance(v, list) else v for v in values])
            else:
                cursor.execute(self.postgresql, values)
            return _rows(cursor)

    def run_named(self, connection: Connection, **values: Any) -> list[Any]:
        """As `run`, for a statement that names its values: `:name`, on PostgreSQL `%(name)s`."""
        with _hot(connection) as cursor:
            if connection.dialect.name == "sqlite":
                cursor.execute(
                    self.sqlite, {key: json.dumps(v) if isinstance(v, list) else v for key, v in values.items()}
                )
            else:
                cursor.execute(self.postgresql, values)
            return _rows(cursor)


def bulk_insert(table: Table, columns: Sequence[str], suffix: str = "") -> BulkStatement:
    """An INSERT of these columns; `suffix` is what follows, the same for both databases (`ON CONFLICT …`)."""
    names = ", ".join(columns)
    marks = ", ".join("?" for _ in columns)
    arrays = ", ".join(f"%s::{array_of(table, name)}" for name in columns)
    return BulkStatement(
        f"INSERT INTO {table.name} ({names}) VALUES ({marks}) {suffix}",  # noqa: S608 - made of this schema's names
        f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({arrays}) {suffix}",  # noqa: S608 - made of this schema's names
        f"({marks})",
    )


def bulk_update(table: Table, keys: Sequence[str], columns: Sequence[str], extra: str = "") -> BulkStatement:
    """An UPDATE by equal `keys`. Rows hold the new values of `columns`, then the keys; `extra` is a further
    assignment in SQL, the same for both databases."""
    changes = ", ".join(f"{name} = ?" for name in columns) + extra
    where = " AND ".join(f"{name} = ?" for name in keys)
    arrays = ", ".join(f"%s::{array_of(table, name)}" for name in (*columns, *keys))
    names = ", ".join([*(f"c_{name}" for name in columns), *(f"k_{name}" for name in keys)])
    pg_changes = ", ".join(f"{name} = v.c_{name}" for name in columns) + extra
    pg_where = " AND ".join(f"t.{name} = v.k_{name}" for name in keys)
    return BulkStatement(
        f"UPDATE {table.name} SET {changes} WHERE {where}",  # noqa: S608 - made of this schema's names
        f"UPDATE {table.name} AS t SET {pg_changes} FROM unnest({arrays}) AS v({names}) WHERE {pg_where}",  # noqa: S608 - as above
    )


def array_of(table: Table, column: str) -> str:
    """The PostgreSQL type of an array of a column's values."""
    kind = table.c[column].type
    if isinstance(kind, BigInteger):
        return "bigint[]"
    return "bytea[]" if isinstance(kind, LargeBinary) else "text[]"


# --- what went wrong ------------------------------------------------------------------------------------------------


def is_conflict(error: DBAPIError) -> bool:
    """True when a transaction lost to another and may simply be run again: deadlocks, serialisation failures, and rows
    that another control plane made first, which are found there the next time."""
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01", "23505")


def is_fatal(error: DBAPIError) -> bool:
    """True when the disk under SQLite failed: what was synced is unknown, so nothing may be acknowledged any more."""
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB"))
