"""One schema for scripts: proto3 JSON with the API's field names, in every format."""

from __future__ import annotations

import json

import pytest

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.api.v1 import states_pb2
from heliograph.cli.output import emit_list, emit_one, to_plain, to_yaml
from heliograph.cli.table import Column


def run(name: str = "otter") -> pb.FlowRun:
    return pb.FlowRun(
        name=f"projects/p/flowRuns/{name}", run_name=name, state=states_pb2.STATE_SUCCESS, last_sequence=7
    )


def test_messages_keep_the_names_of_their_fields() -> None:
    plain = to_plain(run())
    assert plain["run_name"] == "otter"
    assert plain["state"] == "STATE_SUCCESS"
    assert plain["labels"] == []


@pytest.mark.parametrize("output", ["json", "jsonl", "yaml", "name", "table"])
def test_lists_in_every_format(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit_list([run("a"), run("b")], output, [Column("run")], lambda r: [r.run_name], name=lambda r: r.name)
    text = capsys.readouterr().out
    if output == "json":
        assert [item["run_name"] for item in json.loads(text)] == ["a", "b"]
    elif output == "jsonl":
        assert [json.loads(line)["run_name"] for line in text.splitlines()] == ["a", "b"]
    elif output == "yaml":
        assert text.count("- name: ") == 2
    elif output == "name":
        assert text.splitlines() == ["projects/p/flowRuns/a", "projects/p/flowRuns/b"]
    else:
        assert text.splitlines() == ["RUN", "a", "b"]


def test_an_empty_table_says_what_to_do_where_no_script_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    emit_list([], "table", [Column("run")], lambda r: [r], name=str, empty="Make one.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Make one.\n")
    emit_list([], "json", [Column("run")], lambda r: [r], name=str, empty="Make one.")
    assert json.loads(capsys.readouterr().out) == []


def test_one_item_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert emit_one(run(), "json", name="x")
    assert json.loads(capsys.readouterr().out)["run_name"] == "otter"
    assert not emit_one(run(), "table", name="x")


def test_yaml_nests_and_quotes() -> None:
    text = to_yaml({"a": [1, {"b": "x: y", "c": []}], "on": True, "odd key": None, "d": {}})
    assert text == 'a:\n  - 1\n  - b: "x: y"\n    c: []\n"on": true\n"odd key": null\nd: {}'
