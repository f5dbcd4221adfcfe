"""Branches: what runs, what is skipped, and what a merge gives."""

import pytest

from heliograph import FilterTask, Flow, Parameter, Task, apply_map, case, ifelse, merge, switch, task, unmapped
from heliograph.engine.signals import SKIP
from heliograph.engine.state import Failed, Skipped, Success, TriggerFailed
from heliograph.exceptions import FlowError
from heliograph.triggers import all_finished


@task
def value(x):
    return x


@task
def fail():
    raise ValueError


def kinds(flow, state):
    return {flow.slugs[item]: type(found) for item, found in state.result.items()}


class TestSwitch:
    def test_one_case_runs_and_the_others_are_skipped(self):
        with Flow("f") as flow:
            a, b = value("a"), value("b")
            after = value(b)
            switch(Parameter("x", default="a"), {"a": a, "b": b})
        state = flow.run()
        assert isinstance(state.result[a], Success)
        assert isinstance(state.result[b], Skipped)
        assert isinstance(state.result[after], Skipped)
        assert state.is_successful()
        assert flow.run(x="b").result[after].result == "b"
        assert len(flow.get_tasks(tags=["switch"])) == 2

    @pytest.mark.parametrize(("condition", "runs"), [(1, "yes"), ("", "no"), ([0], "yes")])
    def test_ifelse_takes_the_truth(self, condition, runs):
        with Flow("f") as flow:
            branches = {"yes": value("yes"), "no": value("no")}
            ifelse(condition, branches["yes"], branches["no"])
            both = merge(*branches.values())
        assert flow.run().result[both].result == runs

    def test_either_branch_may_be_none(self):
        with Flow("f") as flow:
            a = value(1)
            ifelse(value(False), None, a)
            ifelse(value(False), None, None)
        assert isinstance(flow.run().result[a], Success)


class TestMerge:
    def test_more_than_ten_branches_keep_the_order_of_the_call(self):
        with Flow("f") as flow:
            end = merge(*[value(None)], *[value(number) for number in range(12)])
        assert flow.run().result[end].result == 0

    def test_skips_are_not_values(self):
        @task
        def skip():
            raise SKIP

        with Flow("f") as flow:
            end = merge(skip(), value(3))
        assert flow.run().result[end].result == 3

    def test_all_skipped_skips_and_one_failed_fails(self):
        @task
        def skip():
            raise SKIP

        with Flow("f") as flow:
            skipped, failed = merge(skip(), skip()), merge(value(1), fail())
        state = flow.run()
        assert isinstance(state.result[skipped], Skipped)
        assert isinstance(state.result[failed], TriggerFailed)

    def test_it_cannot_skip_with_its_branches(self):
        with pytest.raises(ValueError, match="cannot skip"):
            merge(Task(), skip_on_upstream_skip=True)


class TestCase:
    def test_only_roots_of_the_block_wait_for_the_condition(self):
        with Flow("f") as flow:
            condition = value(True)
            outside = value(0)
            with case(condition, True):
                a = value(outside)
                b = value(a)
                parameter = Parameter("p", default=1)()
        compare = flow.get_tasks(name="CompareValue: True")[0]
        assert compare in flow.upstream_tasks(a)
        assert flow.upstream_tasks(b) == {a}
        assert not flow.upstream_tasks(parameter)

    @pytest.mark.parametrize(("x", "expected"), [(1, "one"), (2, "two"), (3, None)])
    def test_blocks_choose(self, x, expected):
        with Flow("f") as flow:
            condition = value(Parameter("x"))
            with case(condition, 1):
                one = value(value("one"))
            with case(condition, 2):
                two = value("two")
            end = merge(one, two)
        found = flow.run(x=x).result[end]
        assert found.result == expected if expected else isinstance(found, Skipped)

    @pytest.mark.parametrize(("x", "y", "runs"), [(1, 1, True), (1, 2, False), (2, 1, False)])
    def test_blocks_nest(self, x, y, runs):
        with Flow("f") as flow, case(value(Parameter("x")), 1):
            with case(value(Parameter("y")), 1):
                inner = value("inner")
            after = value("after")
        state = flow.run(x=x, y=y)
        assert isinstance(state.result[inner], Success if runs else Skipped)
        assert isinstance(state.result[after], Success if x == 1 else Skipped)

    def test_an_empty_block_adds_nothing(self):
        with Flow("f") as flow:
            condition = value(1)
            with case(condition, 1):
                pass
        assert flow.tasks == {condition}

    def test_misuse(self):
        with pytest.raises(TypeError, match="cannot be a task"):
            case(Task(), Task())
        other = Flow("other")
        with Flow("f"), case(value(1), 1):
            value(1)
            with pytest.raises(FlowError, match="two flows"):
                value(1, flow=other)


class TestFilter:
    def test_it_drops_none_and_exceptions_and_says_so(self):
        @task
        def half(x):
            if x == 1:
                raise ValueError
            return x if x % 2 == 0 else None

        said = []
        with Flow("f") as flow:
            mapped = half.map([0, 1, 2, 3])
            kept = FilterTask(log_func=said.append)(mapped)
            even = FilterTask(filter_func=lambda item: item == 2)(mapped)
        flow.set_reference_tasks([kept])
        state = flow.run()
        assert state.result[kept].result == [0, 2]
        assert state.result[even].result == [2]
        assert len(said) == 2
        assert kept.trigger is all_finished
        assert isinstance(state.result[mapped].map_states[1], Failed)


class TestApplyMap:
    def test_a_sub_graph_with_branches_runs_per_element(self):
        @task
        def is_even(x):
            return x % 2 == 0

        def build(x, offset):
            plus = value(x) + offset
            with case(is_even(plus), True):
                even = plus * 10
            with case(is_even(plus), False):
                odd = plus * -1
            return merge(even, odd), value("always")

        with Flow("f") as flow:
            branch, always = apply_map(build, Parameter("xs", default=[1, 2, 3]), offset=unmapped(1))
            total = value(branch)
            constant, _ = apply_map(build, [5, 6], [1, 2])
        state = flow.run()
        assert state.result[total].result == [20, -3, 40]
        assert state.result[always].result == ["always"] * 3
        assert state.result[constant].result == [60, 80]
        assert flow.run(xs=[1]).result[total].result == [20]

    def test_an_unmapped_list_stays_whole(self):
        with Flow("f") as flow:
            end = apply_map(lambda x, whole: value([x, whole]), [1, 2], unmapped([8, 9]))
        assert flow.run().result[end].result == [[1, [8, 9]], [2, [8, 9]]]

    def test_mapping_inside_is_refused(self):
        with Flow("f"), pytest.raises(FlowError, match="maps it already"):
            apply_map(value.map, [1, 2])
        with pytest.raises(FlowError, match="no flow is being built"):
            apply_map(lambda x: x, [1])
