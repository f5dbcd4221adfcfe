"""The checker of histories: what it lets pass could have happened, what it finds could not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.linear import NEVER, Call, check


def step(value: int, call: Call) -> Iterator[int]:
    """A register: write, read, and compare-and-set."""
    if call.name == "write":
        yield call.given
    elif call.name == "read":
        if not call.answered or call.answer == value:
            yield value
    else:
        expected, new = call.given
        if not call.answered or call.answer == (value == expected):
            yield new if value == expected else value


def write(value: int, begin: float, end: float) -> Call:
    return Call("write", value, None, begin, end)


def read(value: int, begin: float, end: float) -> Call:
    return Call("read", None, value, begin, end)


def swap(expected: int, new: int, answer: bool, begin: float, end: float) -> Call:
    return Call("swap", (expected, new), answer, begin, end)


GOOD = {
    "nothing": [],
    "one after another": [write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)],
    "a read beside a write sees either": [write(1, 0, 10), read(0, 1, 2), read(1, 3, 4)],
    "writes beside each other in any order": [write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(2, 13, 14)],
    "a write without an answer that was seen": [write(1, 0, NEVER), read(0, 1, 2), read(1, 50, 51)],
    "a write without an answer that was never seen": [write(1, 0, NEVER), read(0, 1, 2), read(0, 50, 51)],
    "one swap of two": [swap(0, 1, True, 0, 5), swap(0, 2, False, 0, 5), read(1, 6, 7)],
}
BAD = {
    "a read of what nobody wrote": [read(1, 0, 1)],
    "a read of what was overwritten": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "a read that goes back": [write(1, 0, 10), read(1, 1, 2), read(0, 3, 4)],
    "a write that was lost": [write(1, 0, 1), read(0, 2, 3)],
    "both swaps": [swap(0, 1, True, 0, 5), swap(0, 2, True, 0, 5)],
    "a write without an answer that comes and goes": [write(1, 0, NEVER), read(1, 1, 2), read(0, 3, 4)],
    "a write without an answer before it was made": [read(1, 0, 1), write(1, 2, NEVER)],
    "two orders at once": [write(1, 0, 10), write(2, 0, 10), read(1, 11, 12), read(2, 13, 14)],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_have_happened_passes(name: str) -> None:
    assert check(GOOD[name], 0, step) is None


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_have_happened_is_found(name: str) -> None:
    found = check(BAD[name], 0, step)
    assert found is not None
    assert "none of" in str(found)


def test_a_violation_shows_how_far_it_went_and_where_it_is_stuck() -> None:
    found = check([write(1, 0, 1), read(1, 2, 3), read(5, 4, 5)], 0, step)
    assert found is not None
    assert [call.name for call in found.taken] == ["write", "read"]
    assert (found.state, [call.answer for call in found.stuck]) == (1, [5])


calls = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "swap"]), st.integers(0, 2), st.integers(0, 2), st.booleans(),
        st.integers(0, 12), st.integers(0, 6), st.sampled_from([False, False, False, True]),
    ),
    max_size=6,
)  # fmt: skip


@given(calls)
def test_it_says_what_trying_every_order_says(
    made: list[tuple[str, int, int, bool, int, int, bool]],
) -> None:
    history = []
    for name, value, other, yes, begin, length, lost in made:
        end = NEVER if lost else begin + length + 0.5
        if name == "write":
            history.append(write(value, begin, end))
        elif name == "read":
            history.append(read(value, begin, end))
        else:
            history.append(swap(value, other, yes, begin, end))
    assert (check(history, 0, step) is None) == _some_order_fits(history)


def _some_order_fits(history: list[Call]) -> bool:
    """Tries every order of every choice of the calls that nobody heard of."""
    answered = [call for call in history if call.answered]
    open_ones = [call for call in history if not call.answered]
    return any(
        _fits(order)
        for count in range(len(open_ones) + 1)
        for chosen in itertools.combinations(open_ones, count)
        for order in itertools.permutations([*answered, *chosen])
    )


def _fits(order: tuple[Call, ...]) -> bool:
    if any(later.end < earlier.begin for earlier, later in itertools.combinations(order, 2)):
        return False
    value = 0
    for call in order:
        after = list(step(value, call))
        if not after:
            return False
        value = after[0]
    return True


@given(st.integers(0, 1_000_000), st.integers(2, 5), st.integers(1, 60))
def test_what_really_happened_passes_and_a_lie_in_it_is_found(seed: int, clients: int, count: int) -> None:
    """Histories made by taking effect at a moment within each call; then one read claims what never was there."""
    chance = random.Random(seed)
    value, moment = 0, 0.0
    free = [0.0] * clients
    history: list[Call] = []
    for _ in range(count):
        client = chance.randrange(clients)
        moment += chance.uniform(0.01, 1)
        begin = chance.uniform(min(free[client], moment), moment)
        end = moment + chance.uniform(0, 3)
        free[client] = max(free[client], end)
        if chance.random() < 0.5:
            value = chance.randint(0, 3)
            history.append(write(value, begin, end if chance.random() < 0.9 else NEVER))
        else:
            history.append(read(value, begin, end))
    assert check(history, 0, step) is None
    late = max([call.end for call in history if call.answered], default=0) + 1
    assert check([*history, read(99, late, late + 1)], 0, step) is not None
