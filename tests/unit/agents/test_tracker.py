"""The tracker: a table of its paths, and what holds on every path."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.launcher import BundleSpec, Credentials, ExitKind, Handle, InfraExit, Liveness, RunSpec
from heliograph_agents.tracker import (
    Accept,
    Accepted,
    Adopted,
    Asked,
    Effect,
    Event,
    Forget,
    Launch,
    Launched,
    LaunchFailed,
    Observed,
    Offered,
    Overdue,
    Phase,
    Refused,
    Release,
    Released,
    Report,
    Reported,
    Ship,
    Shipped,
    Stop,
    Tracker,
    Unlaunched,
    tracker_step,
)

D = LaunchDelay
RUN = "projects/p/flowRuns/r"
SPEC = RunSpec(RUN, "projects/p/flows/f/versions/1", "calm-otter", 3, 1, "{}",
               BundleSpec("local", "/x", "sha256:0", "sha256:1", False, "3.11", ""), "sha256:2", 0)  # fmt: skip
CREDENTIALS = Credentials("token", "incarnation", 15.0)
HANDLE = Handle(RUN, 3, "r.3")
GOOD = InfraExit(ExitKind.FINISHED, exit_code=0)
DIED = InfraExit(ExitKind.DIED, FailureCode.SUPERVISOR_DIED)
NEVER = InfraExit(ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED)
LOST = InfraExit(ExitKind.LEASE_LOST)
LATE = InfraExit(ExitKind.DIED, FailureCode.START_TIMEOUT)


def play(*events: Event) -> tuple[Tracker, list[Effect]]:
    tracker, done = Tracker(RUN, 3), []
    for event in events:
        tracker, effects = tracker_step(tracker, event)
        done += effects
    return tracker, done


LIVE = (Offered(SPEC), Accepted(SPEC, CREDENTIALS), Launched(HANDLE))


@pytest.mark.parametrize(
    ("events", "effects", "phase"),
    [
        ((*LIVE, Observed(GOOD), Reported()), [Report(GOOD), Forget(HANDLE)], Phase.GONE),
        ((*LIVE, Observed(DIED), Shipped(), Reported()), [Ship(HANDLE), Report(DIED), Forget(HANDLE)], Phase.GONE),
        ((*LIVE, Observed(NEVER), Released()), [Release(None, True, delay=D.PLATFORM), Forget(HANDLE)], Phase.GONE),
        ((*LIVE, Asked.CANCEL, Observed(GOOD)), [Stop(HANDLE, False), Report(GOOD)], Phase.REPORTING),
        ((*LIVE, Asked.ABANDON, Observed(LOST)), [Stop(HANDLE, True), Report(LOST)], Phase.REPORTING),
        ((*LIVE, Asked.ABANDON, Observed(DIED)), [Stop(HANDLE, True), Report(DIED)], Phase.REPORTING),
        ((*LIVE, Observed(DIED), Asked.ABANDON), [Ship(HANDLE), Forget(HANDLE)], Phase.GONE),
        ((*LIVE, Asked.FORGET), [], Phase.LIVE),
        ((*LIVE, Asked.CONNECTED, Asked.CANCEL), [Stop(HANDLE, False, told=True)], Phase.LIVE),
        ((*LIVE, Asked.CONNECTED, Overdue()), [], Phase.LIVE),
        ((*LIVE, Overdue(), Overdue(), Observed(LOST)), [Stop(HANDLE, True), Ship(HANDLE)], Phase.SHIPPING),
        (
            (*LIVE, Overdue(), Observed(NEVER), Shipped()),
            [Stop(HANDLE, True), Ship(HANDLE), Report(LATE)],
            Phase.REPORTING,
        ),
        ((*LIVE, Overdue(), Observed(GOOD)), [Stop(HANDLE, True), Report(GOOD)], Phase.REPORTING),
    ],
)
def test_paths_of_a_launched_run(events: tuple[Event, ...], effects: list[Effect], phase: Phase) -> None:
    tracker, done = play(*events)
    assert done == [Accept(SPEC), Launch(SPEC, CREDENTIALS), *effects]
    assert tracker.phase is phase


def test_a_lease_that_is_refused_is_dropped() -> None:
    tracker, done = play(Offered(SPEC), Refused())
    assert (tracker.phase, done) == (Phase.GONE, [Accept(SPEC)])


@pytest.mark.parametrize("back_off", [True, False])
def test_a_lease_that_may_have_been_accepted_is_given_back(back_off: bool) -> None:
    tracker, done = play(Offered(SPEC), Unlaunched(back_off), Released())
    assert (tracker.phase, done) == (
        Phase.GONE, [Accept(SPEC), Release(None, back_off, delay=D.UNCONFIRMED if back_off else None)]
    )  # fmt: skip


def test_what_the_agent_before_did_not_start_is_given_back_at_once() -> None:
    _, done = play(Adopted(HANDLE), Observed(NEVER))
    assert done == [Release(None, back_off=False)]


@pytest.mark.parametrize("failure", [None, FailureCode.DISK])
def test_a_failed_launch_gives_the_run_back_or_crashes_it(failure: FailureCode | None) -> None:
    tracker, done = play(*LIVE[:2], LaunchFailed(failure), Released())
    assert done[2:] == [Release(failure, back_off=failure is None)]
    assert tracker.phase is Phase.GONE


def test_a_launch_for_which_there_was_no_room_waits_as_long_as_it_says() -> None:
    _, done = play(*LIVE[:2], LaunchFailed(None, 120.0, delay=D.QUOTA))
    assert done[2:] == [Release(None, back_off=True, seconds=120.0, delay=D.QUOTA)]


def test_what_the_infrastructure_found_no_place_for_is_given_back_with_that() -> None:
    _, done = play(*LIVE, Observed(replace(NEVER, delay=D.NO_ROOM)))
    assert done[2:] == [Release(None, back_off=True, delay=D.NO_ROOM)]


def test_what_had_no_image_is_reported_with_that_and_not_as_late() -> None:
    no_image = InfraExit(ExitKind.NEVER_STARTED, FailureCode.IMAGE_UNAVAILABLE)
    tracker, _ = play(*LIVE, Overdue(), Observed(no_image))
    assert tracker.exit == InfraExit(ExitKind.DIED, FailureCode.IMAGE_UNAVAILABLE)


def test_a_cancel_that_comes_during_the_launch_is_not_forgotten() -> None:
    _, done = play(*LIVE[:2], Asked.CANCEL, Launched(HANDLE))
    assert done[-1] == Stop(HANDLE, abandon=False)


def test_an_adopted_run_is_live_and_renewed_until_its_supervisor_is_heard_of() -> None:
    tracker, done = play(Adopted(HANDLE))
    assert (tracker.phase, done, tracker.held, tracker.renew) == (Phase.LIVE, [], True, True)
    tracker, _ = tracker_step(tracker, Observed(Liveness.CONNECTED))
    assert tracker.held
    assert not tracker.renew


def test_a_run_whose_end_is_being_reported_is_renewed_by_the_agent() -> None:
    tracker, _ = play(*LIVE, Observed(Liveness.CONNECTED), Observed(DIED))
    assert tracker.renew


events = st.sampled_from(
    [
        Offered(SPEC), Accepted(SPEC, CREDENTIALS), Refused(), Unlaunched(True), Launched(HANDLE), LaunchFailed(None),
        LaunchFailed(FailureCode.DISK), Observed(Liveness.STARTING), Observed(Liveness.CONNECTED), Observed(GOOD),
        Overdue(),
        Observed(DIED), Observed(NEVER), Observed(LOST), *Asked, Shipped(), Reported(), Released(), Adopted(HANDLE),
    ]
)  # fmt: skip


@given(st.lists(events, max_size=25))
def test_on_every_path(history: list[Event]) -> None:
    tracker, launches, forgotten = Tracker(RUN, 3), 0, 0
    for event in history:
        was_gone = tracker.phase is Phase.GONE
        tracker, effects = tracker_step(tracker, event)
        assert not (was_gone and effects), "a tracker that is gone does nothing"
        launches += sum(isinstance(effect, Launch) for effect in effects)
        forgotten += sum(isinstance(effect, Forget) for effect in effects)
        if any(isinstance(effect, Stop | Ship | Forget) for effect in effects):
            assert tracker.handle is not None
        if any(isinstance(effect, Report) for effect in effects):
            assert tracker.exit is not None
    assert launches <= 1, "one lease never launches twice"
    assert forgotten <= 1
    if tracker.phase is Phase.GONE and tracker.handle is not None:
        assert forgotten == 1, "infrastructure that was launched is forgotten in the end"
