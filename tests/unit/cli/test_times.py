"""Times and sizes in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.cli.times import ago, duration, size

NOW = datetime(2026, 9, 7, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 ms"), (0.85, "850 ms"), (0.9999, "1 s"), (4.23, "4.2 s"), (9.99, "10 s"), (59.6, "1 min"),
        (125, "2 min 05 s"), (3600, "1 h"), (3780, "1 h 03 min"), (100_000, "1 d 03 h"), (-2, "-2 s"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(0, 1e9, allow_nan=False))
def test_any_duration_is_short(seconds: float) -> None:
    assert len(duration(seconds)) <= 14


def test_distances_from_now() -> None:
    assert ago(NOW - timedelta(seconds=90), NOW) == "1 min ago"
    assert ago(NOW + timedelta(hours=20, minutes=5), NOW) == "in 20 h"
    assert ago(NOW + timedelta(days=90) - timedelta(seconds=3), NOW) == "in 90 d"
    assert ago(NOW + timedelta(seconds=3599), NOW) == "in 1 h"
    assert ago(NOW + timedelta(minutes=10), NOW) == "in 10 min"
    assert ago(NOW, NOW) == "now"
    assert ago(None, NOW) == ""


def test_sizes() -> None:
    assert [size(n) for n in (0, 812, 12_345, 24_900_000, 999_600)] == ["0 B", "812 B", "12.3 kB", "24.9 MB", "1.0 MB"]
