"""Helpers around tasks."""

import pytest

from heliograph import Flow, Task, flatten, mapped, task, unmapped
from heliograph.exceptions import FlowError
from heliograph.tasks.core import Constant
from heliograph.utilities.debug import is_serializable, raise_on_exception
from heliograph.utilities.tasks import as_task, defaults_from_attrs, is_constant


def test_annotations_nest():
    one = mapped(flatten(3))
    assert (one.task, one.annotations) == (3, {"mapped": True, "flattened": True})
    assert unmapped(mapped(3)).annotations == {"mapped": False}
    assert repr(unmapped([1])) == "unmapped([1])"


def test_constants_have_no_task_however_deep():
    assert is_constant([1, {"a": ({2},)}])
    assert not is_constant([1, {"a": ({Task()},)}])
    assert not is_constant({Task(): 1})
    assert not is_constant([unmapped(1)])


def test_values_become_tasks():
    own = Task()
    assert as_task(own) is own
    assert as_task(unmapped(own)) is own
    constant = as_task([1, [2]])
    assert isinstance(constant, Constant)
    assert constant.value == [1, [2]]
    assert constant.name == "[1, [2]]"
    assert as_task("a long text").name == "Constant[str]"
    assert as_task({"a": own}, Flow("f")).name == "Dict"


class TestDefaultsFromAttributes:
    class Mine(Task):
        def __init__(self, x=None, y=None, **kwargs):
            self.x, self.y = x, y
            super().__init__(**kwargs)

        @defaults_from_attrs("x", "y")
        def run(self, z, x=None, y=None):
            """Documented."""
            return x, y, z

    def test_left_out_and_given_values(self):
        mine = self.Mine(x=1, y=2)
        assert mine.run(0) == (1, 2, 0)
        assert mine.run(0, 5) == (5, 2, 0)
        assert mine.run(0, y=None) == (1, None, 0)
        assert mine.run.__doc__ == "Documented."

    def test_in_a_flow(self):
        mine = self.Mine(x=1)
        with Flow("f") as flow:
            end = mine(3)
        assert flow.run().result[end].result == (1, None, 3)

    def test_unknown_names_are_refused(self):
        with pytest.raises(FlowError, match="no argument 'q'"):

            @defaults_from_attrs("q")
            def run(self, x):
                pass


def test_raise_on_exception_lets_the_users_exception_through():
    @task
    def fail():
        raise KeyError("mine")

    with Flow("f") as flow:
        fail()
    with raise_on_exception(), pytest.raises(KeyError, match="mine"):
        flow.run()
    assert flow.run().is_failed()


def test_is_serializable():
    with Flow("f") as flow:
        as_task(1, flow)
    assert is_serializable(flow)
    assert not is_serializable(item for item in ())
    with pytest.raises(TypeError):
        is_serializable((item for item in ()), raise_on_error=True)
