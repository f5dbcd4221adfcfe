"""Damaged records in the middle of a lane: reported as missing, passed over, and never the end of the reading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.reporting.lanes import STATES, Lane, LaneReader, LaneWriter, segments
from heliograph.reporting.records import HEADER_BYTES, record, resume

SMALL = Lane("states", segment_bytes=400, cap_bytes=10_000)
PAYLOADS = [f"record {number:06d}".encode() for number in range(1, 101)]
SIZE = HEADER_BYTES + len(PAYLOADS[0])


def written(folder: Path) -> LaneWriter:
    """Writes a hundred records of one length, one by one, over several segments."""
    writer = LaneWriter(folder, SMALL)
    for payload in PAYLOADS:
        writer.append([payload])
    return writer


def damage(path: Path, offset: int, data: bytes) -> None:
    """Overwrites a part of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def read_all(reader: LaneReader) -> tuple[dict[int, bytes], int]:
    """Returns all records by their sequence, and how many numbers between them were passed over."""
    found: dict[int, bytes] = {}
    missing, at = 0, reader.next_sequence
    while (chunk := reader.read(7, 1000)).payloads:
        missing += chunk.first_sequence - at
        at = chunk.first_sequence + len(chunk.payloads)
        found.update(enumerate(chunk.payloads, chunk.first_sequence))
    return found, missing


@pytest.mark.parametrize("place", ["payload", "length", "header", "whole"])
@pytest.mark.parametrize("number", [1, 3, 17, 18, 60])
def test_one_damaged_record_is_one_that_is_missing(tmp_path: Path, place: str, number: int) -> None:
    written(tmp_path)
    first, path = [found for found in segments(tmp_path, SMALL) if found[0] <= number][-1]
    start = (number - first) * SIZE
    spoilt = {
        "payload": (start + HEADER_BYTES, b"\xff"), "length": (start, b"\xff\xff\xff\xff"),
        "header": (start, bytes(HEADER_BYTES)), "whole": (start, bytes(SIZE)),
    }[place]  # fmt: skip
    damage(path, *spoilt)
    reader = LaneReader(tmp_path, SMALL)
    found, missing = read_all(reader)
    assert missing == 1
    assert found == {n: payload for n, payload in enumerate(PAYLOADS, 1) if n != number}
    assert reader.seek(number) == number
    again, missing = read_all(reader)
    assert (min(again), missing) == (number + 1, 1)
    assert reader.seek(number + 1) == number + 1
    assert read_all(reader)[1] == 0, "what lies before the place is not told as missing there"


@pytest.mark.parametrize("records", [2, 5])
def test_a_segment_whose_end_is_damaged_is_left_for_the_next(tmp_path: Path, records: int) -> None:
    written(tmp_path)
    (first, path), (next_first, _), *_ = segments(tmp_path, SMALL)
    damage(path, path.stat().st_size - records * SIZE, b"\x7f" * records * SIZE)
    found, missing = read_all(LaneReader(tmp_path, SMALL))
    assert missing == records
    assert set(range(1, 101)) - set(found) == set(range(next_first - records, next_first))
    assert first == 1


def test_a_writer_goes_on_behind_damage_and_cuts_nothing_off(tmp_path: Path) -> None:
    written(tmp_path).close()
    first, path = segments(tmp_path, SMALL)[-1]
    damage(path, HEADER_BYTES, b"\xff")
    again = LaneWriter(tmp_path, SMALL)
    assert again.next_sequence == 101
    again.append([b"the end"])
    reader = LaneReader(tmp_path, SMALL)
    found, missing = read_all(reader)
    assert (missing, found[101], set(range(1, 102)) - set(found)) == (1, b"the end", {first})
    assert reader.last() == (101, b"the end")


@given(st.binary(max_size=60), st.integers(0, 20), st.binary(min_size=1, max_size=20))
def test_reading_goes_on_at_a_whole_record_or_not_at_all(before: bytes, zeros: int, payload: bytes) -> None:
    data = b"\xff" + before + bytes(zeros) + record(payload)
    start = resume(data)
    assert start
    length = int.from_bytes(data[start : start + 4], "little")
    assert data[start:].startswith(record(data[start + HEADER_BYTES :][:length]))
    assert resume(b"\xff" + record(payload)[:-1]) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from heliograph.engine.codes import StateCode
from heliograph.reporting.writer import OutboxWriter

for number in range(1, 21):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        outbox = OutboxWriter(folder)
        for count in range(1, number + 1):
            outbox.put_start((0, None, StateCode.RUNNING, count, count, 0, 0, None, False))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
"""


def test_a_process_that_is_killed_right_behind_an_event_has_told_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, timeout=60)
    for number in range(1, 21):
        reader = LaneReader(tmp_path / str(number), STATES)
        assert len(reader.read(100, 10**6).payloads) == number


def test_an_exception_in_the_middle_of_a_write_leaves_the_numbers_right(tmp_path: Path) -> None:
    writer = LaneWriter(tmp_path, SMALL)
    writer.append(PAYLOADS[:2])
    real = os.write

    def struck(descriptor: int, data: bytes) -> int:
        real(descriptor, data)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", struck)
        with pytest.raises(KeyboardInterrupt):
            writer.append(PAYLOADS[2:3])
    writer.append(PAYLOADS[3:4])
    assert writer.next_sequence == 5
    assert read_all(LaneReader(tmp_path, SMALL)) == (dict(enumerate(PAYLOADS[:4], 1)), 0)
