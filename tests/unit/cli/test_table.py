"""Tables: aligned for people, tab-separated for pipes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliograph.cli.table import Cell, Column, render_pairs, render_plain, render_table
from heliograph.cli.text import width

COLUMNS = (Column("name", flexible=True), Column("state"), Column("runs", right=True))


def test_columns_are_aligned_and_nothing_trails() -> None:
    lines = render_table(COLUMNS, [["extract", Cell("Success", "green"), "1"], ["日本", "Failed", "12"]])
    assert lines == [
        "NAME     STATE    RUNS",
        "extract  Success     1",
        "日本     Failed     12",
    ]


def test_color_does_not_move_columns() -> None:
    lines = render_table(COLUMNS, [["a", Cell("Failed", "red"), "1"]], color=True)
    assert lines[1] == "a     \x1b[31mFailed\x1b[0m     1"


def test_flexible_columns_give_way_and_others_do_not() -> None:
    lines = render_table(COLUMNS, [["x" * 60, "Success", "1"]], max_columns=40)
    assert all(width(line) <= 40 for line in lines)
    assert "…" in lines[1]
    assert "Success" in lines[1]


def test_pipes_get_whole_cells_between_tabs() -> None:
    assert render_plain(COLUMNS, [["a\tb", "Success", "1"]]) == ["NAME\tSTATE\tRUNS", "a b\tSuccess\t1"]


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=10), st.text(max_size=5)), max_size=5))
def test_one_line_a_row_whatever_the_cells_hold(rows: list[tuple[str, str, str]]) -> None:
    for lines in (render_table(COLUMNS, rows, max_columns=50), render_plain(COLUMNS, rows)):
        assert len(lines) == len(rows) + 1
        assert all("\n" not in line and "\x1b" not in line for line in lines)


def test_pairs_without_a_value_are_left_out() -> None:
    assert render_pairs([("Run", "otter"), ("Agent", ""), ("Id", "01")]) == ["Run  otter", "Id   01"]
