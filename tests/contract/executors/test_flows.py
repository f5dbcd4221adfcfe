"""The same flows on every executor."""

from __future__ import annotations

import datetime as dt
import uuid
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.executors.conftest import Runner

from heliograph import triggers
from heliograph.context import context
from heliograph.core.flow import Flow
from heliograph.core.parameter import Parameter
from heliograph.core.task import Task
from heliograph.engine import signals
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.sink import FailureInfo
from heliograph.engine.state import (
    Cached,
    Failed,
    Mapped,
    Paused,
    Resume,
    Retrying,
    Running,
    Skipped,
    State,
    Success,
    TriggerFailed,
)
from heliograph.exceptions import MissingParameterError, UnknownParameterError
from heliograph.utilities.edges import flatten, unmapped
from heliograph.utilities.tasks import task


@task
def one() -> int:
    return 1


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def numbers(n: int = 3) -> list[int]:
    return list(range(n))


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def fail() -> None:
    raise ValueError("no such thing")


@task
def fail_on_one(x: int) -> int:
    if x == 1:
        raise ValueError("one")
    return x


@task
def skip() -> None:
    raise signals.SKIP("not today")


@task(trigger=triggers.all_finished)
def collect(xs: Any) -> Any:
    return xs


def names(flow: Flow, state: State) -> dict[str, Any]:
    return {flow.slugs[t]: s.result for t, s in state.result.items()}


# --- dependencies ---------------------------------------------------------------------------------------------------


def test_an_empty_flow_succeeds(run: Runner) -> None:
    state = run(Flow("empty"))
    assert state.is_successful()
    assert state.result == {}


def test_values_follow_data_edges_and_constants(run: Runner) -> None:
    with Flow("f") as flow:
        a = one()
        b = add(a, 10)
        c = add(x=b, y=a)
    state = run(flow)
    assert state.is_successful()
    assert [state.result[t].result for t in (a, b, c)] == [1, 11, 12]
    assert run.sink.flow_events == [StateCode.RUNNING, StateCode.SUCCESS]


def test_state_dependencies_order_without_values(run: Runner) -> None:
    order: list[str] = []

    @task
    def note(name: str) -> None:
        order.append(name)

    with Flow("f") as flow:
        first, second, third = note("first"), note("second"), note("third")
        third.set_upstream(second)
        second.set_upstream(first)
    assert run(flow).is_successful()
    assert order == ["first", "second", "third"]


def test_collections_of_tasks_become_values(run: Runner) -> None:
    with Flow("f") as flow:
        a = one()
        c = collect([a, {"k": inc(a)}, (a, 5)])
    assert run(flow).result[c].result == [1, {"k": 2}, (1, 5)]


def test_states_are_told_by_graph_index_in_order_of_time(run: Runner) -> None:
    with Flow("f") as flow:
        inc(one())
    run(flow)
    sink = run.sink
    for number in (0, 1):
        assert sink.states_of(number) == [StateCode.RUNNING, StateCode.SUCCESS]
        assert sink.times_of(number) == sorted(sink.times_of(number))
    seen = [event[0] for event in sink.events]
    assert seen == [0, 0, 1, 1]


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failure_fails_the_flow_and_what_depends_on_it(run: Runner) -> None:
    with Flow("f") as flow:
        broken = fail()
        after = inc(broken)
        apart = one()
    state = run(flow)
    assert state.is_failed()
    assert isinstance(state.result[broken].result, ValueError)
    assert isinstance(state.result[after], TriggerFailed)
    assert state.result[apart].is_successful()
    assert sorted(run.sink.failures, key=str) == sorted(
        [
            ("no such thing", 0, None, FailureCode.EXCEPTION),
            ('Trigger was "all_successful" but some of the upstream tasks failed.', 1, None, FailureCode.TRIGGER),
        ],
        key=str,
    )
    assert run.sink.flow_failure == FailureInfo(FailureCode.TASKS_FAILED)


def test_exception_text_reaches_the_sink_only_through_failed(run: Runner) -> None:
    with Flow("f") as flow:
        fail()
    run(flow)
    assert not any("no such thing" in repr(info) for info in run.sink.told)
    assert run.sink.told[-1] is not None
    assert run.sink.told[-1].exception_class == "builtins.ValueError"


def test_reference_tasks_decide(run: Runner) -> None:
    with Flow("f") as flow:
        good = one()
        fail()
    flow.set_reference_tasks([good])
    assert run(flow).is_successful()


@pytest.mark.parametrize("exception", [SystemExit, GeneratorExit, MemoryError])
def test_what_is_no_ordinary_exception_fails_the_task_only(run: Runner, exception: type[BaseException]) -> None:
    @task
    def leave() -> None:
        raise exception

    with Flow("f") as flow:
        leave()
        ok = one()
    state = run(flow)
    assert state.is_failed()
    assert state.result[ok].is_successful()


# --- parameters -----------------------------------------------------------------------------------------------------


def test_parameters_have_values_and_defaults(run: Runner) -> None:
    with Flow("f") as flow:
        x, y = Parameter("x"), Parameter("y", default=None)
        got = collect([x, y])
        seen = task(lambda: context.parameters["x"], name="seen")()
    state = run(flow, parameters={"x": 4})
    assert state.result[got].result == [4, None]
    assert state.result[seen].result == 4


def test_unknown_and_missing_parameters_are_refused_before_anything_runs(run: Runner) -> None:
    with Flow("f") as flow:
        collect([Parameter("x")])
    with pytest.raises(UnknownParameterError, match="'z'"):
        run(flow, parameters={"x": 1, "z": 2})
    with pytest.raises(MissingParameterError, match="'x'"):
        run(flow)
    assert isinstance(UnknownParameterError(), ValueError)
    assert run.sink.events == run.sink.flow_events == []


# --- mapping --------------------------------------------------------------------------------------------------------


def test_map_over_a_list(run: Runner) -> None:
    with Flow("f") as flow:
        ys = inc.map(numbers(4))
        t = total(ys)
    state = run(flow)
    mapped = state.result[ys]
    assert isinstance(mapped, Mapped)
    assert mapped.result == [1, 2, 3, 4]
    assert [s.result for s in mapped.map_states] == [1, 2, 3, 4]
    assert state.result[t].result == 10
    index = flow_index(flow, ys)
    assert run.sink.children[index] == 4
    assert run.sink.states_of(index, 2) == [StateCode.RUNNING, StateCode.SUCCESS]


def flow_index(flow: Flow, t: Task) -> int:
    from heliograph.engine.graph import compile_flow

    return compile_flow(flow).index[t]


def test_map_of_map_of_map_and_reduce(run: Runner) -> None:
    with Flow("f") as flow:
        a = inc.map(numbers(5))
        b = inc.map(a)
        c = add.map(b, a)
        t = total(c)
    state = run(flow)
    assert state.result[c].result == [3, 5, 7, 9, 11]
    assert state.result[t].result == 35


def test_unmapped_constants_and_zip_shortest(run: Runner) -> None:
    with Flow("f") as flow:
        base = one()
        a = add.map(numbers(3), unmapped(base))
        b = add.map(numbers(3), [10, 20])
        c = add.map(x=[1, 2], y=unmapped(5))
    state = run(flow)
    assert state.result[a].result == [1, 2, 3]
    assert state.result[b].result == [10, 21]
    assert state.result[c].result == [6, 7]


def test_unmapped_reduce_goes_whole_to_every_child(run: Runner) -> None:
    @task
    def share(x: int, xs: list[int]) -> float:
        return x / sum(xs)

    with Flow("f") as flow:
        a = inc.map(numbers(3))
        s = share.map(a, unmapped(a))
    assert run(flow).result[s].result == [1 / 6, 2 / 6, 3 / 6]


def test_an_empty_input_makes_no_children(run: Runner) -> None:
    with Flow("f") as flow:
        a = inc.map(numbers(0))
        b = inc.map(a)
        t = collect(b)
    state = run(flow)
    assert state.is_successful()
    assert state.result[a].is_mapped()
    assert state.result[b].map_states == []
    assert state.result[t].result == []


def test_strings_map_per_character(run: Runner) -> None:
    with Flow("f") as flow:
        a = task(lambda c: c.upper(), name="upper").map("abc")
    assert run(flow).result[a].result == ["A", "B", "C"]


@pytest.mark.parametrize("value", [{"a": 1}, 5, None, (i for i in range(2))], ids=["dict", "int", "none", "generator"])
def test_what_has_no_elements_fails_the_mapped_task_and_says_why(run: Runner, value: Any) -> None:
    with Flow("f") as flow:
        a = inc.map(task(lambda: value, name="value")())
        t = total(a)
    state = run(flow)
    assert state.is_failed()
    assert type(state.result[a]) is Failed
    assert "mapped over" in state.result[a].message
    assert isinstance(state.result[t], TriggerFailed)


def test_one_failed_child_stops_only_its_own_pipeline(run: Runner) -> None:
    with Flow("f") as flow:
        a = fail_on_one.map(numbers(3))
        b = inc.map(a)
        c = collect(b)
    flow.set_reference_tasks([b])
    state = run(flow)
    assert state.is_failed()
    assert state.result[a].is_successful()  # Mapped is a success, whatever the children
    kinds = [type(s).__name__ for s in state.result[b].map_states]
    assert kinds == ["Success", "TriggerFailed", "Success"]
    reduced = state.result[c].result
    assert reduced[0] == 1
    assert isinstance(reduced[1], signals.TRIGGERFAIL)
    assert reduced[2] == 3


def test_a_reduce_gets_exceptions_of_failed_children_in_place(run: Runner) -> None:
    with Flow("f") as flow:
        c = collect(fail_on_one.map(numbers(3)))
    result = run(flow).result[c].result
    assert result[::2] == [0, 2]
    assert isinstance(result[1], ValueError)


def test_a_reference_task_with_a_failed_child_fails_the_flow(run: Runner) -> None:
    with Flow("f") as flow:
        fail_on_one.map(numbers(3))
    assert run(flow).is_failed()


def test_a_failed_upstream_fails_the_mapped_task(run: Runner) -> None:
    with Flow("f") as flow:
        a = inc.map(fail())
        b = inc.map(a)
    state = run(flow)
    assert type(state.result[a]) is Failed
    assert "mapped over" in state.result[a].message
    assert state.result[b].is_failed()


def test_a_skipped_upstream_skips_the_mapped_task(run: Runner) -> None:
    with Flow("f") as flow:
        a = inc.map(skip())
        b = inc.map(a)
    state = run(flow)
    assert state.is_successful()
    assert state.result[a].is_skipped()
    assert state.result[b].is_skipped()


def test_flatten(run: Runner) -> None:
    @task
    def nested() -> list[list[int]]:
        return [[1, 2], [], [3]]

    @task
    def upto(n: int) -> list[int]:
        return list(range(n))

    with Flow("f") as flow:
        a = inc.map(flatten(nested()))
        b = inc.map(flatten(upto.map([1, 0, 3])))
        c = total(flatten(nested()))
        d = inc.map(flatten([[5], [6, 7]]))
    state = run(flow)
    assert state.result[a].result == [2, 3, 4]
    assert state.result[b].result == [1, 1, 2, 3]
    assert state.result[c].result == 6
    assert state.result[d].result == [6, 7, 8]


def test_flatten_passes_failed_children_on(run: Runner) -> None:
    @task
    def some(x: int) -> list[int]:
        if x == 1:
            raise ValueError("one")
        return [x, x]

    with Flow("f") as flow:
        a = some.map([0, 1, 2])
        b = inc.map(flatten(a))
    state = run(flow)
    assert [type(s).__name__ for s in state.result[b].map_states] == [
        "Success", "Success", "TriggerFailed", "Success", "Success",
    ]  # fmt: skip


def test_mapped_upstream_tasks_are_mapped_too(run: Runner) -> None:
    with Flow("f") as flow:
        a = inc.map([1, 2], upstream_tasks=[unmapped(one())])
        b = inc.map([1, 2], upstream_tasks=[one()])
    state = run(flow)
    assert state.result[a].is_successful()
    assert state.result[b].is_failed()


def test_children_know_their_index(run: Runner) -> None:
    seen = task(lambda x: (x, context.map_index, context.task_full_name), name="seen")
    with Flow("f") as flow:
        a = seen.map([7, 8])
    assert run(flow).result[a].result == [(7, 0, "seen[0]"), (8, 1, "seen[1]")]


def test_pipelines_of_maps_run_depth_first(run: Runner) -> None:
    order: list[tuple[str, int]] = []

    @task
    def first(x: int) -> int:
        order.append(("first", x))
        return x

    @task
    def second(x: int) -> int:
        order.append(("second", x))
        return x

    with Flow("f") as flow:
        second.map(first.map(list(range(20))))
    run(flow)
    assert order.index(("second", 0)) < order.index(("first", 19))


def test_the_trigger_of_a_mapped_task_is_judged_per_child(run: Runner) -> None:
    rescue = task(lambda x: f"rescued {x}", name="rescue", trigger=triggers.any_failed)
    with Flow("f") as flow:
        b = rescue.map(fail_on_one.map(numbers(3)))
    state = run(flow)
    assert [type(s).__name__ for s in state.result[b].map_states] == ["TriggerFailed", "Success", "TriggerFailed"]


def test_ten_thousand_children(run: Runner) -> None:
    with Flow("f") as flow:
        b = inc.map(inc.map(numbers(10_000)))
        t = total(b)
    state = run(flow)
    assert state.result[t].result == sum(range(10_000)) + 20_000
    assert len(state.result[b].result) == 10_000


# --- skips ----------------------------------------------------------------------------------------------------------


def test_skips_propagate_and_count_as_success(run: Runner) -> None:
    with Flow("f") as flow:
        s = skip()
        after = inc(s)
    state = run(flow)
    assert state.is_successful()
    assert isinstance(state.result[after], Skipped)


def test_a_task_that_opts_out_gets_the_signal(run: Runner) -> None:
    with Flow("f") as flow:
        got = task(lambda x: x, name="got", skip_on_upstream_skip=False)(skip())
    assert isinstance(run(flow).result[got].result, signals.SKIP)


def test_one_skipped_child_skips_the_reduce(run: Runner) -> None:
    @task
    def odd(x: int) -> int:
        if x % 2 == 0:
            raise signals.SKIP
        return x

    keep = task(lambda xs: [x for x in xs if isinstance(x, int)], name="keep", skip_on_upstream_skip=False)
    with Flow("f") as flow:
        children = odd.map(numbers(4))
        r, k = total(children), keep(children)
    state = run(flow)
    assert state.result[r].is_skipped()
    assert state.result[k].result == [1, 3]


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signal", [signals.FAIL, signals.SUCCESS, signals.SKIP, signals.VALIDATIONFAIL, signals.TRIGGERFAIL]
)
def test_signals_choose_the_end_state(run: Runner, signal: type[signals.StateSignal]) -> None:
    @task
    def choose() -> None:
        try:
            raise signal("text", result=7)  # noqa: TRY301
        except Exception:  # noqa: BLE001 - signals are no ordinary exceptions
            raise AssertionError from None

    with Flow("f") as flow:
        c = choose()
    state = run(flow)
    assert type(state.result[c]) is signal.state_class
    assert state.result[c].result == 7
    assert state.result[c].message == "text"


def test_loop_hands_results_on(run: Runner) -> None:
    @task
    def powers() -> int:
        value = context.get("task_loop_result", 1)
        count = context.get("task_loop_count", 1)
        if value >= 100:
            return count
        raise signals.LOOP(result=value * 3)

    with Flow("f") as flow:
        p = powers()
        q = inc(p)
    state = run(flow)
    assert state.result[p].result == 6
    assert state.result[q].result == 7
    states = run.sink.states_of(0)
    assert states == [StateCode.RUNNING, StateCode.LOOPED] * 5 + [StateCode.RUNNING, StateCode.SUCCESS]


def test_long_loops_do_not_recurse(run: Runner) -> None:
    @task
    def count() -> int:
        n = context.get("task_loop_result", 0)
        if n == 3000:
            return int(n)
        raise signals.LOOP(result=n + 1)

    with Flow("f") as flow:
        c = count()
    assert run(flow).result[c].result == 3000


def test_loop_with_retries_keeps_its_place(run: Runner) -> None:
    failed_once: set[int] = set()

    @task(max_retries=1, retry_delay=timedelta(seconds=1))
    def flaky() -> int:
        n = context.get("task_loop_count", 1)
        if n not in failed_once:
            failed_once.add(n)
            raise ValueError
        if n == 3:
            return int(context.task_loop_result)
        raise signals.LOOP(result=n * 10)

    with Flow("f") as flow:
        f = flaky()
    state = run(flow)
    assert state.result[f].result == 20
    assert run.sink.states_of(0).count(StateCode.RETRYING) == 3


# --- retries --------------------------------------------------------------------------------------------------------


def failing(times: int, **options: Any) -> tuple[Task, list[int]]:
    attempts: list[int] = []

    def work() -> str:
        attempts.append(context.task_run_count)
        if len(attempts) <= times:
            raise ValueError("again")
        return "done"

    return task(work, **options), attempts


def test_two_retries_are_three_attempts(run: Runner) -> None:
    work, attempts = failing(2, max_retries=2, retry_delay=timedelta(minutes=10))
    with Flow("f") as flow:
        w = work()
        after = collect(w)
    state = run(flow)
    assert state.result[after].result == "done"
    assert attempts == [1, 2, 3]
    assert run.sink.states_of(0) == [
        StateCode.RUNNING, StateCode.RETRYING, StateCode.RUNNING, StateCode.RETRYING, StateCode.RUNNING,
        StateCode.SUCCESS,
    ]  # fmt: skip
    assert [event[4] for event in run.sink.events if event[0] == 0] == [1, 1, 2, 2, 3, 3]
    assert [round(wait / 6e8, 3) for wait in run.clock.waits] == [1, 1]


def test_retries_run_out(run: Runner) -> None:
    work, attempts = failing(9, max_retries=1, retry_delay=timedelta(seconds=1))
    with Flow("f") as flow:
        w = work()
    state = run(flow)
    assert type(state.result[w]) is Failed
    assert attempts == [1, 2]


def test_retry_on_other_exceptions_fails_at_once(run: Runner) -> None:
    work, attempts = failing(9, max_retries=3, retry_delay=timedelta(seconds=1), retry_on=KeyError)
    with Flow("f") as flow:
        work()
    assert run(flow).is_failed()
    assert attempts == [1]


def test_a_task_that_never_ran_is_not_retried(run: Runner) -> None:
    work, attempts = failing(0, max_retries=3, retry_delay=timedelta(seconds=1))
    with Flow("f") as flow:
        w = work(upstream_tasks=[fail()])
    state = run(flow)
    assert isinstance(state.result[w], TriggerFailed)
    assert attempts == []


def test_the_retry_signal_ignores_max_retries(run: Runner) -> None:
    attempts: list[int] = []

    @task
    def work() -> str:
        attempts.append(1)
        if len(attempts) < 4:
            raise signals.RETRY("again")
        return "done"

    with Flow("f") as flow:
        w = work()
    assert run(flow).result[w].result == "done"
    assert len(attempts) == 4


def test_only_the_failed_child_is_retried(run: Runner) -> None:
    attempts: dict[int, int] = {}

    @task(max_retries=1, retry_delay=timedelta(seconds=5))
    def work(x: int) -> int:
        attempts[x] = attempts.get(x, 0) + 1
        if x == 1 and attempts[x] == 1:
            raise ValueError
        return x

    with Flow("f") as flow:
        w = work.map(numbers(3))
        t = total(inc.map(w))
    state = run(flow)
    assert attempts == {0: 1, 1: 2, 2: 1}
    assert state.result[t].result == 6


# --- triggers -------------------------------------------------------------------------------------------------------


def test_a_custom_trigger_that_fails_or_refuses(run: Runner) -> None:
    def broken(states: Any) -> bool:
        raise KeyError("x")

    with Flow("f") as flow:
        a = task(lambda: 1, name="a", trigger=broken)(upstream_tasks=[one()])
        b = task(lambda: 1, name="b", trigger=lambda states: not states)(upstream_tasks=[one()])
    state = run(flow)
    assert isinstance(state.result[a], TriggerFailed)
    assert isinstance(state.result[a].result, KeyError)
    assert isinstance(state.result[b], TriggerFailed)


def test_always_run_after_a_failure_gets_the_exception(run: Runner) -> None:
    with Flow("f") as flow:
        c = collect(fail())
    state = run(flow)
    assert isinstance(state.result[c].result, ValueError)
    assert state.is_successful()


# --- state handlers -------------------------------------------------------------------------------------------------


def test_handlers_see_every_change_in_order(run: Runner) -> None:
    seen: list[tuple[str, str]] = []

    def handler(t: Task, old: State, new: State) -> None:
        seen.append((type(old).__name__, type(new).__name__))

    work, _ = failing(1, max_retries=1, retry_delay=timedelta(seconds=1), state_handlers=[handler])
    with Flow("f") as flow:
        work()
    run(flow)
    assert seen == [
        ("Pending", "Running"), ("Running", "Failed"), ("Failed", "Retrying"), ("Retrying", "Running"),
        ("Running", "Success"),
    ]  # fmt: skip


def test_a_handler_that_looks_at_a_map_too_early_changes_nothing(run: Runner) -> None:
    seen: list[Any] = []

    def handler(_task: Any, _old: State, new: State) -> None:
        seen.append(new.result)

    with Flow("f") as flow:
        m = task(lambda x: x + 1, name="m", state_handlers=[handler]).map([1, 2, 3])
        total = task(lambda xs: xs[0] + xs[1] + xs[2], name="total")(m)
    state = run(flow)
    assert seen[0] == []
    assert state.result[m].result == [2, 3, 4]
    assert state.result[total].result == 9


def test_handlers_replace_states_and_feed_each_other(run: Runner) -> None:
    def to_success(t: Task, old: State, new: State) -> State | None:
        return Success("rescued", result=5) if new.is_failed() else None

    def double(t: Task, old: State, new: State) -> State:
        return Success(result=new.result * 2) if type(new) is Success else new

    with Flow("f") as flow:
        a = task(fail.run, name="a", state_handlers=[to_success, double])()
        b = inc(a)
    state = run(flow)
    assert state.result[a].result == 10
    assert state.result[b].result == 11


def test_a_handler_that_raises_fails_the_task(run: Runner) -> None:
    def handler(t: Task, old: State, new: State) -> None:
        if new.is_successful():
            raise RuntimeError("broken handler")

    with Flow("f") as flow:
        a = task(lambda: 1, name="a", state_handlers=[handler], max_retries=2, retry_delay=1)()
    state = run(flow)
    assert type(state.result[a]) is Failed
    assert isinstance(state.result[a].result, RuntimeError)


def test_a_handler_that_raises_a_signal_sets_that_state(run: Runner) -> None:
    def handler(t: Task, old: State, new: State) -> None:
        if new.is_running():
            raise signals.SKIP("no")

    with Flow("f") as flow:
        a = task(lambda: 1, name="a", state_handlers=[handler])()
    assert run(flow).result[a].is_skipped()


def test_on_failure_fires_on_failed_states_only(run: Runner) -> None:
    calls: list[str] = []
    note = {"on_failure": lambda t, s: calls.append(f"{t.name} {type(s).__name__}")}
    with Flow("f", on_failure=lambda f, s: calls.append(f"{f.name} {type(s).__name__}")) as flow:
        a = task(fail.run, name="a", **note)()
        task(lambda x: x, name="b", **note)(a)
        task(lambda: 1, name="c", **note)()
    run(flow)
    assert sorted(calls) == ["a Failed", "b TriggerFailed", "f Failed"]


def test_flow_handlers_and_the_terminal_handler(run: Runner) -> None:
    seen: list[Any] = []

    def handler(f: Flow, old: State, new: State) -> None:
        seen.append((type(old).__name__, type(new).__name__))

    def terminal(f: Flow, state: State, reference: set[State]) -> State:
        seen.append(sorted(type(s).__name__ for s in reference))
        return Failed("changed", result=state.result)

    with Flow("f", state_handlers=[handler], terminal_state_handler=terminal) as flow:
        a = one()
    state = run(flow)
    assert seen == [("Pending", "Running"), ("Running", "Success"), ["Success"]]
    assert type(state) is Failed
    assert state.message == "changed"
    assert state.result[a].result == 1
    assert run.sink.flow_events[-1] is StateCode.FAILED


def test_a_broken_flow_handler_fails_the_flow(run: Runner) -> None:
    def handler(f: Flow, old: State, new: State) -> None:
        raise RuntimeError("broken")

    with Flow("f", state_handlers=[handler]) as flow:
        one()
    assert run(flow).is_failed()


# --- given states ---------------------------------------------------------------------------------------------------


def test_given_end_states_are_not_run(run: Runner) -> None:
    ran: list[int] = []

    @task
    def work(x: int) -> int:
        ran.append(x)
        return x

    with Flow("f") as flow:
        a = work(1)
        b = work(a)
        c = inc(b)
    state = run(flow, task_states={a: Success(result=10)})
    assert ran == [10]
    assert state.result[c].result == 11
    state = run(flow, task_states={a: Success(result=10), b: Success(result=20)})
    assert state.result[c].result == 21
    assert run(flow, task_states=dict.fromkeys((a, b, c), Success(result=1))).is_successful()


def test_a_given_mapped_state_runs_only_the_children_that_did_not_end(run: Runner) -> None:
    ran: list[int] = []

    @task
    def work(x: int) -> int:
        ran.append(x)
        return x

    with Flow("f") as flow:
        w = work.map([1, 2, 3])
        t = total(inc.map(w))
    state = run(flow, task_states={w: Mapped(map_states=[Success(result=10), None, Success(result=30)])})
    assert ran == [2]
    assert state.result[t].result == 45


def test_a_given_finished_map_is_used_whole(run: Runner) -> None:
    with Flow("f") as flow:
        w = inc.map([1, 2])
        v = inc.map(w)
        t = total(v)
    state = run(flow, task_states={w: Mapped(map_states=[Success(result=5), Success(result=6)])})
    assert state.result[t].result == 13


def test_given_retry_states_keep_their_count(run: Runner) -> None:
    work, attempts = failing(9, max_retries=2, retry_delay=timedelta(seconds=1))
    with Flow("f") as flow:
        w = work()
    run(flow, task_states={w: Retrying(run_count=2)})
    assert attempts == [3]


def test_a_finished_flow_state_is_returned(run: Runner) -> None:
    with Flow("f") as flow:
        one()
    done = Success("was done")
    assert run(flow, state=done) is done


# --- pausing --------------------------------------------------------------------------------------------------------


def test_a_pause_without_anybody_to_ask_leaves_the_flow_running(run: Runner) -> None:
    with Flow("f") as flow:
        a = task(lambda: 1, name="a", trigger=triggers.manual_only)()
        b = inc(a)
        c = one()
    state = run(flow)
    assert type(state) is Running
    assert isinstance(state.result[a], Paused)
    assert state.result[b].is_pending()
    assert state.result[c].is_successful()
    state = run(flow, task_states={a: Resume()})
    assert state.is_successful()
    assert state.result[b].result == 2


def test_a_pause_with_a_time_ends_by_itself(run: Runner) -> None:
    @task
    def work() -> int:
        if context.get("resume"):
            return int(context.task_run_count)
        soon = dt.datetime(2040, 1, 1, tzinfo=dt.UTC)
        raise signals.PAUSE("wait", start_time=soon)

    with Flow("f") as flow:
        w = work()
    state = run(flow)
    assert state.result[w].result == 1
    assert run.sink.states_of(0) == [
        StateCode.RUNNING, StateCode.PAUSED, StateCode.RESUME, StateCode.RUNNING, StateCode.SUCCESS,
    ]  # fmt: skip


# --- cache ----------------------------------------------------------------------------------------------------------


def test_results_are_cached_between_runs(run: Runner) -> None:
    from heliograph.engine.cache_validators import all_inputs

    ran: list[int] = []

    @task(cache_for=timedelta(hours=1), cache_validator=all_inputs, cache_key=str(uuid.uuid4()))
    def work(x: int) -> int:
        ran.append(x)
        return x * 2

    with Flow("f") as flow:
        p = Parameter("x")
        w = work(p)
        after = inc(w)
    first = run(flow, parameters={"x": 3})
    assert isinstance(first.result[w], Cached)
    second = run(flow, parameters={"x": 3})
    assert isinstance(second.result[w], Cached)
    assert second.result[after].result == 7
    run(flow, parameters={"x": 4})
    assert ran == [3, 4]


# --- context --------------------------------------------------------------------------------------------------------


def test_what_the_context_holds(run: Runner) -> None:
    @task(tags=["blue"], name="look")
    def look() -> dict[str, Any]:
        return context.to_dict()

    with Flow("my flow") as flow:
        found = look()
    given = dt.datetime(2020, 3, 1, 12, tzinfo=dt.UTC)
    state = run(flow, context={"date": given, "mine": 1}, flow_run_id="run-1", flow_run_name="brisk")
    content = state.result[found].result
    assert content["today"] == "2020-03-01"
    assert content["yesterday_nodash"] == "20200229"
    assert content["tomorrow"] == "2020-03-02"
    assert content["date"] == given
    assert content["mine"] == 1
    assert content["flow_name"] == "my flow"
    assert content["flow_run_id"] == "run-1"
    assert content["flow_run_name"] == "brisk"
    assert content["task_name"] == content["task_full_name"] == "look"
    assert content["task_tags"] == {"blue"}
    assert content["task_run_count"] == 1
    assert content["map_index"] is None
    assert content["parameters"] == {}
    assert {"scheduled_start_time", "task_slug", "task_id", "task_run_id", "checkpointing", "config"} <= set(content)
    assert content["logger"].name == "heliograph.look"


def test_the_context_is_clean_after_a_run(run: Runner) -> None:
    @task
    def write() -> None:
        context.left_behind = 1

    with Flow("f") as flow:
        write()
        task(lambda: context.get("left_behind"), name="read")(upstream_tasks=[])
    before = context.to_dict()
    run(flow)
    assert context.to_dict() == before


def test_run_names_are_rendered_and_stay_here(run: Runner) -> None:
    @task(task_run_name="{country} {map_index} {today}")
    def work(country: str) -> str:
        return str(context.task_run_name)

    with Flow("f") as flow:
        w = work.map(["AF", "DE"])
    date = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert run(flow, context={"date": date}).result[w].result == ["AF 0 2020-01-01", "DE 1 2020-01-01"]
    assert sorted(n[2] for n in run.sink.names) == ["AF 0 2020-01-01", "DE 1 2020-01-01"]


def test_a_flow_inside_a_task(run: Runner) -> None:
    with Flow("inner") as inner:
        last = inc(inc(5))

    @task
    def outer() -> Any:
        state = inner.run()
        assert state is not None
        return state.result[last].result, context.task_name, context.flow_name

    with Flow("f") as flow:
        o = outer()
    assert run(flow).result[o].result == (7, "outer", "f")


def test_printed_lines_become_log_lines(run: Runner, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    @task(log_stdout=True)
    def talk() -> None:
        print("hello")
        print("wor", end="")
        print("ld")
        print("rest", end="")

    with Flow("f") as flow:
        talk()
        task(lambda: print("plain"), name="print")()
    with caplog.at_level("INFO"):
        run(flow)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line in ("hello", "world", "rest", "plain")] == ["hello", "world", "rest"]
    printed = capsys.readouterr().out.splitlines()
    assert "plain" in printed
    assert "hello" not in printed


def test_raise_on_exception_lets_user_errors_through(run: Runner) -> None:
    from heliograph.utilities.debug import raise_on_exception

    with Flow("f") as flow:
        fail()
    with raise_on_exception(), pytest.raises(ValueError, match="no such thing"):
        run(flow)
    with Flow("g") as quiet:
        skip()
    with raise_on_exception():
        assert run(quiet).is_successful()
