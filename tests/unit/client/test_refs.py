"""Parameters on their way to the API."""

from __future__ import annotations

import json
import math
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.refs import encode_parameters, flow_resource, flow_run_resource
from heliograph.exceptions import InvalidArgumentError

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=10), VALUES, max_size=5))
def test_values_arrive_as_they_were_given(values: dict[str, object]) -> None:
    assert json.loads(encode_parameters(values)) == values


@pytest.mark.parametrize("value", [date(2020, 1, 1), {1, 2}, math.nan, object()])
def test_what_is_no_json_names_its_parameter(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="'day'"):
        encode_parameters({"ok": 1, "day": value})


def test_more_than_64_kib_are_refused_before_they_are_sent() -> None:
    with pytest.raises(InvalidArgumentError, match="65,536"):
        encode_parameters({"data": "x" * 70_000})


def test_flows_and_runs_by_short_names() -> None:
    assert flow_resource("covid/etl") == "projects/covid/flows/etl"
    assert flow_resource("projects/covid/flows/etl/versions/3") == "projects/covid/flows/etl/versions/3"
    assert flow_run_resource("0199") == "projects/-/flowRuns/0199"
    for bad in ("etl", "a/b/c", "", "projects/x"):
        with pytest.raises(InvalidArgumentError):
            flow_resource(bad)
