"""Following a run: order, maps, ends of streams, and advice while it waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.api.v1 import flow_service_pb2, log_service_pb2, states_pb2, task_run_service_pb2
from heliograph.cli import live
from heliograph.cli.session import Session
from heliograph.engine.codes import StateCode as S
from heliograph.exceptions import UnavailableError

NAME = "projects/p/flowRuns/0199"


def stamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def change(state: S, at: float, *tasks: task_run_service_pb2.TaskRun) -> pb.WatchFlowRunsResponse:
    run = pb.FlowRun(name=NAME, run_name="otter", state=int(state), state_time=stamp(at), flow_version="v")  # type: ignore[arg-type]
    return pb.WatchFlowRunsResponse(flow_run=run, task_runs=tasks)


def task(number: int, state: S, at: float, **fields: Any) -> task_run_service_pb2.TaskRun:
    return task_run_service_pb2.TaskRun(task=number, state=int(state), state_time=stamp(at), **fields)  # type: ignore[arg-type]


def line(message: str, at: float, number: int | None = None) -> log_service_pb2.LogEntry:
    entry = log_service_pb2.LogEntry(
        time_unix_micros=int(at * 1e6), level=log_service_pb2.LOG_LEVEL_INFO, message=message
    )
    if number is not None:
        entry.task = number
    return entry


class FakeClient:
    """Plays back streams."""

    def __init__(self, changes: list[Any], lines: list[Any]) -> None:
        self.changes, self.lines = changes, lines
        self.explained = 0

    def get_flow_version(self, _: str) -> flow_service_pb2.FlowVersion:
        version = flow_service_pb2.FlowVersion()
        for name in ("extract", "clean"):
            version.graph.tasks.add(name=name, slug=f"{name}-1")
        version.graph.edges.add(upstream=0, downstream=1)
        return version

    def watch_flow_run(self, _: str) -> Iterator[Any]:
        yield from self._play(self.changes)

    def tail_logs(self, _: str) -> Iterator[Any]:
        yield from self._play(self.lines)

    def explain_flow_run(self, _: str) -> pb.ExplainFlowRunResponse:
        self.explained += 1
        run = pb.FlowRun(run_name="otter", state=int(S.SCHEDULED))  # type: ignore[arg-type]
        return pb.ExplainFlowRunResponse(flow_run=run, situation=pb.SITUATION_NO_AGENT)

    @staticmethod
    def _play(items: list[Any]) -> Iterator[Any]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, threading.Event):
                item.wait(60)
            else:
                yield item


def follow(client: Any, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[pb.FlowRun, list[str]]:
    session = Session(color="never")
    session._client = client
    run = pb.FlowRun(name=NAME, state=int(S.SCHEDULED), flow_version="v")  # type: ignore[arg-type]
    ended = live.Follower(session, run, **options).follow()
    return ended, capsys.readouterr().out.splitlines()


def words(lines: list[str]) -> list[str]:
    return [" ".join(item.split()[1:]) for item in lines]


def test_states_and_lines_stand_in_the_order_in_which_they_happened(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(
        [
            change(S.RUNNING, 100),
            change(S.RUNNING, 100, task(0, S.SUCCESS, 102, start_time=stamp(101), end_time=stamp(102))),
            change(S.SUCCESS, 103),
        ],
        [line("read 5 rows", 101.5, 0), line("started", 100.5)],
    )
    ended, lines = follow(client, capsys)
    assert ended.state == S.SUCCESS
    assert words(lines) == [
        "flow run Running",
        "flow run INFO started",
        "extract INFO read 5 rows",
        "extract Success after 1 s",
        "flow run Success",
    ]


def test_the_same_state_twice_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient([change(S.RUNNING, 1, task(0, S.RUNNING, 1))] * 3 + [change(S.SUCCESS, 2)], [])
    assert words(follow(client, capsys)[1]) == ["flow run Running", "extract Running", "flow run Success"]


def test_children_of_a_map_have_no_lines_unless_they_fail_and_then_few(capsys: pytest.CaptureFixture[str]) -> None:
    children = [task(1, S.FAILED if n % 2 else S.SUCCESS, 2, map_index=n) for n in range(40)]
    client = FakeClient(
        [change(S.RUNNING, 1, task(1, S.MAPPED, 1, child_count=40), *children), change(S.FAILED, 3)], []
    )
    lines = words(follow(client, capsys)[1])
    assert "clean Mapped, 40 children" in lines
    assert sum(item.startswith("clean[") for item in lines) == live.CHILD_FAILURES
    assert not any("Success" in item for item in lines)


def test_hostile_lines_act_on_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient([change(S.SUCCESS, 1)], [line("\x1b[2J\x1b]0;owned\x07\r\nsecond", 1)])
    text = "\n".join(follow(client, capsys)[1])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "second" in text


def test_the_last_lines_are_waited_for_but_not_forever(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LAST_LINES_SECONDS", 0.2)
    never = threading.Event()
    ended, lines = follow(FakeClient([change(S.SUCCESS, 2)], [line("last words", 1), never]), capsys)
    never.set()
    assert ended.state == S.SUCCESS
    assert "flow run INFO last words" in words(lines)


def test_a_broken_stream_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnavailableError, match="gone"):
        follow(FakeClient([change(S.RUNNING, 1), UnavailableError("gone")], []), capsys)


def test_a_run_that_waits_long_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_ADVICE_SECONDS", 0.0)
    gate = threading.Event()
    client = FakeClient([change(S.SCHEDULED, 1), gate, change(S.SUCCESS, 2)], [])
    explain = client.explain_flow_run

    def explain_and_go_on(name: str) -> Any:
        gate.set()
        return explain(name)

    client.explain_flow_run = explain_and_go_on  # type: ignore[method-assign]
    session = Session(color="never")
    session._client = client  # type: ignore[assignment]
    run = pb.FlowRun(name=NAME, state=int(S.SCHEDULED), flow_version="v")  # type: ignore[arg-type]
    live.Follower(session, run).follow()
    assert client.explained == 1
    assert "no agent was ever seen" in capsys.readouterr().err


def test_a_run_whose_infrastructure_waits_long_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_ADVICE_SECONDS", 0.0)
    gate, submitted = threading.Event(), pb.FlowRun(name=NAME, run_name="otter", flow_version="v")
    submitted.state = states_pb2.STATE_SUBMITTED
    client = FakeClient([change(S.SUBMITTED, 1), gate, change(S.SUCCESS, 2)], [])

    def explain(_: str) -> pb.ExplainFlowRunResponse:
        gate.set()
        return pb.ExplainFlowRunResponse(
            flow_run=submitted, situation=pb.SITUATION_LAUNCHING, launch_delay=states_pb2.LAUNCH_DELAY_NO_ROOM
        )

    client.explain_flow_run = explain  # type: ignore[method-assign]
    session = Session(color="never")
    session._client = client  # type: ignore[assignment]
    live.Follower(session, submitted).follow()
    assert "It waits: the infrastructure has no free place that fits it." in capsys.readouterr().err


def test_scripts_get_the_messages_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = follow(FakeClient([change(S.SUCCESS, 1)], [line("hello", 1)]), capsys, output="jsonl")
    items = [json.loads(item) for item in lines]
    assert {"STATE_SUCCESS"} == {item["flow_run"]["state"] for item in items if "flow_run" in item}
    assert [item["message"] for item in items if "message" in item] == ["hello"]


def test_what_goes_on_before_the_first_words_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOADING_SECONDS", 0.0)
    submitted = change(S.SUBMITTED, 1)
    submitted.flow_run.agent = "agents/north"
    client = FakeClient([submitted, change(S.SUCCESS, 2)], [])
    shown, told = live.Follower._tell_loading, threading.Event()
    original = client.watch_flow_run

    def slowly(name: str) -> Iterator[Any]:
        for number, item in enumerate(original(name)):
            if number:
                told.wait(60)
            yield item

    def tell(follower: live.Follower) -> None:
        shown(follower)
        if follower.run.state == S.SUBMITTED:
            told.set()

    client.watch_flow_run = slowly  # type: ignore[method-assign]
    monkeypatch.setattr(live.Follower, "_tell_loading", tell)
    lines = words(follow(client, capsys)[1])
    assert sorted(lines) == ["flow run Submitted by north", "flow run Success", "flow run loading the bundle on north"]


def test_a_quick_start_needs_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient([change(S.SUBMITTED, 1), change(S.RUNNING, 2), change(S.SUCCESS, 3)], [])
    assert not any("loading" in item for item in follow(client, capsys)[1])


def test_a_task_that_did_not_run_names_the_one_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    broken = task(0, S.FAILED, 2, failure={"exception_class": "builtins.ValueError"})
    refused = task(1, S.TRIGGER_FAILED, 3, failure={"exception_class": "heliograph.engine.signals.TRIGGERFAIL"})
    client = FakeClient([change(S.RUNNING, 1, broken, refused), change(S.FAILED, 4)], [])
    lines = words(follow(client, capsys)[1])
    assert "extract Failed: ValueError" in lines
    assert "clean TriggerFailed, not run: extract failed" in lines
