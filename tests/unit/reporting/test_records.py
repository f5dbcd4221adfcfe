"""Records: what is written is read, and what is torn is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.reporting.records import HEADER_BYTES, MAX_PAYLOAD_BYTES, record, scan

payload_lists = st.lists(st.binary(min_size=1, max_size=200), max_size=30)


@given(payload_lists)
def test_what_is_written_is_read(payloads: list[bytes]) -> None:
    data = b"".join(map(record, payloads))
    assert scan(data, 1000, 10**9) == (payloads, len(data))


@given(payload_lists, st.integers(0, 10_000), st.binary(max_size=20))
def test_a_torn_tail_is_left_out_and_nothing_else(payloads: list[bytes], cut: int, garbage: bytes) -> None:
    data = b"".join(map(record, payloads))
    torn = data[: min(cut, len(data))]
    read, used = scan(torn, 1000, 10**9)
    assert read == payloads[: len(read)]
    assert used == sum(HEADER_BYTES + len(payload) for payload in read)
    assert len(read) == len(payloads) or used + HEADER_BYTES + len(payloads[len(read)]) > len(torn)


@given(payload_lists.filter(bool), st.data())
def test_a_flipped_bit_ends_the_reading_before_it(payloads: list[bytes], data: st.DataObject) -> None:
    encoded = bytearray(b"".join(map(record, payloads)))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    read, used = scan(bytes(encoded), 1000, 10**9)
    assert read == payloads[: len(read)]
    assert used <= position


def test_zeroed_blocks_are_no_records() -> None:
    assert scan(record(b"x") + bytes(4096), 1000, 10**9) == ([b"x"], HEADER_BYTES + 1)


@given(payload_lists, st.integers(1, 10), st.integers(1, 500))
def test_limits_hold_and_the_first_record_is_always_taken(payloads: list[bytes], limit: int, max_bytes: int) -> None:
    read, _ = scan(b"".join(map(record, payloads)), limit, max_bytes)
    assert len(read) <= limit
    assert sum(map(len, read)) <= max_bytes or len(read) == 1
    assert bool(read) == bool(payloads)


@pytest.mark.parametrize("payload", [b"", bytes(MAX_PAYLOAD_BYTES + 1)])
def test_what_no_reader_would_take_is_not_written(payload: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        record(payload)
