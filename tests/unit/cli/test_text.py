"""Text for terminals: nothing of it acts on them, and columns are counted as terminals do."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.cli.text import clean, pad, shorten, use_color, width


@given(st.text(max_size=60))
def test_cleaned_text_acts_on_no_terminal(text: str) -> None:
    shown = clean(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cs") for char in shown)
    assert not any(
        unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "FSI") for char in shown
    )
    assert clean(shown) == shown


def test_escape_sequences_become_visible() -> None:
    assert clean("\x1b]0;title\x07\x1b[31mred") == "␛]0;title␛[31mred"
    assert clean("a\nb\tc\r") == "a b c"
    assert clean("a\nb\tc\r", keep_lines=True) == "a\nb\tc"


@given(st.text(max_size=40), st.integers(1, 30))
def test_shortened_text_fits(text: str, columns: int) -> None:
    assert width(shorten(clean(text), columns)) <= columns


def test_wide_and_combining_characters_are_counted_in_columns() -> None:
    assert width("日本") == 4
    assert width("e\u0301") == 1
    assert pad("日本", 6) == "日本  "
    assert pad("7", 3, right=True) == "  7"


@pytest.mark.parametrize(
    ("mode", "variables", "expected"),
    [
        ("auto", {}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {"CLICOLOR_FORCE": "1"}, False),
        ("auto", {"CLICOLOR_FORCE": "1"}, True),
        ("auto", {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_color_by_flag_then_variables_then_terminal(
    mode: str, variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert use_color(mode, io.StringIO()) is expected
