"""The Gantt chart: every bar is seen, in its place, within the width."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliograph.cli.gantt import Bar, render_gantt
from heliograph.cli.text import width

TIMES = st.floats(0, 1e6, allow_nan=False)


def test_bars_stand_where_they_happened() -> None:
    bars = [Bar("extract", 100.0, 102.0, note="2 s"), Bar("load", 102.0, 104.0, note="2 s"), Bar("never", None, None)]
    lines = render_gantt(bars, columns=50)
    assert lines[0].split() == ["0", "2", "s", "4", "s"] or "0" in lines[0]
    first, second = lines[1], lines[2]
    assert first.startswith("extract  █")
    assert second.index("█") == first.rindex("█") + 1
    assert lines[3] == "never"


def test_plain_characters_where_blocks_cannot_be_shown() -> None:
    lines = render_gantt([Bar("a", 0, 1), Bar("b", 1, 2)], columns=40, ascii_only=True)
    assert "#" in lines[1]
    assert all(line.isascii() for line in lines)


def test_a_bar_that_goes_on_reaches_now() -> None:
    done, going = render_gantt([Bar("a", 0, 5), Bar("b", 5, None)], columns=60, now=10.0)[1:]
    assert width(going) > width(done)


def test_now_is_of_no_interest_when_everything_ended() -> None:
    assert render_gantt([Bar("a", 0, 5)], now=1e6) == render_gantt([Bar("a", 0, 5)])


def test_nothing_gives_nothing() -> None:
    assert render_gantt([]) == []
    assert render_gantt([Bar("a", None, None)]) == []


@given(
    st.lists(st.tuples(st.text(max_size=50), TIMES, TIMES), min_size=1, max_size=8),
    st.integers(30, 150),
)
def test_every_bar_is_visible_and_no_line_is_too_wide(items: list[tuple[str, float, float]], columns: int) -> None:
    bars = [Bar(label, min(a, b), max(a, b), note="1 s") for label, a, b in items]
    lines = render_gantt(bars, columns=columns)
    assert len(lines) == len(bars) + 1
    for line in lines[1:]:
        assert any(block in line for block in "▏▎▍▌▋▊▉█")
        assert width(line) <= max(columns, 32 + 2 + 10 + 2 + 3)
