"""Parameters: defaults, requirement, names, and dates."""

from datetime import UTC, datetime, timedelta, timezone

import cloudpickle
import pytest

from heliograph import DateTimeParameter, Flow, Parameter, context, task
from heliograph.core.parameter import no_default
from heliograph.engine.signals import FAIL


def test_required_unless_there_is_a_default():
    assert Parameter("p").required
    assert not Parameter("p", default=None).required
    assert not Parameter("p", default=3).required
    assert Parameter("p").default is no_default
    assert Parameter("p", required=False).run() is None


def test_a_required_parameter_never_uses_its_default_and_says_so():
    with pytest.warns(UserWarning, match="never used"):
        parameter = Parameter("p", default=3, required=True)
    with pytest.raises(FAIL, match="'p' is required"):
        parameter.run()


def test_the_value_of_the_run_comes_first():
    parameter = Parameter("p", default=3)
    assert parameter.run() == 3
    with context(parameters={"p": None, "q": 1}):
        assert parameter.run() is None


def test_calling_adds_the_parameter_itself():
    parameter = Parameter("p")
    with Flow("f") as flow:
        assert parameter() is parameter
        assert parameter() is parameter
    assert flow.parameters() == {parameter}
    assert flow.slugs[parameter] == "p"


def test_the_name_stays_and_a_copy_needs_another():
    parameter = Parameter("p", default=1, tags=["a"])
    for attribute in ("name", "slug"):
        with pytest.raises(AttributeError, match="cannot change"):
            setattr(parameter, attribute, "q")
    copy = parameter.copy(name="q", default=2, tags=["b"])
    assert (copy.name, copy.slug, copy.default, copy.tags) == ("q", "q", 2, {"a", "b"})
    assert (parameter.name, parameter.default, parameter.tags) == ("p", 1, {"a"})
    with pytest.raises(TypeError):
        parameter.copy()


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_needed(name):
    with pytest.raises(ValueError, match="needs a name"):
        Parameter(name)


def test_it_survives_a_pickle_with_no_default():
    loaded = cloudpickle.loads(cloudpickle.dumps(Parameter("p")))
    assert loaded.default is no_default
    assert loaded.required


def test_a_parameter_used_twice_is_one_task():
    @task
    def add(x, y):
        return x + y

    parameter = Parameter("p", default=2)
    with Flow("f") as flow:
        add(parameter, parameter)
    assert len(flow.tasks) == 2


class TestDateTimeParameter:
    def test_a_default_alone_makes_it_optional(self):
        parameter = DateTimeParameter("d", default="2024-05-06T07:08:09+02:00")
        assert not parameter.required
        assert parameter.run() == datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)
        assert DateTimeParameter("d").required
        assert DateTimeParameter("d", required=False).run() is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2024-01-02", datetime(2024, 1, 2, tzinfo=UTC)),
            ("2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
            (datetime(2024, 1, 2), datetime(2024, 1, 2, tzinfo=UTC)),  # noqa: DTZ001 - that is the case
            (
                datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=1))),
                datetime(2024, 1, 1, 23, tzinfo=UTC),
            ),
        ],
    )
    def test_values(self, value, expected):
        with context(parameters={"d": value}):
            result = DateTimeParameter("d").run()
        assert result == expected
        assert result.tzinfo is not None

    @pytest.mark.parametrize("value", ["yesterday", 3, ["2024-01-01"]])
    def test_other_values_are_refused_by_name(self, value):
        with context(parameters={"d": value}), pytest.raises(ValueError, match="'d' takes"):
            DateTimeParameter("d").run()
