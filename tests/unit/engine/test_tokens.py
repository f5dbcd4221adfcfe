"""Tokens, and the cache validators that compare by them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine import cache_validators
from heliograph.engine.result import Result
from heliograph.engine.state import Cached, utc_now
from heliograph.engine.tokens import tokenize

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int


@given(plain, plain)
def test_tokens_are_equal_exactly_for_equal_values(a: Any, b: Any) -> None:
    assert (tokenize(a) == tokenize(b)) == (repr(a) == repr(b) or _same_mapping(a, b))


def _same_mapping(a: Any, b: Any) -> bool:
    return tokenize(a) == tokenize(b) and a == b


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True), (1, 1.0), (1, "1"), ("ab", b"ab"), ([1], (1,)), (["ab", "c"], ["a", "bc"]), ({}, []), (Color.RED, 1),
        (Color.RED, Color.BLUE), (Point(1, 2), Point(2, 1)), ({1: 2}, {2: 1}), ({1}, {2}), (None, "None"),
        (dt.date(2020, 1, 1), dt.date(2020, 1, 2)), (pathlib.PurePosixPath("a"), "a"), (lambda: 1, lambda: 2),
        (int, str),
    ],
)  # fmt: skip
def test_what_differs(a: Any, b: Any) -> None:
    assert tokenize(a) != tokenize(b)
    assert tokenize(a) == tokenize(a)


def test_functions_go_by_all_that_they_do() -> None:
    def adds(number: int) -> Any:
        return lambda x: x + number

    def recursive(depth: int) -> Any:
        def again(x: int) -> int:
            return again(x - 1) if x > depth else x

        return again

    class Held:
        def __init__(self, number: int) -> None:
            self.number = number

        def method(self) -> int:
            return self.number

    comprehensions = (lambda xs: [x + 1 for x in xs], lambda xs: [x + 2 for x in xs])
    comprehensions[1].__qualname__ = comprehensions[0].__qualname__
    for one, same, other in (
        (adds(1), adds(1), adds(2)),
        (recursive(1), recursive(1), recursive(2)),
        (Held(1).method, Held(1).method, Held(2).method),
        (comprehensions[0], comprehensions[0], comprehensions[1]),
    ):
        assert tokenize(one) == tokenize(same)
        assert tokenize(one) != tokenize(other)


def test_order_of_mappings_and_sets_does_not_count() -> None:
    assert tokenize({"a": 1, "b": 2}) == tokenize({"b": 2, "a": 1})
    assert tokenize(set("abcdef")) == tokenize(set("fedcba"))


def test_cycles_end() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert tokenize(value) == tokenize(value)


def test_frames_and_arrays_go_by_content() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    assert tokenize(numpy.arange(4)) == tokenize(numpy.arange(4))
    assert tokenize(numpy.arange(4)) != tokenize(numpy.arange(4).reshape(2, 2))
    assert tokenize(numpy.arange(4)) != tokenize(numpy.arange(4, dtype="float32"))
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert tokenize(frame) == tokenize(frame.copy())
    assert tokenize(frame) != tokenize(frame.rename(columns={"a": "c"}))
    assert tokenize(frame) != tokenize(frame[::-1])


def test_an_own_token_counts() -> None:
    class Handle:
        def __init__(self, name: str) -> None:
            self.name = name

        def __heliograph_token__(self) -> str:
            return self.name

    assert tokenize(Handle("a")) == tokenize(Handle("a")) != tokenize(Handle("b"))


def test_tokens_are_stable_across_processes() -> None:
    code = (
        "from heliograph.engine.tokens import tokenize\n"
        "print(tokenize({'b': {3, 1, 2}, 'a': (1.5, None, 'é', b'x')}, len, int))"
    )
    command = [sys.executable, "-c", code]
    found = {
        subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


# --- validators -----------------------------------------------------------------------------------------------------


def cached(hours: float = 1, **kwargs: Any) -> Cached:
    return Cached(cached_result_expiration=utc_now() + dt.timedelta(hours=hours), **kwargs)


def test_durations() -> None:
    assert cache_validators.duration_only(cached(), {}, {})
    assert cache_validators.duration_only(Cached(), {}, {})
    assert not cache_validators.duration_only(cached(-1), {}, {})
    assert not cache_validators.never_use(cached(), {}, {})


def test_inputs() -> None:
    state = cached(cached_inputs={"x": [1], "y": Result(2)})
    assert cache_validators.all_inputs(state, {"x": [1], "y": 2}, {})
    assert not cache_validators.all_inputs(state, {"x": [1], "y": 3}, {})
    assert not cache_validators.all_inputs(state, {"x": [1]}, {})
    assert not cache_validators.all_inputs(cached(-1, cached_inputs={"x": 1}), {"x": 1}, {})
    some = cache_validators.partial_inputs_only(validate_on=["x"])
    assert some(state, {"x": [1], "y": 99}, {})
    assert not some(state, {"x": [2], "y": 2}, {})
    assert cache_validators.partial_inputs_only()(state, {"x": 9}, {})
    with pytest.raises(TypeError):
        cache_validators.partial_inputs_only(validate_on="x")


def test_parameters() -> None:
    state = cached(cached_parameters={"country": "AF", "year": 2020})
    assert cache_validators.all_parameters(state, {}, {"country": "AF", "year": 2020})
    assert not cache_validators.all_parameters(state, {}, {"country": "DE", "year": 2020})
    some = cache_validators.partial_parameters_only(["country"])
    assert some(state, {}, {"country": "AF", "year": 1999})
    assert not some(state, {}, {"country": "DE", "year": 2020})


def test_a_validator_without_a_duration_warns_only() -> None:
    from heliograph.utilities.tasks import task

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task(lambda: 1, name="t", cache_validator=cache_validators.all_inputs)
    assert "cache_for" in str(caught[0].message)
