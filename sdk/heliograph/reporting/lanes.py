"""A lane: numbered records in segment files of one folder, written by one process and read by another.

`states-0000000000000001.seg` holds records from sequence 1 on; the next segment bears the next sequence in its name.
The position of a record is its sequence, so nothing else is stored. The writer appends and starts new segments; the
reader follows and removes what was acknowledged. The log lane's writer also removes the oldest segments when the lane
is full, and the reader learns from the names how many records went.

A damaged stretch with whole records behind it counts as one record that is missing, for readers and writers alike; the
name of the next segment puts right what it was more than one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from heliograph.reporting.records import HEADER_BYTES, MAX_PAYLOAD_BYTES, record, resume, scan

_NEVER = 2**63
_READ_BYTES = 256 * 1024
_WHOLE_RECORD_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True)
class Lane:
    """One kind of records.

    Attributes:
        name: Start of its files' names.
        segment_bytes: Size from which a new segment is started.
        cap_bytes: Most bytes that the lane may take on disk.
    """

    name: str
    segment_bytes: int
    cap_bytes: int


STATES = Lane("states", 4 * 1024 * 1024, 1024 * 1024 * 1024)
"""Run events. Never dropped: a full lane stops new tasks."""

LOGS = Lane("logs", 2 * 1024 * 1024, 64 * 1024 * 1024)
"""Log lines. The oldest are dropped and counted when the lane is full."""


def segments(folder: Path, lane: Lane) -> list[tuple[int, Path]]:
    """Returns the lane's segments as (first sequence, path), in order."""
    prefix, found = f"{lane.name}-", []
    for entry in os.scandir(folder):
        if entry.name.startswith(prefix) and entry.name.endswith(".seg"):
            number = entry.name[len(prefix) : -len(".seg")]
            if number.isdecimal():
                found.append((int(number), Path(entry.path)))
    return sorted(found)


def _segment_path(folder: Path, lane: Lane, first_sequence: int) -> Path:
    return folder / f"{lane.name}-{first_sequence:016d}.seg"


class LaneLostError(Exception):
    """The lane's file descriptor is not its file's any more: somebody closed it, and may have another file under it."""


class LaneWriter:
    """Appends records. One process and one thread at a time.

    A lane that has segments is continued behind its last whole record; a torn tail is cut off first.

    Attributes:
        next_sequence: Sequence of the next record.
    """

    def __init__(self, folder: Path, lane: Lane) -> None:
        self._folder, self._lane = folder, lane
        self._descriptor = -1
        self._identity = (0, 0)
        self._interrupted = False
        existing = segments(folder, lane)
        if existing:
            first, path = existing[-1]
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._identity = identity_of(self._descriptor)
            self._segment_first = first
            self._find_end()
        else:
            self.next_sequence = 1
            self._start_segment()

    def append(self, payloads: list[bytes]) -> None:
        """Writes the records with one call, so that a reader soon sees all of them.

        Raises:
            OSError: The disk is full or fails. `next_sequence` says which records are in the file all the same: a
                reader may have them already, so they stay. The others can be tried again.
            LaneLostError: The file was closed by somebody else. Nothing was written.
        """
        if not payloads:
            return
        if self._interrupted:
            self._assert_mine()
            self._find_end()
        try:
            # Another file's position is another one, and this costs a fraction of asking which file it is.
            if not self._size or os.lseek(self._descriptor, 0, os.SEEK_CUR) != self._size:
                self._assert_mine()
        except OSError:
            self._assert_mine()
        if self._size >= self._lane.segment_bytes:
            self._start_segment()
        data = record(payloads[0]) if len(payloads) == 1 else b"".join(map(record, payloads))
        written = 0
        self._interrupted = True  # an exception of a signal handler may come anywhere
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:] if written else data)
        except OSError:
            self._keep_whole(payloads, written)
            self._interrupted = False
            raise
        self._size += len(data)
        self.next_sequence += len(payloads)
        self._interrupted = False

    def _assert_mine(self) -> None:
        if identity_of(self._descriptor) != self._identity:
            raise LaneLostError("the code of the flow closed file descriptors that are not its own")

    def _find_end(self) -> None:
        """Counts the records of the newest segment, and cuts off its torn tail."""
        survey = _survey(_read_all(self._descriptor))
        self._size = survey.size
        self.next_sequence = self._segment_first + survey.count
        os.ftruncate(self._descriptor, self._size)
        os.lseek(self._descriptor, self._size, os.SEEK_SET)
        self._interrupted = False

    def _keep_whole(self, payloads: list[bytes], written: int) -> None:
        """Cuts off the record that was begun last, after `written` bytes of the batch went out."""
        for payload in payloads:
            length = HEADER_BYTES + len(payload)
            if length > written:
                break
            written -= length
            self._size += length
            self.next_sequence += 1
        os.ftruncate(self._descriptor, self._size)
        os.lseek(self._descriptor, self._size, os.SEEK_SET)

    def bytes_on_disk(self) -> int:
        """Returns how much of the disk the lane takes now."""
        total = 0
        for _, path in segments(self._folder, self._lane):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # the reader removed it meanwhile
                continue
        return total

    def drop_oldest(self) -> None:
        """Removes oldest segments, never the current one, until the lane is within its cap."""
        excess = self.bytes_on_disk() - self._lane.cap_bytes
        for _, path in segments(self._folder, self._lane)[:-1]:
            if excess <= 0:
                return
            try:
                excess -= path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue

    @property
    def at_segment_end(self) -> bool:
        """True when the next append starts a segment: the moment to look at the lane's size."""
        return self._size >= self._lane.segment_bytes

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _start_segment(self) -> None:
        path = _segment_path(self._folder, self._lane, self.next_sequence)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.close()
        self._descriptor, self._size, self._segment_first = descriptor, 0, self.next_sequence
        self._identity = identity_of(descriptor)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records that were read.

    Attributes:
        first_sequence: Sequence of the first payload; what lies between the one before and it is gone.
        payloads: The payloads, in order; empty when there is nothing new.
    """

    first_sequence: int
    payloads: list[bytes]


class LaneReader:
    """Follows a lane that another process writes. One thread at a time.

    Attributes:
        next_sequence: Sequence of the next record to read.
        more: True when the last `read` did not come to the end of what was there.
    """

    def __init__(self, folder: Path, lane: Lane) -> None:
        self._folder, self._lane = folder, lane
        self._descriptor = -1
        self._segment_first = 0
        self.more = False
        self._offset = 0
        self._trim_at = 0
        self._stuck = False
        self.next_sequence = 1

    def read(self, max_records: int, max_bytes: int) -> Chunk:
        """Returns the next records, as many as are there and the limits allow. Never waits."""
        if self._descriptor < 0 and not self._open_at(self.next_sequence):
            return Chunk(self.next_sequence, [])
        while True:
            payloads = self._take(max_records, max_bytes)
            if not payloads:
                successor = self._successor()
                if successor is None:
                    return Chunk(self.next_sequence, [])
                # The writer may have written more between the read above and the start of the next segment.
                payloads = self._take(max_records, max_bytes)
                if not payloads:
                    self._open(*successor)
                    continue
            return Chunk(self.next_sequence - len(payloads), payloads)

    def seek(self, sequence: int) -> int:
        """Makes `sequence` the next to be read, or the first one after it that is still there.

        Returns:
            The sequence that will be read next.
        """
        if sequence != self.next_sequence or self._descriptor < 0:
            self.close()
            self._open_at(sequence)
        return self.next_sequence

    def trim(self, acked_sequence: int) -> None:
        """Removes the segments of which every record is acknowledged, never the newest one."""
        if acked_sequence + 1 < self._trim_at:
            return
        self._trim_at = _NEVER
        existing = segments(self._folder, self._lane)
        for (_, path), (next_first, _) in pairwise(existing):
            if next_first > acked_sequence + 1:
                self._trim_at = next_first
                return
            path.unlink(missing_ok=True)

    def last(self) -> tuple[int, bytes] | None:
        """Returns sequence and payload of the newest record, or None for an empty lane. Does not move the reader."""
        for first, path in reversed(segments(self._folder, self._lane)):
            survey = _survey(path.read_bytes())
            if survey.count:
                return first + survey.count - 1, survey.last
        return None

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, max_records: int, max_bytes: int) -> list[bytes]:
        data = os.pread(self._descriptor, _READ_BYTES, self._offset)
        payloads, used = scan(data, max_records, max_bytes)
        if not payloads and len(data) == _READ_BYTES:
            data = os.pread(self._descriptor, _WHOLE_RECORD_BYTES, self._offset)
            payloads, used = scan(data, max_records, max_bytes)
        if not payloads and (damaged := resume(data)):
            self.next_sequence += 1
            payloads, used = scan(data[damaged:], max_records - 1, max_bytes)
            used += damaged
        self._offset += used
        self._stuck = not used and bool(data)
        self.more = used < len(data) or len(data) >= _READ_BYTES or self._offset >= self._lane.segment_bytes
        self.next_sequence += len(payloads)
        return payloads

    def _successor(self) -> tuple[int, Path] | None:
        if self._offset < self._lane.segment_bytes and not self._stuck:
            return None
        return next((found for found in segments(self._folder, self._lane) if found[0] > self._segment_first), None)

    def _open(self, first_sequence: int, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close()
        self._descriptor, self._segment_first, self._offset = descriptor, first_sequence, 0
        self._trim_at = min(self._trim_at, first_sequence)
        self.next_sequence = first_sequence

    def _open_at(self, sequence: int) -> bool:
        self.next_sequence = sequence
        existing = segments(self._folder, self._lane)
        if not existing:
            return False
        before = [found for found in existing if found[0] <= sequence]
        self._open(*(before[-1] if before else existing[0]))
        while self.next_sequence < sequence:
            at = self.next_sequence
            self._take(min(sequence - at, 10_000), _READ_BYTES)
            if self.next_sequence == at:
                successor = self._successor()
                if successor is None:
                    break
                self._open(*successor)
        return True


def identity_of(descriptor: int) -> tuple[int, int]:
    """Returns which file a descriptor is of; (0, 0) for a closed one."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class _Survey:
    """How many records a segment has, damaged ones among them, where the last whole one ends, and that one."""

    count: int
    size: int
    last: bytes


def _survey(data: bytes) -> _Survey:
    count = size = 0
    last = b""
    while True:
        payloads, used = scan(data[size:], len(data), len(data))
        count, size = count + len(payloads), size + used
        last = payloads[-1] if payloads else last
        damaged = resume(data[size:])
        if not damaged:
            return _Survey(count, size, last)
        count, size = count + 1, size + damaged


def _read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
