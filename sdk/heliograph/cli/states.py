"""States as words and colours."""

from __future__ import annotations

from heliograph.cli.table import Cell
from heliograph.engine.codes import FailureCode, StateCode

_COLORS = {
    StateCode.RUNNING: "blue", StateCode.SUBMITTED: "cyan", StateCode.RETRYING: "yellow",
    StateCode.CANCELLING: "yellow", StateCode.CANCELLED: "yellow", StateCode.PAUSED: "yellow",
    StateCode.SKIPPED: "cyan", StateCode.CACHED: "cyan",
}  # fmt: skip


def state_name(number: int) -> str:
    """Returns `TriggerFailed` for 17: the names of the state classes. Unknown numbers show as such."""
    try:
        return StateCode(number).name.title().replace("_", "")
    except ValueError:
        return f"State {number}" if number else ""


def state_color(number: int) -> str | None:
    """Returns the colour of a state."""
    try:
        code = StateCode(number)
    except ValueError:
        return None
    if code in _COLORS:
        return _COLORS[code]
    return "green" if code.is_successful else "red" if code.is_failed else None


def state_cell(number: int) -> Cell:
    """Returns a state as a cell of a table."""
    return Cell(state_name(number), state_color(number))


def parse_state(text: str) -> StateCode:
    """Reads a state's name, in any case, with or without `_`.

    Raises:
        ValueError: There is no such state.
    """
    wanted = text.replace("_", "").replace("-", "").casefold()
    for code in StateCode:
        if code.name.replace("_", "").casefold() == wanted:
            return code
    raise ValueError(f"there is no state {text!r}; states are {', '.join(state_name(code) for code in StateCode)}")


def reason_words(number: int) -> str:
    """Returns a failure reason in words, `out of memory`."""
    try:
        return FailureCode(number).name.lower().replace("_", " ")
    except ValueError:
        return ""
