"""Tasks: their options, what a call does, and what is refused with which help."""

import functools
import warnings
from datetime import timedelta

import cloudpickle
import pytest

from heliograph import Edge, Flow, Parameter, Task, flatten, mapped, switch, tags, task, triggers, unmapped
from heliograph.config import set_temporary_config
from heliograph.engine.cache_validators import all_inputs, duration_only, never_use
from heliograph.exceptions import FlowError
from heliograph.tasks.core import Constant, FunctionTask, GetItem


@task
def add(x, y=1):
    """Adds."""
    return x + y


class TestOptions:
    def test_defaults(self):
        plain = Task()
        assert plain.name == "Task"
        assert (plain.slug, plain.tags, plain.max_retries, plain.retry_delay, plain.timeout) == (
            None,
            set(),
            0,
            None,
            None,
        )
        assert plain.trigger is triggers.all_successful
        assert plain.skip_on_upstream_skip is True
        assert (plain.cache_for, plain.checkpoint, plain.result, plain.target) == (None, None, None, None)
        assert plain.log_stdout is False

    @pytest.mark.parametrize(
        "options",
        [
            {"max_retries": 2},
            {"retry_delay": timedelta(1)},
            {"max_retries": 0, "retry_delay": timedelta(1)},
            {"max_retries": -1, "retry_delay": 1},
            {"max_retries": True, "retry_delay": 1},
            {"retry_on": ValueError},
            {"max_retries": 1, "retry_delay": timedelta(-1)},
            {"timeout": 0},
            {"timeout": timedelta(0)},
            {"nout": -1},
        ],
    )
    def test_options_that_contradict_each_other(self, options):
        with pytest.raises(FlowError):
            Task(**options)

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout": 1.5},
            {"timeout": True},
            {"max_retries": 1, "retry_delay": "1"},
            {"max_retries": 1, "retry_delay": 1, "retry_on": [int]},
            {"state_handlers": print},
            {"state_handlers": [1]},
            {"on_failure": 1},
            {"tags": "word"},
        ],
    )
    def test_options_of_a_wrong_type(self, options):
        with pytest.raises(TypeError):
            Task(**options)

    def test_times_are_kept_exactly(self):
        assert Task(timeout=timedelta(seconds=90)).timeout == 90
        assert Task(timeout=timedelta(milliseconds=500)).timeout == 0.5
        assert Task(max_retries=1, retry_delay=2.5).retry_delay == timedelta(seconds=2.5)

    def test_retry_on_takes_one_or_several(self):
        one = Task(max_retries=1, retry_delay=1, retry_on=ValueError)
        two = Task(max_retries=1, retry_delay=1, retry_on=[ValueError, OSError])
        assert one.retry_on == (ValueError,)
        assert two.retry_on == (ValueError, OSError)

    def test_defaults_come_from_the_settings(self):
        settings = {
            "tasks.defaults.max_retries": 3,
            "tasks.defaults.retry_delay_seconds": 10,
            "tasks.defaults.timeout_seconds": 60,
        }
        with set_temporary_config(settings):
            plain, own, parameter = Task(), Task(max_retries=0, timeout=5), Parameter("p")
        assert (plain.max_retries, plain.retry_delay, plain.timeout) == (3, timedelta(seconds=10), 60)
        assert (own.max_retries, own.retry_delay, own.timeout) == (0, None, 5)
        assert (parameter.max_retries, parameter.timeout) == (0, None)

    def test_cache_validators(self):
        from heliograph.engine import cache_validators

        assert Task().cache_validator is cache_validators.never_use
        assert Task(cache_for=timedelta(1)).cache_validator is cache_validators.duration_only
        with pytest.warns(UserWarning, match="nothing will be cached"):
            Task(cache_validator=cache_validators.all_inputs)

    def test_a_target_beside_a_location_warns(self):
        class Result:
            location = "here"

        with pytest.warns(UserWarning, match="the target is used"):
            Task(result=Result(), target="there")

    def test_attributes_that_the_constructor_would_overwrite(self):
        class Clash(Task):
            def __init__(self):
                self.name = "mine"
                super().__init__()

        with pytest.warns(UserWarning, match="sets name before"):
            Clash()

    def test_a_task_passed_to_a_constructor_warns(self):
        class Takes(Task):
            def __init__(self, value, **kwargs):
                self.value = value
                super().__init__(**kwargs)

        with Flow("f"):
            one = add(1)
            with pytest.warns(UserWarning, match="passed to the constructor of Takes"):
                Takes(one)()


class TestSignatures:
    def test_names_that_a_call_uses_are_reserved(self):
        for name in ("upstream_tasks", "mapped", "task_args", "flow"):
            with pytest.raises(FlowError, match=f"'{name}'.*reserved names are flow, mapped"):
                exec(f"@task\ndef f({name}): pass", {"task": task})

    def test_args_are_refused_with_a_way_out(self):
        with pytest.raises(ValueError, match=r"takes \*values") as caught:

            @task
            def f(*values):
                pass

        assert "**kwargs" in caught.value.hint

        class Mine(Task):
            def run(self, *values):
                pass

        with pytest.raises(ValueError, match=r"Mine.run takes \*values"):
            Mine()

    def test_positional_only_arguments_are_refused(self):
        with pytest.raises(TypeError, match="positional-only"):

            @task
            def f(a, /):
                pass

    def test_a_function_that_cannot_be_inspected(self):
        class Opaque:
            __signature__ = "none"

            def __call__(self):
                pass

        with pytest.raises(FlowError, match="cannot be inspected") as caught:
            task(Opaque())
        assert "wrap it" in caught.value.hint
        with pytest.raises(TypeError, match="needs a function"):
            FunctionTask(3)

    def test_keyword_arguments_of_any_name(self):
        @task
        def collect(**values):
            return values

        with Flow("f") as flow:
            one = collect(a=1, b=add(2))
        assert flow.constants[one] == {"a": 1}
        assert [edge.key for edge in flow.edges_to(one)] == ["b"]

    def test_wrong_calls_say_what_the_task_takes(self):
        with pytest.raises(TypeError, match=r"add cannot be called like this: .*; it takes \(x, y=1\)"):
            add(flow=Flow("f"))


class TestDecorator:
    def test_bare_and_with_options(self):
        @task(name="other", max_retries=1, retry_delay=timedelta(seconds=1))
        def f():
            """Documented."""

        assert (f.name, f.max_retries, f.__doc__) == ("other", 1, "Documented.")
        assert add.name == "add"
        assert add.run(1, y=2) == 3

    def test_lambdas_and_partials(self):
        assert task(lambda x: x).name == "lambda"
        assert task(functools.partial(add.run, y=3), name="p").run(1) == 4

    def test_inputs_and_outputs(self):
        @task
        def f(a: int, b: str = "x", **more) -> float:
            return 1.0

        assert f.inputs() == {"a": {"type": int, "required": True}, "b": {"type": str, "required": False}}
        assert f.outputs() is float

    def test_a_run_that_was_replaced_is_called_by_its_own_signature(self):
        other = add.copy()
        other.run = lambda z: z
        with Flow("f") as flow:
            one = other(z=5)
        assert flow.constants[one] == {"z": 5}

    def test_a_task_survives_a_pickle(self):
        loaded = cloudpickle.loads(cloudpickle.dumps(add))
        assert loaded.run(1, 2) == 3
        with Flow("f") as flow:
            loaded(1)
        assert len(flow.tasks) == 1


class TestCalls:
    def test_each_call_makes_a_task(self):
        with Flow("f") as flow:
            one, two = add(1), add(1)
        assert one is not two
        assert one is not add
        assert flow.tasks == {one, two}

    def test_bind_makes_none(self):
        own = add.copy()
        with Flow("f") as flow:
            assert own.bind(1) is own
        assert flow.tasks == {own}

    def test_outside_a_flow_the_message_names_run(self):
        with pytest.raises(ValueError, match="no flow is being built") as caught:
            add(1)
        assert "add.run(" in caught.value.hint

    def test_a_flow_can_be_named(self):
        flow = Flow("f")
        one = add(1, flow=flow)
        two = add(one, flow=flow, upstream_tasks=[one])
        assert flow.edges == {Edge(one, two, "x"), Edge(one, two)}

    def test_task_args(self):
        with Flow("f"):
            one = add.copy(tags=["a"])(1, task_args={"name": "other", "tags": ["b"], "timeout": 3})
            assert (one.name, one.tags, one.timeout) == ("other", {"a", "b"}, 3)
            with pytest.raises(AttributeError, match="no option 'nmae'"):
                add(1, task_args={"nmae": "x"})
            with pytest.raises(TypeError, match="timeout"):
                add(1, task_args={"timeout": 1.5})

    def test_another_cache_time_leaves_the_validator(self):
        hour = timedelta(hours=1)
        pattern = Task(cache_for=hour, cache_validator=all_inputs)
        assert pattern.copy(cache_for=2 * hour).cache_validator is all_inputs
        assert Task().copy(cache_validator=all_inputs, cache_for=hour).cache_validator is all_inputs
        assert Task().copy(cache_for=hour).cache_validator is duration_only
        assert pattern.copy(cache_for=None).cache_validator is never_use

    def test_copies(self):
        slugged = Task(slug="x", tags=["a"])
        copy = slugged.copy()
        assert copy.slug == "x-copy"
        assert slugged.copy(slug="y").slug == "y"
        copy.tags.add("b")
        assert slugged.tags == {"a"}
        with Flow("f"):
            one = add(1)
            add(one)
            with pytest.warns(UserWarning, match="its copy does not have them"):
                one.copy().bind(2)

    def test_collections_with_tasks_become_tasks_and_constants_stay_one(self):
        with Flow("f") as flow:
            one = add(1)
            add([one, 2, (3, 4)], y={"k": {one}})
        kinds = sorted(type(item).__name__ for item in flow.tasks)
        assert kinds == ["Dict", "FunctionTask", "FunctionTask", "List", "List", "Set"]
        listed = flow.get_tasks(name="List")[0]
        assert flow.constants[listed] == {"arg_2": 2, "arg_3": (3, 4)}

    def test_upstream_and_downstream_return_the_task(self):
        with Flow("f") as flow:
            one, two, three = add(1), add.copy(), add(3)
            assert two.set_upstream(one, key="x") is two
            assert two.set_downstream(three) is two
        assert flow.edges == {Edge(one, two, "x"), Edge(two, three)}

    def test_pipe(self):
        with Flow("f") as flow:
            last = add(1).pipe(add, y=2).pipe(add.map, y=unmapped(3))
        assert flow.constants[last] == {"y": 3}
        assert len(flow.tasks) == 3

    def test_tags_nest_and_add_to_the_given_ones(self):
        with Flow("f"), tags("a"):
            own = Task(tags=["own"])
            with tags("b"):
                one = own()
            assert add(1).tags == {"a"}
        assert one.tags == {"own", "a", "b"}
        assert add.tags == set()


class TestResultsAsSequences:
    def test_nout(self):
        @task(nout=2)
        def two():
            return 1, 2

        with Flow("f") as flow:
            a, b = two()
        assert isinstance(a, GetItem)
        assert (flow.constants[a], flow.constants[b]) == ({"key": 0}, {"key": 1})
        assert a.name == "two[0]"

    def test_nout_is_inferred_from_tuples_of_known_length(self):
        @task
        def two() -> tuple[int, str]:
            return 1, ""

        @task
        def text() -> "tuple[int, int, int]":
            return 1, 2, 3

        @task
        def empty() -> tuple[()]:
            return ()

        @task
        def many() -> tuple[int, ...]:
            return (1,)

        @task
        def unknown() -> "tuple[NotDefinedAnywhere, int]":  # noqa: F821
            return 1, 2

        assert [item.nout for item in (two, text, empty, many, unknown)] == [2, 3, 0, None, None]

    def test_mapping_forgets_nout(self):
        @task(nout=2)
        def two(x):
            return x, x

        with Flow("f"), pytest.raises(TypeError, match="cannot be iterated"):
            iter(two.map([1, 2]))

    def test_iteration_is_explained(self):
        with Flow("f"), pytest.raises(TypeError, match="nout"):
            list(add(1))

    def test_items_take_checkpoint_and_result_from_their_source(self):
        class Result:
            location = None

        result = Result()
        with Flow("f") as flow:
            source = add(1, task_args={"checkpoint": True, "result": result})
            item, by_task = source["key"], source[add(2)]
        assert (item.name, item.checkpoint, item.result) == ("add['key']", True, result)
        assert len(flow.edges_to(by_task)) == 2

    def test_names_made_of_constants_do_not_show_them_where_they_cross(self):
        with Flow("f") as flow:
            source = add(1)
            items = [source["canary"], source[7], source[10**9], source[source]]
            items += [add.map(["cry"]), source["canary"]["canary"]]
            switch(source, {"canary": items[0]})
        assert [item.crossing_name for item in items] == [
            "add[key]", "add[7]", "add[key]", "add[add]", "add", "add[key][key]",
        ]  # fmt: skip
        assert "canary" not in str(sorted(flow.slugs.values()))
        assert "cry" not in str(sorted(flow.slugs.values()))
        assert items[0].name == "add['canary']"
        assert items[5].copy(name="mine").crossing_name == "mine"

    def test_map_needs_elements(self):
        with Flow("f"):
            for bad in (1, {1, 2}, (value for value in ())):
                with pytest.raises(TypeError, match="unmapped"):
                    add.map(bad)
            add.map("text", y=unmapped(1))


class TestMapping:
    def test_map_maps_all_but_the_unmapped(self):
        with Flow("f") as flow:
            up, other = add(1), add(2)
            child = add.map([1, 2], y=unmapped(up), upstream_tasks=[other, unmapped(up)])
        edges = {(edge.upstream_task, edge.key): edge.mapped for edge in flow.edges_to(child)}
        [constant] = [item for item in flow.tasks if isinstance(item, Constant)]
        assert edges == {(constant, "x"): True, (up, "y"): False, (other, None): True, (up, None): False}

    def test_annotations_beat_the_keyword(self):
        with Flow("f") as flow:
            up = add(1)
            one = add(mapped(up), y=2)
            two = add(unmapped(up), y=[1], mapped=True)
            three = add(mapped(flatten(up)))
            four = add(flatten(up))
            five = add.map(flatten([[1], [2]]))
        flags = {
            item: {(edge.key, edge.mapped, edge.flattened) for edge in flow.edges_to(item)}
            for item in (one, two, three, four, five)
        }
        assert flags[one] == {("x", True, False)}
        assert flags[two] == {("x", False, False), ("y", True, False)}
        assert flags[three] == {("x", True, True)}
        assert flags[four] == {("x", False, True)}
        assert flags[five] == {("x", True, True)}
        assert flow.constants[one] == {"y": 2}

    def test_a_list_with_tasks_is_mapped_as_a_list(self):
        with Flow("f") as flow:
            child = add.map([add(1), 2])
        [edge] = flow.edges_to(child)
        assert edge.upstream_task.name == "List"
        assert edge.mapped


def test_the_logger_bears_the_name_of_the_task():
    assert add.logger.name.endswith("add")


def test_tasks_are_equal_by_identity():
    one = add.copy()
    assert one == one
    assert one != add
    assert {one: 1, add: 2}[one] == 1


def test_defining_a_task_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Task(cache_for=timedelta(1), target="{map_index}")
