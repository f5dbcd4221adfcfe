"""The contract as code: complete, enforced, bounded, and rendered."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from tools.contract_table import BEGIN, END, comments, page_with

from heliograph.api import contract
from heliograph.api.v1 import (
    errors_pb2,
    options_pb2,
    states_pb2,
)
from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    log_service_pb2 as logs_pb,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)
from heliograph.api.v1 import (
    run_reporting_service_pb2 as reporting_pb,
)
from heliograph.api.v1 import (
    token_service_pb2 as tokens_pb,
)
from heliograph.engine.codes import FailureCode, LaunchDelay, StateCode
from heliograph.exceptions import BY_REASON


def test_every_text_field_says_why_it_may_cross_and_how_much() -> None:
    assert contract.gaps() == []


def test_every_method_says_whether_it_changes_something_and_who_may_call_it() -> None:
    methods = list(contract.methods())
    assert len(methods) > 40
    assert all(method.GetOptions().HasExtension(options_pb2.policy) for method in methods)
    for method in methods:
        reads = method.name.startswith(("Get", "List", "Watch", "Tail", "Explain", "Preview", "WhoAmI"))
        assert contract.policy(method).mutation is not reads, method.full_name


def test_what_a_run_may_say_holds_no_field_for_results_defaults_or_code() -> None:
    names = {field.full_name.removeprefix("heliograph.api.v1.") for field in contract.fields()}
    forbidden = ("result_location", "result_value", "default_value", "source_code", "env_values", "docstring")
    assert not [name for name in names if any(word in name for word in forbidden)]


def test_codes_of_the_engine_are_those_of_the_api() -> None:
    states = {name.removeprefix("STATE_"): number for name, number in states_pb2.State.items()}
    failures = {name.removeprefix("FAILURE_REASON_"): number for name, number in states_pb2.FailureReason.items()}
    delays = {name.removeprefix("LAUNCH_DELAY_"): number for name, number in states_pb2.LaunchDelay.items()}
    reasons = {name.removeprefix("ERROR_REASON_") for name in dict(errors_pb2.ErrorReason.items())}
    assert states == {"UNSPECIFIED": 0} | {code.name: code.value for code in StateCode}
    assert failures == {"UNSPECIFIED": 0} | {code.name: code.value for code in FailureCode}
    assert delays == {"UNSPECIFIED": 0} | {code.name: code.value for code in LaunchDelay}
    assert reasons == {"UNSPECIFIED", *BY_REASON}


def test_all_violations_come_at_once_with_their_paths_and_without_values() -> None:
    graph = flows_pb.Graph(graph_hash="not an id!")
    graph.tasks.add(slug="fine")
    graph.tasks.add(slug="e\x00vil", tags=["a" * 201])
    request = flows_pb.RegisterFlowVersionRequest(parent="projects/<b>", flow_id="f" * 201, graph=graph)
    found = contract.violations(request)
    assert {v.path for v in found} == {
        "parent", "flow_id", "graph.graph_hash", "graph.tasks[1].slug", "graph.tasks[1].tags[0]",
    }  # fmt: skip
    assert not any("evil" in v.description or "not an id" in v.description for v in found)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("plain", True), ("mit Umlaut: ä, 漢字, 🙂", True), ("a b/c-d_e.f", True),
        ("new\nline", False), ("\x1b[31m", False), ("\x7f", False), ("\x85", False), ("a\u202eb", False),
        ("\u2066x", False), ("zero\u200bwidth", False), ("<script>", False), ("\u2028", False), ("\ufeff", False),
    ],
)  # fmt: skip
def test_names_have_printable_characters_only(text: str, good: bool) -> None:
    found = contract.violations(projects_pb.GetProjectRequest(name=text))
    assert (found == []) is good


def test_sizes_are_counted_in_bytes() -> None:
    limit = 1024
    assert not contract.violations(projects_pb.CreateProjectRequest(description="ä" * (limit // 2)))
    assert contract.violations(projects_pb.CreateProjectRequest(description="ä" * (limit // 2) + "a"))


def test_numbers_of_elements_enum_values_times_and_large_integers_are_judged() -> None:
    labels = runs_pb.CreateFlowRunRequest(labels=["x"] * 65)
    assert [v.path for v in contract.violations(labels)] == ["labels"]
    states = runs_pb.ListFlowRunsRequest(states=[8, 99])  # type: ignore[list-item]
    assert [v.path for v in contract.violations(states)] == ["states[1]"]
    when = runs_pb.CreateFlowRunRequest(scheduled_time=Timestamp(seconds=10**15))
    assert [v.path for v in contract.violations(when)] == ["scheduled_time"]
    batch = reporting_pb.RunEventBatch(epoch=2**63)
    assert [v.path for v in contract.violations(batch)] == ["epoch"]
    token = tokens_pb.CreateTokenRequest()
    token.lifetime.nanos = 2_000_000_000
    assert [v.path for v in contract.violations(token)] == ["lifetime"]


def test_python_names_are_brought_into_form() -> None:
    batch = reporting_pb.RunEventBatch(flow_run="projects/p/flowRuns/1")
    failure = batch.events.add().task_run.failure
    failure.exception_class = "flow.<locals>.Bad"
    failure.frames.add(path="flow.py", function="<module>")
    failure.text = "kept\x00 <as it is>\n" + "ä" * 8192
    assert contract.violations(batch)
    contract.conform(batch)
    assert contract.violations(batch) == []
    assert failure.exception_class == "flow.(locals).Bad"
    assert failure.frames[0].function == "(module)"
    assert failure.text.startswith("kept\ufffd <as it is>\n")


@given(st.text(), st.integers(min_value=1, max_value=64), st.booleans())
def test_conformed_text_keeps_the_contract(text: str, limit: int, meta: bool) -> None:
    made = contract.conform_text(text, limit, meta=meta)
    assert len(made.encode()) <= limit
    assert contract.conform_text(made, limit, meta=meta) == made


@given(st.text(max_size=300))
def test_any_line_can_be_sent_after_it_was_conformed(text: str) -> None:
    request = logs_pb.WriteLogEntriesRequest(flow_run="projects/p/flowRuns/1")
    clean = text.encode("utf-8", "replace").decode()
    request.entries.add(sequence=1, logger=clean, message=clean)
    contract.conform(request)
    assert contract.violations(request) == []


def test_the_table_names_every_text_field_with_class_limit_and_comment() -> None:
    said = comments()
    table = contract.render_table(said)
    lines = table.splitlines()[2:]
    texts = [f for f in contract.fields() if f.type in (f.TYPE_STRING, f.TYPE_BYTES)]
    assert len(lines) == len(texts)
    assert "| `LogEntry.message` | USER_TEXT | 8,192 bytes | The line, scrubbed; empty in mode `local`. |" in lines
    assert all(line.split("|")[4].strip() for line in lines), "a field has no comment"


def test_the_table_goes_between_its_markers() -> None:
    page = f"# Concepts\n{BEGIN}\nold\n{END}\nafter\n"
    assert page_with("| new |\n", page) == f"# Concepts\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
