"""Power that goes off at any moment, played back from the record of a real process.

What a process had synced is on the disk. Of what it had only written, each sector of 512 bytes is there or not, as it
comes. A sync that failed keeps as little, and what it did not keep is never tried again by the kernel.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.disk import Change, Kind

SECTOR = 512
_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def lose(self, chance: random.Random) -> bytearray:
        """Returns what is left when the power goes off."""
        left, share = bytearray(self.durable), chance.choice(_SHARES)
        for change in self.pending:
            if change.kind is Kind.TRUNCATE:
                if chance.random() < share:
                    _apply(left, change)
                continue
            for part in _sectors(change):
                if chance.random() < share:
                    _apply(left, part)
        return left


def _apply(data: bytearray, change: Change) -> None:
    if change.kind is Kind.TRUNCATE:
        del data[change.length :]
        data.extend(bytes(change.length - len(data)))
        return
    if len(data) < change.offset:
        data.extend(bytes(change.offset - len(data)))
    data[change.offset : change.offset + change.length] = change.data


def _sectors(change: Change) -> Iterator[Change]:
    start, end = change.offset, change.offset + change.length
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        data = change.data[start - change.offset : stop - change.offset]
        yield Change(Kind.WRITE, change.file, start, stop - start, data)
        start = stop


@dataclass(frozen=True, slots=True)
class Crash:
    """One moment at which the power went off.

    Attributes:
        at: How many changes had been made.
        files: What is left of each file.
        acked: What had been acknowledged: the newest number for each kind and run, or 1.
    """

    at: int
    files: dict[str, bytearray]
    acked: dict[tuple[str, str], int]

    def restore(self, folder: Path) -> None:
        """Writes what is left into a folder, in place of what is there."""
        for old in folder.iterdir():
            old.unlink()
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def crashes(changes: Sequence[Change], points: Iterable[int], seed: int) -> Iterator[Crash]:
    """Lets the power go off at each of these points."""
    files: dict[str, _File] = defaultdict(_File)
    acked: dict[tuple[str, str], int] = {}
    chance, at = random.Random(seed), 0
    for point in sorted(points):
        for change in changes[at:point]:
            _happen(files, acked, change, chance)
        at = point
        left = {name: file.lose(chance) for name, file in files.items()}
        yield Crash(point, left, dict(acked))


def _happen(files: dict[str, _File], acked: dict[tuple[str, str], int], change: Change, chance: random.Random) -> None:
    name = change.file
    if name == "acks":
        if change.kind is Kind.WRITE:
            kind, run, *number = json.loads(change.data)
            acked[kind, run] = max(acked.get((kind, run), 0), number[0] if number else 1)
        return
    if not name.startswith("main.db") or name.endswith(("-shm", ".lock")):
        return  # the shared memory is made anew, and folders are not asked for
    if change.kind is Kind.UNLINK:
        files.pop(name, None)
    elif change.kind is Kind.SYNC:
        files[name].sync()
    elif change.kind is Kind.FAILED_SYNC:
        files[name].durable = files[name].lose(chance)
        files[name].pending.clear()
    else:
        files[name].pending.append(change)


@dataclass(slots=True)
class Losses:
    """What was found after all crashes.

    Attributes:
        points: How many crashes.
        lost: Crashes after which something acknowledged was missing from the main store.
        corrupt: Crashes after which a file of the main store was no sound database.
        corrupt_logs: The same for the file of log lines.
        most_lines: Most acknowledged log lines that were missing after one crash.
        with_lines: Crashes after which log lines were missing.
    """

    points: int = 0
    lost: int = 0
    corrupt: int = 0
    corrupt_logs: int = 0
    most_lines: int = 0
    with_lines: int = 0

    def __str__(self) -> str:
        return (
            f"{self.points:,} power losses: {self.lost:,} lost what was acknowledged, {self.corrupt:,} corrupt; log"
            f" lines: {self.corrupt_logs:,} corrupt, {self.with_lines:,} lost up to {self.most_lines}"
        )


def examine(crash: Crash, folder: Path, losses: Losses) -> None:
    """Opens what a crash left, and compares it with what had been acknowledged."""
    crash.restore(folder)
    losses.points += 1
    try:
        missing = _missing(folder / "main.db", crash.acked)
    except sqlite3.DatabaseError:
        losses.corrupt += 1
    else:
        losses.lost += bool(missing)
    try:
        lines = missing_lines(folder / "main.db-logs", crash.acked)
    except sqlite3.DatabaseError:
        losses.corrupt_logs += 1
    else:
        losses.most_lines = max(losses.most_lines, lines)
        losses.with_lines += bool(lines)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        connection.close()
        raise sqlite3.DatabaseError(verdict)
    return connection


def _missing(path: Path, acked: dict[tuple[str, str], int]) -> list[Any]:
    """Returns what was acknowledged and is not there."""
    wanted = {key: number for key, number in acked.items() if key[0] != "lines"}
    connection = _open(path)
    try:
        if not wanted:
            return []
        known = {
            run: (last, events)
            for run, last, events in connection.execute(
                "SELECT uuid, last_sequence, (SELECT count(*) FROM task_run_states s WHERE s.run_id = r.id)"
                " FROM flow_runs r"
            )
        }
    finally:
        connection.close()
    missing = []
    for (kind, run), number in wanted.items():
        last, events = known.get(run, (-1, -1))
        if last < 0 or (kind == "events" and (last < number or events != last)):
            missing.append((kind, run, number, last, events))
    return missing


def missing_lines(path: Path, acked: dict[tuple[str, str], int]) -> int:
    """Returns how many acknowledged log lines are not there."""
    wanted = {run: number for (kind, run), number in acked.items() if kind == "lines"}
    connection = _open(path)
    try:
        if not wanted:
            return 0
        known = dict(connection.execute("SELECT run_uuid, sum(line_count) FROM log_chunks GROUP BY run_uuid"))
    finally:
        connection.close()
    return sum(max(0, number - known.get(run, 0)) for run, number in wanted.items())
