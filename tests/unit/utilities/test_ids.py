"""UUIDv7: their form, their order, and that no two are equal."""

import os
import time
import uuid

import pytest
from tests.support import ends

from heliograph.utilities import ids


def test_the_form():
    before = time.time_ns() // 1_000_000
    value = ids.uuid7()
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert before <= ids.timestamp_millis(value) <= time.time_ns() // 1_000_000 + 1
    assert uuid.UUID(ids.uuid7_text()).version == 7
    with pytest.raises(ValueError, match="version 7"):
        ids.timestamp_millis(uuid.uuid4())


def test_they_rise_also_as_text_and_when_the_clock_goes_back(monkeypatch):
    values = [ids.uuid7() for _ in range(2_000)]
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)
    values += [ids.uuid7() for _ in range(2_000)]
    assert values == sorted(set(values))
    assert [str(value) for value in values] == sorted(str(value) for value in values)


def test_threads_never_share_one():
    found: list[uuid.UUID] = []

    def make():
        found.extend([ids.uuid7() for _ in range(2_000)])

    ends.together([make] * 4)
    assert len(set(found)) == 8_000


def test_the_random_part_has_74_bits(monkeypatch):
    monkeypatch.setattr(ids.os, "urandom", lambda size: b"\xff" * size)
    monkeypatch.setattr(ids, "_last", 0)
    value = ids.uuid7()
    assert value.int & ((1 << 62) - 1) == (1 << 62) - 1
    assert value.int >> 64 & 0xFFF == 0xFFF


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no fork on this platform")
def test_a_fork_starts_anew():
    ids.uuid7()
    lock, last = ids._lock, ids._last
    try:
        ids._reset_after_fork()
        assert ids._lock is not lock
        assert ids._last == 0
    finally:
        ids._lock, ids._last = lock, last
