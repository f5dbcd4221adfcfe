"""Log lines, in compressed chunks.

A writer is (run, epoch) with rising sequences, so that a line is stored once however often it is sent. Lines that wait
for one commit share a chunk per writer. On SQLite they have a file of their own, whose last commits a power failure may
take; the missing sequences show.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, select, tuple_

from heliograph.exceptions import HeliographError, InvalidArgumentError
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Row, bulk_insert
from heliograph_control_plane.store.paging import decode_token, encode_token
from heliograph_control_plane.store.records import LogAck, LogLine, LogPage
from heliograph_control_plane.store.writer import GroupOperation, Transaction

_c = schema.log_chunks.c
_w = schema.log_writers.c

CHUNK_LINES: Final = 500
"""Most lines in one chunk."""
QUOTA_BYTES: Final = 256 * 1024 * 1024
"""Most text of one writer, uncompressed; lines beyond are refused and counted."""
_LINE_OVERHEAD: Final = 32
_UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, zlib.error)

_ADD_CHUNKS = bulk_insert(
    schema.log_chunks,
    (
        "run_uuid", "epoch", "first_sequence", "last_sequence", "line_count", "max_level", "store_micros",
        "data",
    ),
)  # fmt: skip
_PUT_WRITERS = bulk_insert(
    schema.log_writers,
    ("run_uuid", "epoch", "last_sequence", "stored_bytes"),
    "ON CONFLICT (run_uuid, epoch) DO UPDATE SET last_sequence = excluded.last_sequence,"
    " stored_bytes = excluded.stored_bytes",
)
_MEET_WRITERS = bulk_insert(
    schema.log_writers, ("run_uuid", "epoch", "last_sequence", "stored_bytes"), "ON CONFLICT DO NOTHING"
)

LogWrite = tuple[str, int, tuple[LogLine, ...]]
"""Run id, epoch, lines."""


class LogStore:
    """Writes lines, up to a quota."""

    def __init__(self, quota_bytes: int = QUOTA_BYTES) -> None:
        self.quota_bytes = quota_bytes
        self.operation: GroupOperation[LogWrite, LogAck] = GroupOperation(self.write)

    def write(self, tx: Transaction, writes: list[LogWrite]) -> list[LogAck | HeliographError]:
        """Stores lines that are new."""
        writers = {(run, epoch): [0, 0] for run, epoch, _ in writes}
        writers |= _writers(tx, writers)
        if tx.locking and (new := sorted(key for key, (last, _) in writers.items() if not last)):
            # There must be a row to lock: the first lines of a writer may come to two control planes at once.
            _MEET_WRITERS.run(tx.connection, [(*key, 0, 0) for key in new])
            writers |= _writers(tx, new)
        fresh: dict[tuple[str, int], list[LogLine]] = {}
        answers: list[LogAck | HeliographError] = []
        for run, epoch, lines in writes:
            writer = writers[run, epoch]
            accepted = fresh.setdefault((run, epoch), [])
            answers.append(self._accept(writer, lines, accepted))
        chunks: list[Row] = []
        for (run, epoch), lines_of in fresh.items():
            chunks.extend(
                _chunk(run, epoch, lines_of[start : start + CHUNK_LINES], tx.now)
                for start in range(0, len(lines_of), CHUNK_LINES)
            )
            if lines_of:
                tx.logs.add(run)
        _ADD_CHUNKS.run(tx.connection, chunks)
        _PUT_WRITERS.run(tx.connection, [(*key, *writers[key]) for key in sorted(writers) if writers[key][0]])
        return answers

    def _accept(
        self, writer: list[int], lines: tuple[LogLine, ...], accepted: list[LogLine]
    ) -> LogAck | HeliographError:
        sequences = [line.sequence for line in lines]
        if any(b <= a for a, b in zip([0, *sequences], sequences, strict=False)) or sequences[-1:] > [1 << 62]:
            return InvalidArgumentError("log lines are not in rising sequence")
        refused = 0
        for line in lines:
            if line.sequence <= writer[0]:
                continue
            # Told by the numbers alone: a writer that sends again what was stored, with other lines lost since, could
            # only guess.
            dropped = line.sequence - writer[0] - 1
            size = len(line.message) + len(line.logger) + _LINE_OVERHEAD
            if writer[1] + size > self.quota_bytes:
                refused += 1
            else:
                writer[1] += size
                accepted.append(line._replace(dropped_before=dropped))
            writer[0] = line.sequence
        return LogAck(writer[0], refused)


def _writers(tx: Transaction, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], list[int]]:
    """Returns, of the writers that are known, the last sequence and the bytes that are stored."""
    query = (
        select(_w.run_uuid, _w.epoch, _w.last_sequence, _w.stored_bytes)
        .where(tuple_(_w.run_uuid, _w.epoch).in_(sorted(keys)))
        .order_by(_w.run_uuid, _w.epoch)
    )
    rows = tx.connection.execute(query.with_for_update() if tx.locking else query)
    return {(run, epoch): [last, stored] for run, epoch, last, stored in rows}


def _chunk(run: str, epoch: int, lines: list[LogLine], now: int) -> Row:
    data = zlib.compress(json.dumps([line[:8] for line in lines], separators=(",", ":")).encode(), 3)
    return (
        run, epoch, lines[0].sequence, lines[-1].sequence, len(lines), max(line.level for line in lines), now,
        data,
    )  # fmt: skip


def read_lines(
    connection: Connection, run_id: str, cursor: str, limit: int, min_level: int, after_micros: int
) -> LogPage:
    """Reads lines in the order of their arrival."""
    chunk_id, offset = decode_token(cursor, int, int) or (0, 0)
    query = (
        select(_c.id, _c.epoch, _c.line_count, _c.data)
        .where(_c.run_uuid == run_id, _c.id >= chunk_id, _c.max_level >= min_level)
        .order_by(_c.id)
    )
    if after_micros:
        query = query.where(_c.store_micros > after_micros)
    lines: list[LogLine] = []
    # Lines of chunks that cannot be read, and the first of these chunks: told with the next line, as lost.
    lost, lost_from = 0, 0
    while True:
        rows = connection.execute(query.where(_c.id >= chunk_id).limit(20)).all()
        for row in rows:
            start = offset if row.id == chunk_id else 0
            stored = _lines_of(row, start)
            if stored is None:
                lost, lost_from = lost + row.line_count, lost_from or row.id
                chunk_id, offset = row.id, 0
                continue
            for index, line in enumerate(stored, start):
                if line.level < min_level:
                    continue
                if len(lines) == limit:
                    place = (lost_from, 0) if lost else (row.id, index)
                    return LogPage(tuple(lines), encode_token(*place), more=True)
                lines.append(line._replace(epoch=row.epoch, dropped_before=line.dropped_before + lost))
                lost, lost_from = 0, 0
            chunk_id, offset = row.id, start + len(stored)
        if len(rows) < 20:
            place = (lost_from, 0) if lost else (chunk_id, offset)
            return LogPage(tuple(lines), encode_token(*place), more=False)
        chunk_id, offset = chunk_id + 1, 0


def _lines_of(row: Any, start: int) -> list[LogLine] | None:
    """Returns a chunk's lines from `start` on; None when it cannot be read."""
    try:
        return [LogLine(*line) for line in json.loads(zlib.decompress(row.data))[start:]]
    except _UNREADABLE as error:
        tell_damage("log_chunk", str(row.id), error)
        return None
