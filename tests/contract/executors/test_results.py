"""Where values go: one rule on every executor."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.contract.executors.conftest import Runner

from heliograph.context import context
from heliograph.core.flow import Flow
from heliograph.core.parameter import Parameter
from heliograph.engine import signals
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.result import Result
from heliograph.engine.results import LocalResult
from heliograph.engine.sink import StoredResult
from heliograph.engine.state import Cached, Failed, Success
from heliograph.exceptions import FlowError
from heliograph.utilities.tasks import task


class Broken(Result):
    """A result whose storage always refuses."""

    stores = True

    def write(self, value_: Any, **kwargs: Any) -> Result:
        raise OSError("disk full")


def reasons(run: Runner) -> dict[int, str]:
    return {number: stored.reason for number, _, stored in run.sink.results}


def test_without_a_result_nothing_is_kept_and_the_sink_is_told_why(run: Runner) -> None:
    with Flow("f") as flow:
        task(lambda: 1, name="a")()
        task(lambda: 1, name="b", checkpoint=True)()
    run(flow)
    assert reasons(run) == {
        0: "no result is configured",
        1: "checkpoint=True, but neither the task nor the flow has a result that stores",
    }
    assert not any(run.sink.flags)


def test_the_flows_result_keeps_all_values_that_are_not_switched_off(run: Runner, tmp_path: Path) -> None:
    with Flow("f", result=LocalResult(dir=str(tmp_path))) as flow:
        a = task(lambda: 1, name="a")()
        task(lambda: 2, name="b", checkpoint=False)()
        task(lambda: None, name="c")()
        p = Parameter("p", default=3)
        d = task(lambda x: x, name="d")(p)
    state = run(flow)
    stored = {number: item for number, _, item in run.sink.results}
    assert stored[0].location is not None
    assert Path(stored[0].location).is_file()
    assert stored[0].kind == "heliograph.engine.results.LocalResult"
    assert stored[0].size_bytes > 0
    assert stored[1].reason == "checkpoint=False"
    assert stored[2].reason == "the value is None"
    assert stored[3].location is None  # a parameter
    assert {event[0] for event, flag in zip(run.sink.events, run.sink.flags, strict=True) if flag} == {0, 4}
    assert state.result[a]._result.read(stored[0].location).value == 1
    assert state.result[d].result == 3


def test_the_place_is_told_before_the_state(run: Runner, tmp_path: Path) -> None:
    order: list[str] = []
    with Flow("f") as flow:
        task(lambda: 1, name="a", result=LocalResult(dir=str(tmp_path)))()

    class Sink(type(run.sink)):  # type: ignore[misc]
        def result(self, task: int, map_index: int | None, stored: StoredResult) -> None:
            order.append("result")

        def task_state(self, *args: Any) -> None:
            order.append(args[2].name)

    from heliograph.engine.flow_runner import FlowRunner

    FlowRunner(flow, sink=Sink()).run(executor=run.executor)
    assert order == ["RUNNING", "result", "SUCCESS"]


def test_a_target_that_exists_stands_in_for_the_run(run: Runner, tmp_path: Path) -> None:
    ran: list[int] = []

    @task(checkpoint=True, result=LocalResult(dir=str(tmp_path)), target="{task_name}-{today}")
    def download() -> str:
        ran.append(1)
        return "records"

    with Flow("f") as flow:
        d = download()
        after = task(lambda x: x.upper(), name="after")(d)
    date = {"date": datetime(2020, 9, 7, tzinfo=UTC)}
    assert type(run(flow, context=date).result[d]) is Success
    assert (tmp_path / "download-2020-09-07").is_file()
    again = run(flow, context=date)
    assert isinstance(again.result[d], Cached)
    assert again.result[after].result == "RECORDS"
    assert ran == [1]
    assert run.sink.states_of(0) == [StateCode.CACHED]
    assert run.sink.results[0][2].location == str(tmp_path / "download-2020-09-07")
    run(flow, context={"date": datetime(2020, 9, 8, tzinfo=UTC)})
    assert ran == [1, 1]


def test_a_failed_upstream_beats_an_existing_target(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(LocalResult().serializer.serialize(1))

    @task
    def fail() -> None:
        raise ValueError

    with Flow("f") as flow:
        t = task(lambda x: x, name="t", result=LocalResult(dir=str(tmp_path)), target="there")(fail())
    assert run(flow).result[t].is_failed()


def test_templates_take_inputs_before_context_before_parameters(run: Runner, tmp_path: Path) -> None:
    with Flow("f") as flow:
        p = Parameter("country", default="DE")
        here = LocalResult(dir=str(tmp_path))
        task(lambda country: country, name="t", result=here, target="{country}.{flow_name}")("AF")
        task(lambda x: x, name="u", result=here, target="u.{country}")(p)
    assert run(flow).is_successful()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["AF.f", "u.DE"]


def test_an_unknown_variable_fails_the_task(run: Runner, tmp_path: Path) -> None:
    with Flow("f") as flow:
        t = task(lambda: 1, name="t", result=LocalResult(dir=str(tmp_path), location="{nope}"))()
    state = run(flow)
    assert type(state.result[t]) is Failed
    assert run.sink.failures[0][3] is FailureCode.RESULT_STORE


def test_a_failing_write_fails_the_task_and_is_retried(run: Runner) -> None:
    with Flow("f") as flow:
        t = task(lambda: 1, name="t", result=Broken(), max_retries=1, retry_delay=1)()
    state = run(flow)
    assert isinstance(state.result[t].result, OSError)
    assert run.sink.states_of(0) == [StateCode.RUNNING, StateCode.RETRYING, StateCode.RUNNING, StateCode.FAILED]


def test_the_success_signal_keeps_its_result(run: Runner, tmp_path: Path) -> None:
    @task(result=LocalResult(dir=str(tmp_path)), target="kept")
    def signal() -> None:
        raise signals.SUCCESS(result=5)

    with Flow("f") as flow:
        signal()
    run(flow)
    assert (tmp_path / "kept").is_file()


def test_loops_keep_the_last_value_at_a_target(run: Runner, tmp_path: Path) -> None:
    @task(result=LocalResult(dir=str(tmp_path)), target="loop")
    def loop() -> int:
        n = context.get("task_loop_result", 0)
        if n < 3:
            raise signals.LOOP(result=n + 1)
        return int(n)

    with Flow("f") as flow:
        w = loop()
    assert run(flow).result[w].result == 3
    assert LocalResult(dir=str(tmp_path)).read("loop").value == 3


# --- mapped tasks ---------------------------------------------------------------------------------------------------


def test_children_have_their_own_targets(run: Runner, tmp_path: Path) -> None:
    with Flow("f") as flow:
        t = task(lambda x: x * 2, name="t", result=LocalResult(dir=str(tmp_path)), target="{map_index}").map([1, 2, 3])
    assert run(flow).result[t].result == [2, 4, 6]
    again = run(flow)
    assert [type(s).__name__ for s in again.result[t].map_states] == ["Cached"] * 3
    assert again.result[t].result == [2, 4, 6]


def test_a_shared_target_is_refused_before_anything_runs(run: Runner, tmp_path: Path) -> None:
    with Flow("f") as flow:
        task(lambda x: x, name="t", result=LocalResult(dir=str(tmp_path)), target="same").map([1, 2])
    with pytest.raises(FlowError, match="share"):
        run(flow)
    assert run.sink.flow_events == []


def test_children_whose_different_inputs_meet_at_one_target_fail(run: Runner, tmp_path: Path) -> None:
    with Flow("f") as flow:
        t = task(lambda x, y: x + y, name="t", result=LocalResult(dir=str(tmp_path)), target="{x}").map(
            [1, 1, 2, 2], [10, 20, 30, 30]
        )
    kinds = sorted(type(s).__name__ for s in run(flow).result[t].map_states)
    assert kinds.count("Failed") == 1  # (1, 10) and (1, 20) differ; (2, 30) is the same twice


def test_a_result_location_that_children_share_fails_all_but_the_first(run: Runner, tmp_path: Path) -> None:
    with Flow("f", result=LocalResult(dir=str(tmp_path), location="{task_name}")) as flow:
        t = task(lambda x: x, name="t").map([1, 2, 3])
    kinds = [type(s).__name__ for s in run(flow).result[t].map_states]
    assert sorted(kinds) == ["Failed", "Failed", "Success"]


def test_functions_as_targets_are_guarded_too(run: Runner, tmp_path: Path) -> None:
    with Flow("f") as flow:
        t = task(lambda x: x, name="t", result=LocalResult(dir=str(tmp_path)), target=lambda **_: "same").map([1, 2])
    assert "same target" in str(next(s.result for s in run(flow).result[t].map_states if s.is_failed()))


def test_where_the_inputs_of_children_are_is_told(run: Runner, tmp_path: Path) -> None:
    with Flow("f", result=LocalResult(dir=str(tmp_path))) as flow:
        xs = task(lambda: [1, 2], name="a")()
        b = task(lambda x: x, name="b").map(xs)
        task(lambda x: x, name="c").map(b)
    run(flow)
    places = {(number, index): stored.location for number, index, stored in run.sink.results}
    told = {(number, index): inputs["x"].location for number, index, inputs in run.sink.inputs}
    assert told == {(1, 0): places[0, None], (1, 1): places[0, None], (2, 0): places[1, 0], (2, 1): places[1, 1]}
