"""Lanes: segments, following, trimming, dropping, and writers that died in the middle of a record."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heliograph.reporting.lanes import Lane, LaneLostError, LaneReader, LaneWriter, segments

SMALL = Lane("states", segment_bytes=200, cap_bytes=600)


def numbered(first: int, count: int) -> list[bytes]:
    return [f"record {number}".encode() for number in range(first, first + count)]


def read_all(reader: LaneReader) -> list[bytes]:
    found: list[bytes] = []
    while (chunk := reader.read(7, 1000)).payloads:
        found += chunk.payloads
    return found


def test_a_reader_follows_over_segments(tmp_path: Path) -> None:
    writer, reader = LaneWriter(tmp_path, SMALL), LaneReader(tmp_path, SMALL)
    for first in range(1, 100, 3):
        writer.append(numbered(first, 3))
        assert read_all(reader) == numbered(first, 3)
    assert len(segments(tmp_path, SMALL)) > 5
    assert reader.next_sequence == writer.next_sequence == 100


def test_a_reader_may_come_before_the_writer(tmp_path: Path) -> None:
    reader = LaneReader(tmp_path, SMALL)
    assert reader.read(10, 1000).payloads == []
    LaneWriter(tmp_path, SMALL).append(numbered(1, 2))
    assert read_all(reader) == numbered(1, 2)


@given(cut=st.integers(0, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_writer_goes_on_behind_the_last_whole_record(tmp_path: Path, cut: int) -> None:
    for _, path in segments(tmp_path, SMALL):
        path.unlink()
    writer = LaneWriter(tmp_path, SMALL)
    writer.append(numbered(1, 20))
    writer.close()
    [(_, path)] = segments(tmp_path, SMALL)
    with path.open("r+b") as file:
        file.truncate(max(0, path.stat().st_size - cut))
    again = LaneWriter(tmp_path, SMALL)
    kept = again.next_sequence - 1
    again.append([b"after"])
    again.close()
    reader = LaneReader(tmp_path, SMALL)
    assert read_all(reader) == [*numbered(1, kept), b"after"]
    assert reader.last() == (kept + 1, b"after")


def test_a_torn_tail_is_read_once_it_is_whole(tmp_path: Path) -> None:
    from heliograph.reporting.records import record

    writer, reader = LaneWriter(tmp_path, SMALL), LaneReader(tmp_path, SMALL)
    writer.append(numbered(1, 1))
    [(_, path)] = segments(tmp_path, SMALL)
    whole = record(b"second")
    with path.open("ab") as file:
        file.write(whole[:9])
        file.flush()
        assert read_all(reader) == numbered(1, 1)
        file.write(whole[9:])
    assert read_all(reader) == [b"second"]


def test_acknowledged_segments_go_and_the_rest_can_be_read_again(tmp_path: Path) -> None:
    writer, reader = LaneWriter(tmp_path, SMALL), LaneReader(tmp_path, SMALL)
    for first in range(1, 61, 2):
        writer.append(numbered(first, 2))
    read_all(reader)
    reader.trim(40)
    first_kept = segments(tmp_path, SMALL)[0][0]
    assert 1 < first_kept <= 41
    assert reader.seek(41) == 41
    assert read_all(reader) == numbered(41, 20)
    assert reader.seek(1) == first_kept  # what is gone is gone: the caller sees where it can start
    reader.trim(60)
    assert len(segments(tmp_path, SMALL)) == 1


def test_dropped_segments_show_in_the_numbers(tmp_path: Path) -> None:
    writer, reader = LaneWriter(tmp_path, SMALL), LaneReader(tmp_path, SMALL)
    writer.append(numbered(1, 1))
    assert reader.read(10, 1000).payloads == numbered(1, 1)
    for first in range(2, 202):
        writer.append(numbered(first, 1))
        if writer.at_segment_end:
            writer.drop_oldest()
    assert writer.bytes_on_disk() <= SMALL.cap_bytes + SMALL.segment_bytes
    seen, missing, expected = 1, 0, 2
    while (chunk := reader.read(5, 1000)).payloads:
        missing += chunk.first_sequence - expected
        expected = chunk.first_sequence + len(chunk.payloads)
        assert chunk.payloads == numbered(chunk.first_sequence, len(chunk.payloads))
        seen += len(chunk.payloads)
    assert missing > 0
    assert seen + missing == 201


def test_a_full_disk_leaves_whole_records_that_a_reader_may_have_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    writer, reader = LaneWriter(tmp_path, SMALL), LaneReader(tmp_path, SMALL)
    writer.append(numbered(1, 1))
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return real(descriptor, data[: len(data) // 2])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        writer.append(numbered(2, 6))
    seen = read_all(reader)  # before the disk has room again
    assert seen == numbered(1, 4)
    assert writer.next_sequence == 5
    monkeypatch.setattr(os, "write", real)
    writer.append([b"others, of another length"])
    assert read_all(reader) == [b"others, of another length"]


def test_a_descriptor_that_was_closed_and_is_another_files_is_not_written_to(tmp_path: Path) -> None:
    import os

    folder = tmp_path / "lane"
    folder.mkdir()
    writer = LaneWriter(folder, SMALL)
    writer.append(numbered(1, 1))
    os.close(writer._descriptor)
    with pytest.raises(LaneLostError):
        writer.append(numbered(2, 1))
    with (tmp_path / "mine").open("wb") as mine:
        assert mine.fileno() == writer._descriptor
        with pytest.raises(LaneLostError):
            writer.append(numbered(2, 1))
    assert (tmp_path / "mine").read_bytes() == b""
    assert read_all(LaneReader(folder, SMALL)) == numbered(1, 1)


class LaneMachine(RuleBasedStateMachine):
    """Writers that come and go, readers that lag, trim and seek: what is read is what was written, in order."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        self.writer = LaneWriter(self.folder, SMALL)
        self.reader = LaneReader(self.folder, SMALL)
        self.written = 0
        self.acked = 0

    def teardown(self) -> None:
        import shutil

        self.writer.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    @rule(count=st.integers(1, 12))
    def write(self, count: int) -> None:
        self.writer.append(numbered(self.written + 1, count))
        self.written += count

    @rule(garbage=st.binary(min_size=1, max_size=30))
    def die_in_the_middle(self, garbage: bytes) -> None:
        self.writer.close()
        _, path = segments(self.folder, SMALL)[-1]
        with path.open("ab") as file:
            file.write(b"\xff\xff\xff\x7f" + garbage)
        self.writer = LaneWriter(self.folder, SMALL)

    @rule(limit=st.integers(1, 20), size=st.integers(1, 300))
    def read(self, limit: int, size: int) -> None:
        expected = self.reader.next_sequence
        chunk = self.reader.read(limit, size)
        assert chunk.first_sequence == expected
        assert chunk.payloads == numbered(expected, len(chunk.payloads))
        assert bool(chunk.payloads) == (expected <= self.written)

    @precondition(lambda self: self.reader.next_sequence > 1)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.acked = data.draw(st.integers(self.acked, self.reader.next_sequence - 1))
        self.reader.trim(self.acked)

    @rule()
    def resend(self) -> None:
        assert self.reader.seek(self.acked + 1) == self.acked + 1

    @invariant()
    def the_writer_counts(self) -> None:
        assert self.writer.next_sequence == self.written + 1


TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
