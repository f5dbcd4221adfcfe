"""States and signals as users see them."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import threading
from typing import Any

import cloudpickle
import pytest

from heliograph.engine import signals, state
from heliograph.engine.codes import StateCode
from heliograph.engine.result import NoResult, Result
from heliograph.engine.state import CLASS_OF, State

ALL: list[type[State]] = State.children()  # type: ignore[assignment]
CONCRETE = [kind for kind in ALL if kind.code is not None]


def test_the_tree_is_that_of_prefect_1() -> None:
    assert {kind.__name__ for kind in ALL} == {
        "Pending", "Scheduled", "Paused", "Resume", "Retrying", "_MetaState", "Submitted", "Queued", "ClientFailed",
        "Running", "Cancelling", "Finished", "Looped", "Success", "Cached", "Mapped", "Skipped", "Failed", "TimedOut",
        "TriggerFailed", "ValidationFailed", "Crashed", "Cancelled",
    }  # fmt: skip
    assert set(state.Failed.children(names_only=True)) == {"TimedOut", "TriggerFailed", "ValidationFailed", "Crashed"}
    assert state.Retrying.parents(names_only=True) == ["Scheduled", "Pending", "State"]
    assert state.Success.children(include_self=True)[0] is state.Success


def test_every_code_has_its_class() -> None:
    assert set(CLASS_OF) == set(StateCode)
    assert all(CLASS_OF[code].code is code for code in StateCode)


@pytest.mark.parametrize("kind", CONCRETE)
def test_class_and_code_agree(kind: type[State]) -> None:
    made, code = kind(), kind.code
    assert code is not None
    assert made.is_finished() == code.is_finished
    assert made.is_successful() == code.is_successful
    assert made.is_failed() == code.is_failed
    assert kind.color.startswith("#")
    assert len(kind.color) == 7


def test_colors_differ() -> None:
    colors = [kind.color for kind in CONCRETE]
    assert len(set(colors)) == len(colors)


def test_questions() -> None:
    assert state.Queued().is_scheduled()
    assert state.Queued().is_queued()
    assert state.Queued().is_meta_state()
    assert state.Submitted().is_submitted()
    assert state.Retrying().is_pending()
    assert state.Retrying().is_retrying()
    assert state.Retrying().is_scheduled()
    assert state.Cancelling().is_running()
    assert not state.Cancelled().is_failed()
    assert state.Cancelled().is_cancelled()
    assert state.Skipped().is_skipped()
    assert state.Looped().is_looped()
    assert state.Mapped().is_mapped()
    assert state.Cached().is_cached()


def test_no_result_differs_from_none() -> None:
    assert state.Success().result is None
    assert state.Success()._result is NoResult
    assert not state.Success().has_result
    assert state.Success(result=None).has_result
    assert state.Success(result=None)._result == Result(None)
    assert state.Success(result=Result(5)).result == 5
    assert state.Success(result=NoResult)._result is NoResult
    changed = state.Success(result=1)
    changed.result = 2
    assert changed._result.value == 2


def test_equality_looks_at_class_result_and_attributes() -> None:
    assert state.Success("a", result=1) == state.Success("b", result=1)
    assert state.Success(result=1) != state.Success(result=2)
    assert state.Success(result=1) != state.Cached(result=1)
    assert state.Retrying(run_count=1, start_time=None) != state.Retrying(run_count=2)
    one = state.Success(result=1)
    assert len({one, state.Success(result=1)}) == 2


def test_arrays_compare_without_an_error() -> None:
    numpy = pytest.importorskip("numpy")
    values = numpy.arange(3)
    assert state.Success(result=values) == state.Success(result=values)
    assert state.Success(result=values) != state.Success(result=numpy.arange(3))


def test_defaults() -> None:
    now = dt.datetime.now(dt.UTC)
    start = state.Scheduled().start_time
    assert start is not None
    assert abs((start - now).total_seconds()) < 5
    assert state.Paused().start_time is None
    assert state.Retrying(run_count=3).context["task_run_count"] == 3
    assert state.Retrying(context={"task_run_count": 2}).run_count == 2
    assert state.Looped(loop_count=4).context["task_loop_count"] == 4
    assert state.Mapped(n_map_states=3).n_map_states == 3
    assert state.Mapped(map_states=[state.Success(result=1), None]).result == [1, None]
    assert isinstance(state.Submitted(state=state.Queued(state=state.Pending())).state, state.Pending)


@pytest.mark.parametrize("kind", ALL)
def test_states_survive_pickling_and_copying(kind: type[State]) -> None:
    made = kind("text", result={"a": [1]}, context={"tags": ["x"]}, cached_inputs={"i": 1})
    for twin in (pickle.loads(pickle.dumps(made)), cloudpickle.loads(cloudpickle.dumps(made)), copy.copy(made)):
        assert type(twin) is kind
        assert twin == made
        assert twin.message == "text"
        assert twin.context["tags"] == ["x"]
        assert twin.cached_inputs == {"i": 1}
    assert copy.copy(made).cached_inputs is not made.cached_inputs


def test_an_exception_that_cannot_be_pickled_becomes_its_repr() -> None:
    class Locked(Exception):
        def __init__(self) -> None:
            super().__init__("held")
            self.lock = threading.Lock()

    assert pickle.loads(pickle.dumps(state.Failed(result=Locked()))).result == "Locked('held')"
    assert isinstance(pickle.loads(pickle.dumps(state.Failed(result=ValueError("x")))).result, ValueError)


def test_another_value_that_cannot_be_pickled_raises() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(state.Success(result=threading.Lock()))


def test_results_are_read_from_their_place() -> None:
    class Stored(Result):
        def read(self, location: str) -> Result:
            return Result(f"read from {location}", location=location)

    made = state.Success(result=Stored(location="there"))
    assert made.result is None
    assert made.load_result().result == "read from there"
    cached = state.Cached(cached_inputs={"x": Stored(location="here"), "y": 1})
    cached.load_cached_results()
    assert cached.cached_inputs["x"].value == "read from here"
    assert cached.cached_inputs["y"] == 1


@pytest.mark.parametrize(
    ("signal", "kind"),
    [
        (signals.FAIL, state.Failed), (signals.TRIGGERFAIL, state.TriggerFailed), (signals.SUCCESS, state.Success),
        (signals.VALIDATIONFAIL, state.ValidationFailed), (signals.RETRY, state.Retrying),
        (signals.SKIP, state.Skipped), (signals.PAUSE, state.Paused),
    ],
)  # fmt: skip
def test_signals(signal: type[signals.StateSignal], kind: type[State]) -> None:
    raised = signal("text")
    assert not isinstance(raised, Exception)
    assert type(raised.state) is kind
    assert raised.state.message == str(raised) == "text"
    assert raised.state.result is raised
    assert signal(result=3).state.result == 3
    twin = pickle.loads(pickle.dumps(signal("text")))
    assert type(twin) is signal
    assert twin.state.result is twin
    assert pickle.loads(pickle.dumps(signal(result=3))).state.result == 3
    again = signals.signal_from_state(kind("other", result=5))
    assert type(again) is signal
    assert again.state.result == 5


def test_loop_signal_and_states_without_signal() -> None:
    loop = signals.LOOP(result=3, loop_count=2)
    assert isinstance(loop.state, state.Looped)
    assert (loop.state.loop_count, loop.state.result) == (2, 3)
    assert type(signals.signal_from_state(state.TimedOut("t"))) is signals.FAIL
    with pytest.raises(ValueError, match="Running"):
        signals.signal_from_state(state.Running())
    end = signals.ENDRUN(state.Success("done"))
    assert pickle.loads(pickle.dumps(end)).state == end.state


def test_a_state_costs_little_memory() -> None:
    assert not hasattr(state.Success(), "__dict__")
    kinds: list[Any] = [*CONCRETE]
    assert all(not hasattr(kind(), "__dict__") for kind in kinds)
