"""Results: what is written is read back, from where it was said, and nowhere else."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.result import NoResult, Result, ResultNotImplementedError
from heliograph.engine.results import (
    ConstantResult,
    JSONResult,
    LocalResult,
    S3Result,
    SecretResult,
    describe,
    open_stored,
)
from heliograph.engine.serializers import JSONSerializer, PandasSerializer, PickleSerializer
from heliograph.exceptions import ResultStoreError


def test_a_plain_result_lives_in_memory_only() -> None:
    result = Result({"a": 1})
    for call in (lambda: result.write(1), lambda: result.read("x"), lambda: result.exists("x")):
        with pytest.raises(ResultNotImplementedError):
            call()
    assert describe(result).location is None
    assert describe(result).reason == "no result is configured"


def test_no_result_is_one_object_and_not_a_result_of_none() -> None:
    assert pickle.loads(pickle.dumps(NoResult)) is NoResult
    assert NoResult.copy() is NoResult
    assert NoResult != Result(None)
    assert NoResult.from_value(3) == Result(3)
    assert str(NoResult) == "NoResult"


def test_equality_looks_at_type_value_location_and_serializer() -> None:
    assert Result(1, "x") == Result(1, "x")
    assert Result(1, "x") != Result(1, "y")
    assert Result(1, serializer=JSONSerializer()) != Result(1, serializer=PickleSerializer())
    assert LocalResult(value=1) != Result(1)


def test_a_local_result_goes_to_the_template_below_its_folder(tmp_path: Path) -> None:
    result = LocalResult(dir=tmp_path / "r", location="{task_name}/{date:%Y-%m}/{parameters[country]}")
    written = result.write(
        {"cases": 74}, task_name="download", date=datetime(2020, 9, 7, tzinfo=UTC), parameters={"country": "AF"}
    )
    assert written.location == str(tmp_path / "r" / "download" / "2020-09" / "AF")
    assert written.value == {"cases": 74}
    assert result.location == "{task_name}/{date:%Y-%m}/{parameters[country]}", "the template stays as it is"
    assert result.read(written.location).value == {"cases": 74}
    assert result.read("download/2020-09/AF").value == {"cases": 74}
    assert written.size_bytes == Path(written.location).stat().st_size
    assert [path.name for path in (tmp_path / "r" / "download" / "2020-09").iterdir()] == ["AF"], "no temporary file"


def test_a_function_can_make_the_location(tmp_path: Path) -> None:
    result = LocalResult(dir=tmp_path, location=lambda **kwargs: f"{kwargs['task_name']}.bin")
    assert result.write(1, task_name="a").location == str(tmp_path / "a.bin")
    with pytest.raises(ResultStoreError, match="returned int, not text"):
        LocalResult(dir=tmp_path, location=lambda **_: 17).write(1)


def test_the_default_location_is_below_the_home_folder_and_new_each_time(home: Path) -> None:
    first, second = LocalResult().write(1), LocalResult().write(2)
    assert first.location.startswith(str(home / "results"))
    assert first.location != second.location


def test_existing_is_told_of_the_rendered_template(tmp_path: Path) -> None:
    result = LocalResult(dir=tmp_path, location="{task_name}.x")
    assert not result.exists("{task_name}.x", task_name="a")
    result.write(None, task_name="a")
    assert result.exists("{task_name}.x", task_name="a")
    assert not result.exists("a.x/below")
    (tmp_path / "folder").mkdir()
    assert not result.exists("folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_not_absence(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o000)
    with pytest.raises(ResultStoreError, match="cannot be told"):
        LocalResult(dir=folder).exists("x")


def test_an_unknown_variable_names_those_that_there_are(tmp_path: Path) -> None:
    result = LocalResult(dir=tmp_path, location="{task_nam}")
    with pytest.raises(ResultStoreError, match=r"'task_nam', which is not known here; there are: task_name, today"):
        result.write(1, task_name="a", today="2020-09-07")
    for template in ("{", "{0}", "{task_name.none}", "{task_name[x]}", "{today:%Q%}"):
        with pytest.raises(ResultStoreError):
            LocalResult(dir=tmp_path, location=template).write(1, task_name="a", today=7)


@pytest.mark.parametrize("value", ["../x", "a/../../x", "/etc/passwd", "..", "", "a\0b", "../home2/x"])
def test_what_fills_a_template_cannot_lead_out_of_the_folder(tmp_path: Path, value: str) -> None:
    result = LocalResult(dir=tmp_path / "home", location="{country}")
    for call in (
        lambda: result.write(1, country=value),
        lambda: result.exists("{country}", country=value),
    ):
        with pytest.raises(ResultStoreError):
            call()
    assert not (tmp_path / "x").exists()


def test_an_absolute_template_stays_in_the_folder_its_author_wrote(tmp_path: Path) -> None:
    result = LocalResult(dir=tmp_path / "elsewhere", location=f"{tmp_path}/out/cases-{{country}}.csv")
    assert result.write(1, country="AF").location == str(tmp_path / "out" / "cases-AF.csv")
    with pytest.raises(ResultStoreError, match="leads out of the folder"):
        result.write(1, country="x/../../../up")


@given(value=st.text(max_size=30))
def test_no_text_whatever_leads_out(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    base = tmp_path_factory.getbasetemp() / "contained"
    result = LocalResult(dir=base, location="a/{value}/b")
    try:
        path = result._path(result.location, {"value": value})
    except ResultStoreError:
        return
    assert path.is_relative_to(base)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = LocalResult(dir=tmp_path, location="x")
    result.write("old")

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ResultStoreError, match="No space left"):
        result.write("new")
    assert result.read("x").value == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x"]


def test_what_cannot_be_serialized_or_read_is_a_store_error(tmp_path: Path) -> None:
    result = LocalResult(dir=tmp_path, location="x", serializer=JSONSerializer())
    with pytest.raises(ResultStoreError, match="JSONSerializer cannot serialize a value of type set"):
        result.write({1})
    (tmp_path / "x").write_text("{")
    with pytest.raises(ResultStoreError, match="JSONSerializer cannot read what is at"):
        result.read("x")
    with pytest.raises(ResultStoreError, match="there is no result at"):
        result.read("y")
    with pytest.raises(ResultStoreError, match="is not a folder"):
        LocalResult(dir=tmp_path / "x")


def test_from_value_drops_the_location() -> None:
    result = Result(1, "x", JSONSerializer())
    assert result.from_value(2) == Result(2, None, JSONSerializer())
    assert result == Result(1, "x", JSONSerializer())


def test_constants_are_read_and_never_written() -> None:
    assert ConstantResult(3).read("anything").value == 3
    assert ConstantResult(3).exists("anything")
    with pytest.raises(ResultStoreError):
        ConstantResult(3).write(4)
    assert "part of the flow" in describe(ConstantResult(3)).reason


def test_a_secret_result_asks_its_task_again_and_does_not_show_the_value() -> None:
    class Task:
        secret_name = "DB"

        def run(self, name: str) -> str:
            return f"value of {name}"

    result = SecretResult(Task())
    read = result.read("DB")
    assert read.value == "value of DB"
    assert "value of" not in repr(read)
    with pytest.raises(ResultStoreError):
        result.write("x")
    assert describe(read).location is None


def test_a_json_result_is_its_own_location_and_stays_out_of_descriptions() -> None:
    written = JSONResult().write({"country": "AF"})
    assert JSONResult().read(written.location).value == {"country": "AF"}
    assert JSONResult().exists(written.location)
    assert not JSONResult().exists("{")
    assert "AF" not in repr(describe(written))


def test_a_description_is_enough_to_read_a_local_result(tmp_path: Path) -> None:
    written = LocalResult(dir=tmp_path, serializer=JSONSerializer()).write([1, 2])
    stored = describe(written)
    assert stored.kind == "heliograph.engine.results.LocalResult"
    assert stored.serializer == "heliograph.engine.serializers.JSONSerializer"
    assert stored.size_bytes == 6
    assert open_stored(stored).value == [1, 2]


def test_a_description_never_makes_other_code_run(tmp_path: Path) -> None:
    from dataclasses import replace

    stored = describe(LocalResult(dir=tmp_path).write(1))
    for change in (
        {"kind": "os.system"},
        {"serializer": "os.system"},
        {"serializer": "heliograph.engine.serializers.importlib"},
        {"location": None, "reason": "checkpoint=False"},
    ):
        with pytest.raises(ResultStoreError):
            open_stored(replace(stored, **change))
    frame = replace(stored, serializer="heliograph.engine.serializers.PandasSerializer")
    with pytest.raises(ResultStoreError, match="only the flow's own code"):
        open_stored(frame)


def test_an_s3_client_is_not_pickled() -> None:
    result = S3Result("bucket", boto3_kwargs={"endpoint_url": "http://127.0.0.1:9"})
    assert result.objects is result.objects
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert copy._opened is None


def test_results_with_different_options_of_a_serializer_differ() -> None:
    assert Result(serializer=PandasSerializer("csv")) == Result(serializer=PandasSerializer("csv"))
    assert Result(serializer=PandasSerializer("csv")) != Result(serializer=PandasSerializer("json"))
