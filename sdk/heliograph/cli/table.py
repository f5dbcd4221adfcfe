"""Tables as lines of text: aligned columns for people, tab-separated cells for pipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heliograph.cli.text import clean, pad, paint, shorten, width

GAP = 2
MIN_CELL = 8
"""A column that must give way keeps at least so many characters."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text and, for people, its colour."""

    text: str
    color: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        header: Its heading.
        right: True to align at the right, for numbers.
        flexible: True when it gives way where the terminal is narrow.
    """

    header: str
    right: bool = False
    flexible: bool = False


def render_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell | str]],
    *,
    max_columns: int = 0,
    color: bool = False,
) -> list[str]:
    """Renders a table for people.

    Args:
        columns: The columns.
        rows: The cells, as many in a row as there are columns.
        max_columns: Width that lines should not exceed; flexible columns are shortened. 0 means no limit.
        color: True to colour.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    cells = [[Cell(clean(cell.text), cell.color) for cell in row] for row in cells]
    widths = [
        max([width(column.header), *(width(row[number].text) for row in cells)])
        for number, column in enumerate(columns)
    ]
    _fit(columns, widths, max_columns)
    lines = [_line([Cell(column.header.upper(), "dim") for column in columns], columns, widths, color)]
    lines.extend(_line(row, columns, widths, color) for row in cells)
    return lines


def render_plain(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> list[str]:
    """Renders a table for pipes: a header line, cells separated by tabs, nothing cut."""
    lines = ["\t".join(column.header.upper() for column in columns)]
    lines.extend("\t".join(clean(cell.text if isinstance(cell, Cell) else cell) for cell in row) for row in rows)
    return lines


def _fit(columns: Sequence[Column], widths: list[int], max_columns: int) -> None:
    """Narrows the widest flexible column, again and again, until the line fits or none can give way."""
    while max_columns and sum(widths) + GAP * (len(widths) - 1) > max_columns:
        flexible = [n for n, column in enumerate(columns) if column.flexible and widths[n] > MIN_CELL]
        if not flexible:
            return
        widest = max(flexible, key=lambda n: widths[n])
        widths[widest] -= 1


def _line(row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], color: bool) -> str:
    parts = []
    for number, (cell, column) in enumerate(zip(row, columns, strict=True)):
        text = shorten(cell.text, widths[number])
        space = " " * (widths[number] - width(text))
        last = number == len(columns) - 1
        painted = paint(text, cell.color, color)
        parts.append(space + painted if column.right else painted if last else painted + space)
    return (" " * GAP).join(parts).rstrip()


def render_pairs(pairs: Sequence[tuple[str, Cell | str]], *, color: bool = False) -> list[str]:
    """Renders names and values, one pair a line, the values aligned. Pairs without a value are left out."""
    shown = [(name, value if isinstance(value, Cell) else Cell(value)) for name, value in pairs]
    shown = [(name, value) for name, value in shown if value.text]
    widest = max((width(name) for name, _ in shown), default=0)
    return [
        f"{paint(pad(name, widest), 'dim', color)}  {paint(clean(value.text), value.color, color)}"
        for name, value in shown
    ]
