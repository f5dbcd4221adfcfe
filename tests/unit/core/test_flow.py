"""What a flow's author builds: tasks, edges, slugs, and the questions a flow answers."""

import graphlib
import warnings

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph import Edge, Flow, Parameter, Task, context, task, unmapped
from heliograph.config import set_temporary_config
from heliograph.exceptions import CycleError, DuplicateSlugError, FlowError


@task
def add(x, y=1):
    return x + y


@task
def nothing():
    return None


class TestConstructor:
    @pytest.mark.parametrize("name", ["", None, False, 3])
    def test_a_flow_needs_a_name(self, name):
        with pytest.raises(ValueError, match="needs a name"):
            Flow(name)

    def test_tasks_edges_and_reference_tasks_can_be_given(self):
        a, b = Task(name="a"), Task(name="b")
        flow = Flow("f", tasks=[a], edges=[Edge(a, b)], reference_tasks=[a])
        assert flow.tasks == {a, b}
        assert flow.edges == {Edge(a, b)}
        assert flow.reference_tasks() == {a}

    def test_a_reference_task_must_be_in_the_flow(self):
        with pytest.raises(ValueError, match="cannot be a reference task"):
            Flow("f", reference_tasks=[Task(name="a")])

    def test_a_bare_function_is_no_list_of_state_handlers(self):
        with pytest.raises(TypeError, match="state_handlers"):
            Flow("f", state_handlers=print)

    def test_on_failure_is_called_for_failed_states_only(self):
        from heliograph.engine.state import Failed, Success

        seen = []
        flow = Flow("f", on_failure=lambda flow, state: seen.append((flow, state)))
        [handler] = flow.state_handlers
        failed, success = Failed(), Success()
        assert handler(flow, None, success) is success
        assert handler(flow, None, failed) is failed
        assert seen == [(flow, failed)]

    def test_the_executor_of_an_environment_is_taken(self):
        class Environment:
            executor = object()

        assert Flow("f", environment=Environment()).executor is Environment.executor
        assert Flow("f", environment=Environment(), executor=1).executor == 1

    def test_validate_looks_for_cycles_at_once(self):
        a, b = Task(name="a"), Task(name="b")
        with pytest.raises(CycleError):
            Flow("f", edges=[Edge(a, b), Edge(b, a)], validate=True)


class TestBlock:
    def test_nested_blocks_restore_the_outer_flow(self):
        with Flow("outer") as outer:
            with Flow("inner") as inner:
                assert context.flow is inner
                nothing()
            assert context.flow is outer
            nothing()
        assert "flow" not in context
        assert len(outer.tasks) == len(inner.tasks) == 1

    def test_a_flow_can_be_built_in_several_blocks_and_stays_picklable(self):
        flow = Flow("f")
        with flow, flow:
            nothing()
        with flow:
            add(1)
        loaded = cloudpickle.loads(cloudpickle.dumps(flow))
        assert sorted(loaded.slugs.values()) == ["add-1", "nothing-1"]

    def test_unused_tasks_give_one_warning_that_names_them(self):
        def build():
            with Flow("f"):
                Task()
                Parameter("p")
                nothing()

        with pytest.warns(UserWarning, match="not used in flow 'f': Task, p;") as caught:
            build()
        assert len(caught) == 1

    def test_patterns_constants_and_items_do_not_warn(self):
        class Twice(Task):
            def run(self, x):
                return 2 * x

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Flow("f"):
                Twice(name="t")([1, nothing()])[0]

    def test_a_copy_that_is_not_used_warns(self):
        with pytest.warns(UserWarning, match="not used"), Flow("f"):
            nothing.copy()

    def test_a_call_that_fails_or_names_another_flow_does_not_warn(self):
        other = Flow("other")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Flow("f"):
                nothing(flow=other)
                with pytest.raises(TypeError):
                    add(z=1)
        assert len(other.tasks) == 1

    def test_an_error_in_the_block_is_not_hidden_by_a_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(KeyError), Flow("f"):
                nothing.copy(**{}[1])


class TestTasksAndSlugs:
    def test_adding_a_task_twice_is_no_error(self):
        flow, a = Flow("f"), Task(name="a")
        assert flow.add_task(a) is flow.add_task(a)
        assert len(flow.tasks) == 1

    def test_only_tasks_can_be_added(self):
        with pytest.raises(TypeError, match="takes tasks"):
            Flow("f").add_task(1)

    def test_slugs_count_per_name_and_sorted_tags_and_avoid_explicit_ones(self):
        flow = Flow("f")
        tasks = [
            Task(name="a", slug="a-2"),
            Task(name="a"),
            Task(name="a"),
            Task(name="a", tags=["z", "b"]),
        ]
        for item in tasks:
            flow.add_task(item)
        assert [flow.slugs[item] for item in tasks] == ["a-2", "a-1", "a-3", "a-b-z-1"]

    def test_renaming_keeps_the_slug(self):
        flow, a = Flow("f"), Task(name="a")
        flow.add_task(a)
        a.name = "b"
        assert flow.slugs[a] == "a-1"

    def test_one_slug_for_two_tasks_is_refused(self):
        flow = Flow("f", tasks=[Task(slug="x")])
        with pytest.raises(DuplicateSlugError, match="two tasks with the slug 'x'"):
            flow.add_task(Task(slug="x"))
        assert len(flow.tasks) == 1

    def test_two_parameters_of_one_name_are_refused_with_advice(self):
        flow = Flow("f", tasks=[Parameter("p")])
        with pytest.raises(DuplicateSlugError) as caught:
            flow.add_task(Parameter("p"))
        assert "one Parameter object" in caught.value.hint

    def test_get_tasks_takes_the_intersection(self):
        a, b = Task(name="a", tags=["x"]), Task(name="a", tags=["x", "y"])
        flow = Flow("f", tasks=[a, b, Parameter("a", tags=["x"])])
        assert flow.get_tasks(name="a", tags=["x", "y"]) == [b]
        assert flow.get_tasks(slug="a-x-1") == [a]
        assert len(flow.get_tasks(task_type=Parameter)) == 1


class TestEdges:
    def test_a_constant_with_a_key_is_no_edge(self):
        with Flow("f") as flow:
            total = add([1, {"a": (2, {3})}], y=2)
        assert flow.tasks == {total}
        assert not flow.edges
        assert flow.constants[total] == {"x": [1, {"a": (2, {3})}], "y": 2}

    def test_a_parameter_waits_for_nothing(self):
        with Flow("f") as flow, pytest.raises(ValueError, match="waits for no task"):
            flow.add_edge(nothing(), Parameter("p")())

    def test_a_task_cannot_wait_for_itself(self):
        flow, a = Flow("f"), Task(name="a")
        with pytest.raises(CycleError):
            flow.add_edge(a, a)

    def test_an_argument_takes_one_value(self):
        with Flow("f") as flow:
            a, total = nothing(), add(nothing())
            with pytest.raises(FlowError, match="'x' of add has a value already"):
                flow.add_edge(a, total, key="x")
            with pytest.raises(FlowError, match="no argument 'z'"):
                flow.add_edge(a, total, key="z")

    @pytest.mark.parametrize("key", ["not an identifier", "class", ""])
    def test_a_key_must_be_an_argument_name(self, key):
        with pytest.raises(FlowError, match="name of an argument"):
            Edge(Task(), Task(), key)

    def test_edges_are_equal_by_all_five_fields(self):
        a, b = Task(), Task()
        assert Edge(a, b, "x") == Edge(a, b, "x")
        different = {
            Edge(a, b), Edge(b, a), Edge(a, b, "x"), Edge(a, b, mapped=True), Edge(a, b, flattened=True),
            Edge(a, b),
        }  # fmt: skip
        assert len(different) == 5
        assert Edge(a, b).tasks == {a, b}

    def test_chain_and_set_dependencies(self):
        a, b, c = (Task(name=name) for name in "abc")
        flow = Flow("f")
        edges = flow.chain(a, b, c)
        assert edges == [Edge(a, b), Edge(b, c)]
        flow.set_dependencies(a, downstream_tasks=[c])
        assert flow.downstream_tasks(a) == {b, c}
        assert flow.upstream_tasks(c) == {a, b}
        assert flow.edges_to(c) == {Edge(a, c), Edge(b, c)}
        assert flow.all_downstream_edges()[a] == {Edge(a, b), Edge(a, c)}
        assert flow.all_upstream_edges()[b] == {Edge(a, b)}
        assert flow.root_tasks() == {a}
        assert flow.terminal_tasks() == flow.reference_tasks() == {c}

    def test_asking_about_a_foreign_task_is_an_error(self):
        with pytest.raises(FlowError, match="not in flow"):
            Flow("f").edges_to(Task())


class TestValidation:
    def test_the_message_names_the_cycle_in_order(self):
        a, b, c, d = (Task(name=name) for name in "abcd")
        flow = Flow("f")
        flow.chain(a, b, c, d)
        flow.add_edge(d, b)
        with pytest.raises(CycleError) as caught:
            flow.validate()
        assert "b-1 → c-1 → d-1 → b-1" in str(caught.value)
        with pytest.raises(CycleError):
            flow.sorted_tasks()

    def test_eager_validation_by_argument_and_by_setting(self):
        a, b = Task(name="a"), Task(name="b")
        flow = Flow("f")
        flow.add_edge(a, b)
        with pytest.raises(CycleError):
            flow.add_edge(b, a, validate=True)
        assert len(flow.edges) == 1
        with set_temporary_config({"flow.eager_edge_validation": True}):
            eager = Flow("eager", edges=[Edge(a, b)])
        with pytest.raises(CycleError):
            eager.add_edge(b, a)

    @pytest.mark.parametrize("target", ["{task_name}", "{task_name}-{today}-{y}", "plain"])
    def test_children_that_would_share_a_target_are_refused(self, target):
        with Flow("f") as flow:
            add.map([1, 2], y=unmapped(Parameter("y", default=2)), task_args={"target": target})
        with pytest.raises(FlowError, match="would share the stored result"):
            flow.validate()

    @pytest.mark.parametrize("target", ["{map_index}", "{x}.txt", str])
    def test_targets_of_children_that_differ_are_fine(self, target):
        with Flow("f") as flow:
            add.map([1, 2], task_args={"target": target})
        flow.validate()

    def test_a_malformed_target_is_refused_at_once(self):
        with pytest.raises(FlowError, match="cannot be parsed"):
            Task(target="{")


class TestChanging:
    def test_update_takes_tasks_edges_constants_and_reference_tasks(self):
        with Flow("one") as one:
            p = Parameter("p")
            first = add(p, y=5)
        with Flow("two") as two:
            q = Parameter("p")
            second = add(add(q, y=6))
        two.set_reference_tasks([second])
        with pytest.raises(DuplicateSlugError):
            one.copy().update(two)
        one.update(two, merge_parameters=True, merge_reference_tasks=True)
        assert one.parameters() == {p}
        assert len(one.tasks) == 4
        assert one.reference_tasks() == {first, second}
        assert sorted(values["y"] for values in one.constants.values()) == [5, 6]
        one.update(two, merge_parameters=True)
        assert len(one.edges) == 3

    def test_replace_keeps_edges_slug_and_reference(self):
        with Flow("f") as flow:
            a = nothing()
            b = add(a, y=7)
            c = add(b)
        flow.set_reference_tasks([b])
        new = Task(name="new")
        new_adder = add.copy(name="other")
        flow.replace(b, new_adder)
        assert flow.slugs[new_adder] == "add-1"
        assert flow.edges_to(new_adder) == {Edge(a, new_adder, "x")}
        assert flow.edges_from(new_adder) == {Edge(new_adder, c, "x")}
        assert flow.constants[new_adder] == {"y": 7}
        assert flow.reference_tasks() == {new_adder}
        with pytest.raises(FlowError, match="cannot be replaced"):
            flow.replace(b, new)

    def test_replace_by_a_value(self):
        with Flow("f") as flow:
            a = nothing()
            c = add(a)
        flow.replace(a, 42)
        assert flow.tasks == {c}
        assert flow.constants[c] == {"x": 42}

    def test_replace_by_a_collection_of_tasks(self):
        with Flow("f") as flow:
            a, b = nothing(), nothing()
            c = add(a)
        flow.replace(a, [b, 1])
        [edge] = flow.edges_to(c)
        assert edge.upstream_task.name == "List"
        assert a not in flow.tasks

    def test_a_copy_is_equal_and_independent(self):
        with Flow("f") as flow:
            total = add(nothing())
        copy = flow.copy()
        assert copy == flow
        assert copy.slugs == flow.slugs
        with copy:
            nothing()
        copy.constants.setdefault(total, {})["y"] = 9
        assert copy != flow
        assert len(flow.tasks) == 2
        assert "y" not in flow.constants.get(total, {})
        assert flow != 1

    def test_iteration_gives_sorted_tasks(self):
        with Flow("f") as flow:
            total = add(nothing())
        assert list(flow) == list(flow.sorted_tasks())
        assert list(flow)[-1] is total
        assert total in flow


class TestOrder:
    def test_independent_tasks_keep_the_order_of_the_source(self):
        with Flow("f") as flow:
            names = [nothing(task_args={"name": name}).name for name in "zyxwv"]
        assert [item.name for item in flow.sorted_tasks()] == names

    def test_from_root_tasks_only_what_is_downstream(self):
        a, b, c, d = (Task(name=name) for name in "abcd")
        flow = Flow("f", edges=[Edge(a, b), Edge(c, d), Edge(b, d)])
        assert flow.sorted_tasks(root_tasks=[b]) == (b, d)

    def test_the_same_source_gives_the_same_hash_and_slugs(self):
        def build():
            with Flow("f") as flow:
                p = Parameter("p", default=3)
                items = {nothing(), add(p), add(1)}
                add({"a": items, "b": [p]}, upstream_tasks=items)
            return flow

        one, two = build(), build()
        assert one.serialized_hash() == two.serialized_hash()
        assert list(one.slugs.values()) == list(two.slugs.values())

    @given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=40))
    def test_every_order_respects_the_edges_and_cycles_are_always_found(self, pairs):
        tasks = [Task(name=f"t{number}") for number in range(15)]
        flow = Flow("f", tasks=tasks)
        for up, down in pairs:
            if up != down:
                flow.add_edge(tasks[up], tasks[down])
        oracle = graphlib.TopologicalSorter({number: set() for number in range(15)})
        for up, down in pairs:
            if up != down:
                oracle.add(down, up)
        try:
            oracle.prepare()
        except graphlib.CycleError:
            with pytest.raises(CycleError):
                flow.sorted_tasks()
            return
        order = flow.sorted_tasks()
        position = {item: index for index, item in enumerate(order)}
        assert set(order) == set(tasks)
        assert all(position[edge.upstream_task] < position[edge.downstream_task] for edge in flow.edges)


class TestHash:
    def test_it_sees_declared_things_and_not_the_code(self):
        def build(**options):
            with Flow("f") as flow:
                add(Parameter("p"), task_args=options)
            return flow.serialized_hash()

        @task(name="add")
        def other(x, y=1):
            return x - y

        with Flow("f") as flow:
            other(Parameter("p"))
        assert build() == flow.serialized_hash()
        assert build() != build(max_retries=2)
        assert build() != build(tags=["x"])
        assert build().startswith("sha256:")

    def test_building_is_linear(self):
        """Counts work, not time: an add that looked at all tasks would be seen in the number of comparisons."""
        compared = 0

        class Counting(Task):
            def __eq__(self, other):
                nonlocal compared
                compared += 1
                return self is other

            __hash__ = Task.__hash__

        with Flow("f") as flow:
            step = Counting()
            last = step()
            for _ in range(300):
                last = step(upstream_tasks=[last])
        assert len(flow.tasks) == 301
        assert compared < 3_000
