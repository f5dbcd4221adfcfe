"""Serializers: everything comes back as it went."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.serializers import (
    CompressedSerializer,
    DateTimeSerializer,
    JSONSerializer,
    PandasSerializer,
    PickleSerializer,
    Serializer,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_values_come_back(value: object) -> None:
    for serializer in (PickleSerializer(), JSONSerializer(), CompressedSerializer(JSONSerializer(), format="zlib")):
        assert serializer.deserialize(serializer.serialize(value)) == value


def test_functions_can_be_pickled() -> None:
    serializer = PickleSerializer()
    factor = 3
    assert serializer.deserialize(serializer.serialize(lambda x: x * factor))(2) == 6


@given(st.datetimes(timezones=st.just(UTC) | st.none()))
def test_times_come_back(value: datetime) -> None:
    assert DateTimeSerializer().deserialize(DateTimeSerializer().serialize(value)) == value


@pytest.mark.parametrize("file_type", ["csv", "json", "pickle"])
def test_data_frames_come_back(file_type: str) -> None:
    frame = pd.DataFrame({"year_month": ["2020-09", "2020-10"], "cases": [74, 75]})
    options = {"serialize_kwargs": {"index": False}} if file_type == "csv" else {}
    serializer = PandasSerializer(file_type, **options)
    data = serializer.serialize(frame)
    assert isinstance(data, bytes)
    pd.testing.assert_frame_equal(serializer.deserialize(data), frame)


def test_an_unknown_file_type_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no to_nonsense"):
        PandasSerializer("nonsense")


def test_compression_needs_a_format_or_both_functions() -> None:
    inner = JSONSerializer()
    for arguments in (
        {},
        {"compress": gzip.compress},
        {"format": "gzip", "compress": gzip.compress},
        {"format": "json"},
    ):
        with pytest.raises(ValueError, match="compress"):
            CompressedSerializer(inner, **arguments)
    own = CompressedSerializer(inner, compress=gzip.compress, decompress=gzip.decompress, compress_kwargs={"mtime": 0})
    assert own.deserialize(own.serialize([1])) == [1]


def test_equality_is_by_type_and_options() -> None:
    class Own(JSONSerializer):
        pass

    assert JSONSerializer() == JSONSerializer()
    assert Own() != JSONSerializer()
    assert CompressedSerializer(JSONSerializer(), format="bz2") != CompressedSerializer(JSONSerializer(), format="zlib")
    with pytest.raises(TypeError):
        Serializer().serialize(1)
