"""Everything of a control plane in which a user's text could be found, each as places with the bytes that are there."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
from tests.support.canary import Canaries
from tests.support.tap import Tap
from tests.support.wire import said_in

Hits = dict[str, set[str]]
"""Slot to the places in which its canary was found."""

_PIECE = 4 << 20
_OVERLAP = 256


def hits(canaries: Canaries, places: Iterable[tuple[str, bytes]]) -> Hits:
    """Returns which slots are found where."""
    gathered: dict[str, list[bytes]] = {}
    for place, data in places:
        gathered.setdefault(place, []).append(data)
    found: Hits = {}
    for place, pieces in gathered.items():
        # Texts of one place are looked at together: where to look in many small ones costs more than the looking.
        for slot in canaries.found_in([b"\0".join(pieces)]):
            found.setdefault(slot, set()).add(place)
    return found


def messages(tap: Tap) -> Iterator[tuple[str, bytes]]:
    """Every text of every message and header, by the field or header that it is in."""
    for there, back in tap.connections():
        for said in said_in(there, back):
            yield said.place, said.text


def wire(tap: Tap) -> Iterator[tuple[str, bytes]]:
    """The bytes of all connections, as they went."""
    for stream in tap.recorded():
        yield "wire", stream


def dump(database: str, data: Path) -> Iterator[tuple[str, bytes]]:
    """Every cell of every table, by table and column."""
    if database:
        with psycopg.connect(database) as connection:
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in names:
                cursor = connection.execute(f'SELECT * FROM "{table}"'.encode())
                columns = [column.name for column in cursor.description or ()]
                yield from _cells(table, columns, cursor.fetchall())
        return
    for file in sorted(data.iterdir()):
        if not _is_sqlite(file):
            continue
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in names:
                rows = connection.execute(f'SELECT * FROM "{table}"')
                yield from _cells(table, [column[0] for column in rows.description], rows.fetchall())


def _cells(table: str, columns: list[str], rows: list[tuple[object, ...]]) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            if isinstance(value, str | bytes):
                yield f"{table}.{column}", value.encode() if isinstance(value, str) else value


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(16) == b"SQLite format 3\0"


def database_files(database: str, data: Path, cluster: Path | None) -> Iterator[tuple[str, bytes]]:
    """The database as it is on the disk, with its journals, whatever is in there."""
    if cluster is None:
        for file in data.glob("*.db*"):
            yield "database files", file.read_bytes()
        return
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    for folder in (cluster / "data" / "base" / str(row[0]), cluster / "data" / "pg_wal"):
        for file in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a segment that was recycled meanwhile
                if file.is_file():
                    yield "database files", file.read_bytes()


def other_files(data: Path, *more: Path) -> Iterator[tuple[str, bytes]]:
    """Whatever else the control plane has written: tokens, files that were set aside, what a crash left."""
    for file in [*data.rglob("*"), *more]:
        if file.is_file() and ".db" not in file.name:
            yield "other files", file.name.encode() + b"\n" + file.read_bytes()


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """The memory of a living process, arguments and environment too.

    Read are all mappings that it may write, heap, stacks and anonymous ones, as they are at this moment; not read are
    what it may only read (programs and libraries) and what of it the kernel holds (socket buffers).
    """
    yield "memory", b"\0".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            first, end = (int(bound, 16) for bound in bounds.split("-"))
            for start in range(first, end, _PIECE):
                file.seek(start)
                # What a thread frees meanwhile is gone: there is nothing in it then.
                with contextlib.suppress(OSError):
                    piece = file.read(min(_PIECE + _OVERLAP, end - start))
                    if piece.strip(b"\0"):
                        yield "memory", piece
