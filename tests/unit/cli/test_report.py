"""What a run did and why it waits, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from heliograph.api.v1 import flow_run_service_pb2, flow_service_pb2, states_pb2, task_run_service_pb2
from heliograph.cli.delays import WORDS
from heliograph.cli.report import failure_words, failures, gantt_lines, task_rows
from heliograph.cli.states import parse_state, state_name
from heliograph.cli.table import Cell
from heliograph.cli.why import explanation_lines, lateness
from heliograph.client.refs import task_labels
from heliograph.engine.codes import FailureCode, LaunchDelay, StateCode

S = StateCode
LABELS = ["extract", "clean", "load"]


def stamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def task(
    number: int, state: StateCode, start: float, end: float, child: int | None = None, error_id: str = ""
) -> task_run_service_pb2.TaskRun:
    made = task_run_service_pb2.TaskRun(task=number, task_slug=f"{LABELS[number]}-1", state=int(state), run_count=1)
    made.start_time.CopyFrom(stamp(start))
    made.end_time.CopyFrom(stamp(end))
    if child is not None:
        made.map_index = child
    if error_id:
        made.failure.reason = int(FailureCode.EXCEPTION)  # type: ignore[assignment]
        made.failure.exception_class = "builtins.ValueError"
        made.failure.error_id = error_id
        made.failure.frames.add(path="flow.py", line=42, function="clean")
    return made


RUN = flow_run_service_pb2.FlowRun(name="projects/p/flowRuns/0199", run_name="brave-otter", state=int(S.FAILED))
RUN.start_time.CopyFrom(stamp(100))
RUN.end_time.CopyFrom(stamp(110))


def texts(row: list[Cell | str]) -> list[str]:
    return [cell.text if isinstance(cell, Cell) else cell for cell in row]


def test_who_waits_for_another_type_of_agent_is_told_to_start_one() -> None:
    lines = explanation_lines(explanation("NO_MATCHING_AGENT"), launcher="docker")
    assert "heliograph agent start --type docker" in "\n".join(lines)


def test_a_map_is_one_row_with_its_failed_children_below() -> None:
    children = [task(1, S.SUCCESS, 101, 102, child=n) for n in range(30)]
    children[7] = task(1, S.FAILED, 101, 103, child=7, error_id="0199.1")
    rows = [
        texts(row)
        for row in task_rows(RUN, [task(0, S.SUCCESS, 100, 101), task(1, S.MAPPED, 101, 103), *children], LABELS)
    ]
    assert [row[0] for row in rows] == ["extract", "clean", "  clean[7]"]
    assert rows[1][5] == "30 children: 29 Success, 1 Failed"
    assert rows[2][5] == "ValueError at flow.py:42 in clean"
    assert rows[0][2:4] == ["+0 ms", "1 s"]


def test_of_many_failed_children_the_first_are_named() -> None:
    children = [task(1, S.FAILED, 101, 102, child=n, error_id=f"0199.{n}") for n in range(25)]
    rows = [texts(row) for row in task_rows(RUN, [task(1, S.MAPPED, 101, 102), *children], LABELS)]
    assert len(rows) == 12
    assert rows[-1][0] == "  and 15 more"


def test_children_whose_parent_is_not_told_yet_are_shown_together() -> None:
    rows = [texts(row) for row in task_rows(RUN, [task(1, S.RUNNING, 101, 0, child=n) for n in range(3)], LABELS)]
    assert len(rows) == 1


def test_the_runs_own_failure_is_left_out_where_it_only_says_that_tasks_failed() -> None:
    run = flow_run_service_pb2.FlowRun()
    run.CopyFrom(RUN)
    run.failure.reason = int(FailureCode.TASKS_FAILED)  # type: ignore[assignment]
    run.failure.error_id = "0199.ff"
    assert [who for who, _ in failures(run, [task(1, S.FAILED, 0, 1, error_id="0199.1")], LABELS)] == ["clean"]
    run.failure.reason = int(FailureCode.LOAD_FAILED)  # type: ignore[assignment]
    assert [who for who, _ in failures(run, [], LABELS)] == ["the flow run"]


def test_failures_in_words() -> None:
    assert failure_words(states_pb2.Failure()) == ""
    assert failure_words(states_pb2.Failure(reason=int(FailureCode.EXIT_CODE), exit_code=3)) == "exit code 3"  # type: ignore[arg-type]
    assert "signal 9" in failure_words(states_pb2.Failure(reason=int(FailureCode.SIGNAL), signal=9))  # type: ignore[arg-type]


def test_the_gantt_chart_of_a_map_spans_its_children() -> None:
    lines = gantt_lines(
        [task(0, S.SUCCESS, 100, 101), task(1, S.MAPPED, 101, 101), task(1, S.SUCCESS, 101, 105, child=0)],
        LABELS, columns=60, color=False,
    )  # fmt: skip
    assert lines[2].endswith("4 s")


def test_labels_are_names_where_they_are_unique() -> None:
    graph = flow_service_pb2.Graph()
    for name, slug in (("a", "a-1"), ("b", "b-1"), ("b", "b-2"), ("", "c-1")):
        graph.tasks.add(name=name, slug=slug)
    assert task_labels(graph) == ["a", "b-1", "b-2", "c-1"]


def test_states_by_any_spelling() -> None:
    assert state_name(S.TRIGGER_FAILED) == "TriggerFailed"
    assert parse_state("trigger_failed") is parse_state("TriggerFailed") is parse_state("TRIGGER-FAILED")
    for code in StateCode:
        assert parse_state(state_name(code)) is code
    with pytest.raises(ValueError, match="states are"):
        parse_state("happy")


def explanation(situation: str, **fields: object) -> flow_run_service_pb2.ExplainFlowRunResponse:
    pb = flow_run_service_pb2
    return pb.ExplainFlowRunResponse(flow_run=RUN, situation=pb.Situation.Value(f"SITUATION_{situation}"), **fields)  # type: ignore[arg-type]


SITUATIONS = [value.name for value in flow_run_service_pb2.Situation.DESCRIPTOR.values if value.number]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_has_words(situation: str) -> None:
    lines = explanation_lines(explanation(situation.removeprefix("SITUATION_")))
    assert lines[0].startswith("Run brave-otter ")
    assert lines[0].endswith(".")


def waiting(situation: str, delay: LaunchDelay | None, state: StateCode = S.SCHEDULED, **fields: object) -> str:
    """What is said of a run that has not begun."""
    answer = explanation(situation, launch_delay=states_pb2.LaunchDelay.ValueType(delay or 0), **fields)
    answer.flow_run.ClearField("start_time")
    answer.flow_run.state = states_pb2.State.ValueType(state)
    answer.flow_run.agent = "agents/berlin"
    return "\n".join(explanation_lines(answer))


@pytest.mark.parametrize("delay", LaunchDelay)
def test_every_delay_has_words_of_its_own(delay: LaunchDelay) -> None:
    what, advice = WORDS[delay]
    assert f"It waits: {what}." in waiting("LAUNCHING", delay)
    assert advice in waiting("LAUNCHING", delay)
    assert [words for words, _ in WORDS.values()].count(what) == 1


def test_a_run_that_was_put_back_says_why_how_often_and_until_when() -> None:
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(minutes=5))
    text = waiting("PUT_BACK", LaunchDelay.QUOTA, put_back_count=3, next_try_time=soon)
    assert text.startswith("Run brave-otter waits: it could not be launched, and is tried again.")
    assert "berlin put it back 3 times: a quota of the infrastructure is used up." in text
    assert "It is given out again in 5 min, at " in text
    assert "raise the quota" in text
    assert "The log of berlin says it to the word." in text
    assert "berlin put it back twice." in waiting("PUT_BACK", None, put_back_count=2), "an older agent says no more"


def test_what_a_run_waited_for_is_over_when_it_is_or_has_begun() -> None:
    begun = explanation("RUNNING", launch_delay=states_pb2.LAUNCH_DELAY_QUOTA, put_back_count=1)
    begun.flow_run.start_time.FromSeconds(1)
    assert "quota" not in "\n".join(explanation_lines(begun))
    never = waiting("FINISHED", LaunchDelay.QUOTA, S.CANCELLED, put_back_count=4)
    assert "berlin put it back 4 times: a quota" in never
    assert "raise the quota" not in never


def test_a_run_held_after_a_restore_says_until_when() -> None:
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(minutes=2))
    text = waiting("STARTING", None, next_try_time=soon)
    assert "within seconds" not in text
    assert "after the control plane was restored from a backup" in text


def test_an_agent_that_does_not_fit_is_told_what_it_lacks() -> None:
    match = flow_run_service_pb2.AgentMatch(
        agent="agents/berlin", missing_labels=["gpu"], wrong_host=True, offline=True
    )
    lines = explanation_lines(
        explanation("NO_MATCHING_AGENT", agents=[match], required_labels=["gpu"], required_host="ada")
    )
    text = "\n".join(lines)
    assert "berlin: lacks label gpu, is on another host than the bundle, is offline" in text
    assert "--label gpu" in text
    assert "on host ada" in text


def test_a_failed_run_says_where_its_texts_are() -> None:
    lines = explanation_lines(explanation("FINISHED", failed_task_runs=[task(1, S.FAILED, 0, 1, error_id="0199.1")]))
    text = "\n".join(lines)
    assert "Task clean-1 is Failed: ValueError at flow.py:42 in clean" in text
    assert "heliograph errors show 0199.1" in text


def test_a_few_seconds_are_not_late() -> None:
    run = flow_run_service_pb2.FlowRun()
    assert lateness(run) == ""
    run.lateness.FromSeconds(2)
    assert lateness(run) == ""
    run.lateness.FromSeconds(130)
    assert lateness(run) == "late by 2 min 10 s"


def test_times_are_read_as_utc() -> None:
    from heliograph.client.refs import to_datetime

    assert to_datetime(Timestamp()) is None
    assert to_datetime(stamp(1.5)) == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
