"""Hand-made requests are the ones that the generated classes would make."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliograph.api.v1.log_service_pb2 import LogEntry, WriteLogEntriesRequest
from heliograph.api.v1.run_reporting_service_pb2 import RunEvent, RunEventBatch
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.sink import FailureInfo, FrameInfo
from heliograph.reporting.batches import event_batch, log_request, varint
from heliograph.reporting.events import flow_event, log_entry, task_event

failures = st.builds(
    FailureInfo,
    reason=st.sampled_from(FailureCode),
    exception_class=st.text(max_size=300),
    frames=st.lists(st.builds(FrameInfo, st.text(max_size=600), st.integers(0, 10**9), st.text(max_size=300))).map(
        tuple
    ),
    error_id=st.text("abc.0123", max_size=30),
    exit_code=st.none() | st.integers(-255, 255),
    signal=st.none() | st.integers(1, 64),
    text=st.text(max_size=100),
)
micros = st.integers(0, 2**62)
tasks = st.tuples(
    st.integers(0, 10_000), st.none() | st.integers(0, 50_000), st.sampled_from(StateCode), micros,
    st.integers(0, 100), micros, st.integers(0, 50_000), st.none() | failures, st.booleans(),
)  # fmt: skip
flows = st.tuples(st.sampled_from(StateCode), micros, st.none() | failures)
lines = st.tuples(
    micros, st.integers(0, 60), st.text(max_size=50), st.text(max_size=200),
    st.none() | st.integers(0, 10_000), st.none() | st.integers(0, 50_000),
)  # fmt: skip


@given(st.lists(tasks.map(task_event) | flows.map(flow_event), max_size=40), st.integers(1, 2**40))
def test_an_event_batch_is_what_the_generated_class_makes(payloads: list[bytes], first: int) -> None:
    rest = RunEventBatch(flow_run="projects/p/flowRuns/r", epoch=3, first_sequence=first, incarnation="i")
    by_hand = RunEventBatch.FromString(event_batch(rest.SerializeToString(), payloads))
    rest.events.extend(RunEvent.FromString(payload) for payload in payloads)
    assert by_hand == rest


@given(st.lists(lines, max_size=40))
def test_a_log_request_is_what_the_generated_class_makes(items: list[tuple]) -> None:
    payloads = [log_entry(item, number) for number, item in enumerate(items, 1)]
    rest = WriteLogEntriesRequest(flow_run="projects/p/flowRuns/r", epoch=3)
    by_hand = WriteLogEntriesRequest.FromString(log_request(rest.SerializeToString(), payloads))
    rest.entries.extend(LogEntry.FromString(payload) for payload in payloads)
    assert by_hand == rest


@given(st.integers(0, 2**63 - 1))
def test_varint(value: int) -> None:
    assert LogEntry.FromString(b"\x40" + varint(value)).dropped_before == value


@given(tasks, flows, lines)
def test_whatever_is_told_keeps_to_the_contract(task: tuple, flow: tuple, line: tuple) -> None:
    from heliograph.api.contract import violations

    assert violations(RunEvent.FromString(task_event(task))) == []
    assert violations(RunEvent.FromString(flow_event(flow))) == []
    assert violations(LogEntry.FromString(log_entry(line, 1))) == []
