"""Why a task did not run, in words."""

from __future__ import annotations

from heliograph.api.v1 import flow_run_service_pb2, flow_service_pb2, task_run_service_pb2
from heliograph.cli.not_run import NotRun
from heliograph.cli.report import failures, task_rows
from heliograph.cli.why import explanation_lines
from heliograph.engine.codes import FailureCode
from heliograph.engine.codes import StateCode as S

LABELS = ["read", "price_of", "total", "report"]


def graph() -> flow_service_pb2.Graph:
    made = flow_service_pb2.Graph()
    for name in LABELS:
        made.tasks.add(name=name, slug=f"{name}-1")
    made.edges.add(upstream=0, downstream=1, mapped=True)
    made.edges.add(upstream=1, downstream=2)
    made.edges.add(upstream=2, downstream=3)
    return made


def task(number: int, state: S, child: int | None = None, kind: str = "") -> task_run_service_pb2.TaskRun:
    made = task_run_service_pb2.TaskRun(task=number, task_slug=f"{LABELS[number]}-1", state=int(state))  # type: ignore[arg-type]
    if child is not None:
        made.map_index = child
    if state.is_failed:
        ours = state is S.TRIGGER_FAILED
        made.failure.exception_class = kind or (
            "heliograph.engine.signals.TRIGGERFAIL" if ours else "builtins.ValueError"
        )
        made.failure.reason = int(FailureCode.TRIGGER if ours else FailureCode.EXCEPTION)  # type: ignore[assignment]
        made.failure.error_id = f"0199.{number}"
        made.failure.frames.add(path="heliograph/triggers.py", line=81, function="all_successful")
    return made


def words(*tasks: task_run_service_pb2.TaskRun) -> str:
    return NotRun(graph(), LABELS, tasks).words(tasks[-1])


def test_the_task_before_that_failed_is_named() -> None:
    assert words(task(0, S.FAILED), task(1, S.TRIGGER_FAILED)) == "not run: read failed"
    assert words(task(2, S.TRIGGER_FAILED), task(3, S.TRIGGER_FAILED)) == "not run: total did not run"


def test_of_a_map_the_child_that_failed_is_named_or_how_many_did() -> None:
    children = [task(1, S.SUCCESS, 0), task(1, S.FAILED, 1)]
    assert words(task(1, S.MAPPED), *children, task(2, S.TRIGGER_FAILED)) == "not run: price_of[1] failed"
    more = [*children, task(1, S.FAILED, 2)]
    assert words(task(1, S.MAPPED), *more, task(2, S.TRIGGER_FAILED)) == "not run: 2 of price_of failed"


def test_where_nothing_failed_the_trigger_is_named() -> None:
    assert words(task(0, S.SUCCESS), task(1, S.TRIGGER_FAILED)) == "not run: its trigger was not satisfied"


def test_a_trigger_of_ones_own_that_raised_keeps_its_error() -> None:
    assert words(task(0, S.SUCCESS), task(1, S.TRIGGER_FAILED, kind="builtins.KeyError")) == ""
    assert words(task(0, S.FAILED)) == ""


def test_reports_say_it_and_offer_no_text_of_it() -> None:
    run = flow_run_service_pb2.FlowRun(run_name="otter", state=int(S.FAILED))  # type: ignore[arg-type]
    tasks = [task(0, S.FAILED), task(1, S.TRIGGER_FAILED)]
    rows = task_rows(run, tasks, LABELS, graph())
    assert rows[1][5] == "not run: read failed"
    assert [who for who, _ in failures(run, tasks, LABELS)] == ["read"]
    answer = flow_run_service_pb2.ExplainFlowRunResponse(
        flow_run=run, situation=flow_run_service_pb2.SITUATION_FINISHED, failed_task_runs=tasks
    )
    lines = explanation_lines(answer, graph())
    assert "Task price_of did not run: read failed" in lines
    assert any(line.startswith("Task read is Failed: ValueError") for line in lines)
    assert sum("errors show" in line for line in lines) == 1
