"""What `flow.run()`, `register()` and `run_agent()` do before they hand over, and the schedule loop."""

import sys
import traceback
import types
from datetime import UTC, datetime, timedelta

import pytest

from heliograph import DateTimeParameter, Flow, Parameter, context, task
from heliograph.core import running
from heliograph.exceptions import (
    CycleError,
    FlowError,
    InvalidArgumentError,
    MissingParameterError,
    UnknownParameterError,
)
from heliograph.schedules import CronSchedule, DatesClock, IntervalSchedule, Schedule


@task
def double(x):
    return 2 * x


def doubling():
    with Flow("doubling") as flow:
        double(Parameter("x"))
    return flow


def result(flow, state):
    [end] = flow.terminal_tasks()
    return state.result[end].result


class TestParameters:
    def test_by_mapping_and_by_keyword(self):
        flow = doubling()
        assert result(flow, flow.run({"x": 2})) == 4
        assert result(flow, flow.run(x=3)) == 6
        assert result(flow, flow.run(context={"parameters": {"x": 4}})) == 8

    def test_unknown_and_missing_ones_are_refused_before_anything_runs(self):
        ran = []

        @task
        def note(x):
            ran.append(x)

        with Flow("f") as flow:
            note(1)
            double(Parameter("x"))
        with pytest.raises(UnknownParameterError, match="no parameter 'z'; it has x"):
            flow.run(x=1, z=2)
        with pytest.raises(UnknownParameterError, match="'q', 'z'"):
            flow.run({"q": 1}, x=1, z=2)
        with pytest.raises(MissingParameterError, match="x"):
            flow.run()
        with pytest.raises(ValueError, match="return_tasks"):
            flow.run(x=1, return_tasks=[])
        assert not ran

    def test_a_parameter_may_have_the_name_of_an_option(self):
        with Flow("f") as flow:
            double(Parameter("state", default=1))
        assert result(flow, flow.run({"state": 5})) == 10

    def test_a_date_default_is_honoured(self):
        @task
        def year(date):
            return date.year

        with Flow("f") as flow:
            year(DateTimeParameter("date", default="2020-02-03"))
        assert result(flow, flow.run()) == 2020


class TestRefusals:
    def test_inside_the_block(self):
        with Flow("f") as flow:
            double(1)
            with pytest.raises(RuntimeError, match="inside the `with` block"):
                flow.run()
            with pytest.raises(ValueError, match="inside the `with` block"):
                flow.register("p")
            with pytest.raises(ValueError, match="inside the `with` block"):
                flow.run_agent()

    def test_while_the_bundle_is_loaded(self):
        flow = doubling()
        with context(loading_flow=True):
            for call in (flow.run, lambda: flow.register("p"), flow.run_agent):
                with pytest.warns(UserWarning, match="does nothing while the flow is being loaded"):
                    assert call() is None

    def test_register_checks_graph_and_schedule_before_it_calls_anyone(self):
        flow = doubling()
        flow.schedule = IntervalSchedule(timedelta(milliseconds=10))
        with pytest.raises(InvalidArgumentError, match="at least 1 second"):
            flow.register("p")
        flow.schedule = None
        one, two = double.copy(), double.copy()
        flow.chain(one, two, one)
        with pytest.raises(CycleError):
            flow.register("p")

    def test_register_says_which_task_has_a_name_that_cannot_cross(self):
        for options in ({"name": "a<b"}, {"slug": "a\nb"}, {"tags": ["\u202e"]}):
            with Flow("f") as flow:
                double(1, task_args=options)
            with pytest.raises(InvalidArgumentError, match="of flow 'f' cannot be registered: its"):
                flow.register("p")
        with pytest.raises(InvalidArgumentError, match="name of a flow"):
            Flow("a/b").register("p")


class TestDelegation:
    def test_register_hands_its_arguments_over(self, monkeypatch):
        seen = {}

        def register_flow(flow, project_name, **options):
            seen.update(options, flow=flow, project_name=project_name)
            return "projects/p/flows/doubling/versions/1"

        monkeypatch.setitem(
            sys.modules, "heliograph.client.registration", types.SimpleNamespace(register_flow=register_flow)
        )
        flow = doubling()
        version = flow.register("p", labels=["a"], set_schedule_active=False, idempotency_key="k", quiet=True)
        assert version == "projects/p/flows/doubling/versions/1"
        assert seen == {
            "flow": flow, "project_name": "p", "labels": ["a"], "set_schedule_active": False, "quiet": True,
        }  # fmt: skip

    def test_run_agent_finds_the_agents_by_name(self, monkeypatch):
        seen = {}
        module = types.SimpleNamespace(run_agent=lambda flow, **options: seen.update(options, flow=flow))
        monkeypatch.setitem(sys.modules, "heliograph_agents.in_process", module)
        flow = doubling()
        flow.run_agent(show_flow_logs=True, labels=["x"])
        assert seen == {"flow": flow, "show_flow_logs": True, "labels": ["x"]}


class TestSchedule:
    def test_each_time_runs_once_with_its_parameters_and_the_end_is_told(self, monkeypatch, capsys):
        waited = []
        monkeypatch.setattr(running, "_wait_until", lambda _, time: waited.append(time))
        seen = []

        @task
        def note(x, y):
            seen.append((x, y, context.scheduled_start_time))

        later = datetime.now(UTC) + timedelta(hours=1)
        with Flow("f", schedule=Schedule(
            [DatesClock([later], {"x": 1}), DatesClock([later + timedelta(hours=1)], {"x": 2, "y": 3})]
        )) as flow:  # fmt: skip
            note(Parameter("x", default=0), Parameter("y"))
        state = flow.run(y=9)
        assert state.is_successful()
        assert [item[:2] for item in seen] == [(1, 9), (2, 9)]
        assert [item[2] for item in seen] == waited == [later, later + timedelta(hours=1)]
        assert "no further time" in capsys.readouterr().out

    def test_it_says_what_it_waits_for_and_stops_at_ctrl_c(self, monkeypatch, capsys):
        class Interrupted:
            def wait(self, seconds):
                assert 0 < seconds <= 30
                raise KeyboardInterrupt

        monkeypatch.setattr(running.threading, "Event", Interrupted)
        flow = doubling()
        flow.schedule = CronSchedule("0 13 * * *")
        assert flow.run(x=1) is None
        out = capsys.readouterr().out
        assert "T13:00:00+00:00" in out
        assert "run_on_schedule=False" in out
        assert "Stopped" in out

    def test_without_the_schedule_it_runs_now(self):
        flow = doubling()
        flow.schedule = CronSchedule("0 0 1 1 *")
        assert result(flow, flow.run(run_on_schedule=False, x=1)) == 2

    def test_it_really_waits(self):
        flow = doubling()
        soon = datetime.now(UTC) + timedelta(milliseconds=150)
        flow.schedule = Schedule([DatesClock([soon], {"x": 5})])
        state = flow.run()
        assert result(flow, state) == 10
        assert datetime.now(UTC) >= soon


def test_asking_for_the_task_that_was_called_tells_of_its_copy() -> None:
    @task
    def total() -> int:
        return 1

    with Flow("copies") as flow:
        income = total()
    state = flow.run()
    assert state is not None
    assert state.result[income].result == 1
    with pytest.raises(KeyError) as no:
        state.result[total]
    assert str(no.value).startswith("the task 'total' itself is not in the flow: calling it")
    assert "x = total(…)" in "".join(traceback.format_exception(no.value))
    assert total not in state.result
    with pytest.raises(KeyError, match="nothing"):
        state.result["nothing"]


def test_a_task_outside_a_flow_names_its_run() -> None:
    @task
    def total() -> int:
        return 1

    with pytest.raises(FlowError) as no:
        total()
    assert "total.run(" in "".join(traceback.format_exception(no.value))
