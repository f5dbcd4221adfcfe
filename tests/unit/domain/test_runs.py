"""The life of a run: every unfinished situation has an owner, a deadline and a way out; the end is final."""

from __future__ import annotations

import itertools

import pytest

from heliograph.engine.codes import StateCode
from heliograph_control_plane.domain import runs
from heliograph_control_plane.domain.matching import match
from heliograph_control_plane.domain.runs import UNFINISHED, Phase

S = StateCode


def test_every_unfinished_situation_has_an_owner_a_deadline_and_a_next_state() -> None:
    for (state, phase), situation in UNFINISHED.items():
        assert not state.is_finished
        assert phase is not Phase.ENDED
        assert situation.owner in ("queue", "agent", "supervisor")
        assert 0 < situation.within <= runs.START_WITHIN
        assert runs.deadline(state, phase, 1_000) == 1_000 + situation.within
        if situation.next_state.is_finished:
            assert situation.next_phase is Phase.ENDED
            assert situation.reason is not None
        else:
            assert (situation.next_state, situation.next_phase) in UNFINISHED


def test_passed_deadlines_alone_end_every_run() -> None:
    for start in UNFINISHED:
        state, phase = start
        seen = set()
        while not state.is_finished:
            assert (state, phase) not in seen
            seen.add((state, phase))
            situation = UNFINISHED[state, phase]
            state, phase = situation.next_state, situation.next_phase
        assert state is S.CRASHED


def test_every_state_that_a_run_can_have_is_in_the_table_or_final() -> None:
    unfinished = {state for state in runs.FLOW_RUN_STATES if not state.is_finished}
    assert unfinished == {state for state, _ in UNFINISHED}
    for state in runs.FLOW_RUN_STATES - unfinished:
        assert runs.deadline(state, Phase.ENDED, 5) is None


@pytest.mark.parametrize(("current", "target"), [*itertools.product(sorted(runs.FLOW_RUN_STATES), StateCode)])
def test_what_a_writer_may_report(current: StateCode, target: StateCode) -> None:
    result = runs.reported_state(current, target)
    if current.is_finished:
        assert result is None
    elif result is not None:
        assert result is target
        assert target not in (S.SCHEDULED, S.SUBMITTED)
        assert target in runs.FLOW_RUN_STATES
    if current is S.CANCELLING:
        assert runs.reported_state(current, S.RUNNING) is None


def test_cancelling_is_immediate_before_acceptance_and_asked_for_after() -> None:
    assert runs.cancelled_state(S.SCHEDULED) is S.CANCELLED
    assert runs.cancelled_state(S.SUBMITTED) is S.CANCELLING
    assert runs.cancelled_state(S.RUNNING) is S.CANCELLING
    assert runs.cancelled_state(S.CANCELLING) is S.CANCELLING
    assert runs.cancelled_state(S.CANCELLED) is S.CANCELLED
    for state in (S.SUCCESS, S.FAILED, S.CRASHED):
        assert runs.cancelled_state(state) is None


def test_loss_and_lateness_are_computed() -> None:
    heard = 1_000 * runs.SECOND
    assert not runs.is_lost(S.RUNNING, Phase.HELD, heard, heard + runs.RUN_LEASE)
    assert runs.is_lost(S.RUNNING, Phase.HELD, heard, heard + runs.RUN_LEASE + 1)
    assert not runs.is_lost(S.SUCCESS, Phase.ENDED, heard, heard * 100)
    assert not runs.is_lost(S.SCHEDULED, Phase.OFFERED, heard, heard * 100)
    assert runs.lateness(S.SCHEDULED, 10, 25) == 15
    assert runs.lateness(S.SCHEDULED, 25, 10) == 0
    assert runs.lateness(S.RUNNING, 10, 25) == 0


def test_a_control_plane_that_starts_waits_for_two_leases() -> None:
    assert runs.start_up_grace() == 120 * runs.SECOND
    assert runs.start_up_grace(100 * runs.SECOND) == 200 * runs.SECOND


def test_a_run_that_speaks_again_is_where_it_was() -> None:
    assert runs.revived_state(started=False, cancel_requested=False) is S.SUBMITTED
    assert runs.revived_state(started=True, cancel_requested=False) is S.RUNNING
    assert runs.revived_state(started=True, cancel_requested=True) is S.CANCELLING


def test_matching_names_what_an_agent_lacks() -> None:
    found = match(
        required_labels={"a", "b"}, required_launcher="docker", required_host="h", project="p",
        labels={"b", "c"}, launcher="local", host="", projects={"q"},
    )  # fmt: skip
    assert not found.fits
    assert found.missing_labels == ("a",)
    assert (found.wrong_launcher, found.wrong_host, found.wrong_project) == (True, True, True)
    assert match(
        required_labels=(), required_launcher="", required_host="", project="p", labels={"x"}, launcher="ecs", host="h"
    ).fits
