"""The life of a flow run: its phases, who owns each unfinished situation until when, and which changes are legal.

Everything here decides; the store does. A run's lease has a phase beside the run's state: the state is what people
see, the phase is who has the right to execute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from heliograph.engine.codes import FailureCode, LaunchDelay, StateCode

SECOND: Final = 1_000_000
"""Microseconds in a second; all times and durations here are microseconds."""

ACCEPT_WITHIN: Final = 30 * SECOND
"""How long an offered lease lives unaccepted."""
RUN_LEASE: Final = 60 * SECOND
"""How long an accepted lease lives without being heard of; after that the run is shown as lost."""
RENEW_EVERY: Final = 15 * SECOND
"""How often holders renew."""
LOST_AFTER: Final = 600 * SECOND
"""When a run that nobody vouched for becomes Crashed, counted from when it was last heard of."""
START_WITHIN: Final = 7 * 24 * 3600 * SECOND
"""How long a run waits for an agent before it is Crashed as never started."""
ONLINE_WITHIN: Final = 45 * SECOND
"""How long after its last heartbeat an agent is shown as online."""
LATE_REPORTS: Final = 600 * SECOND
"""How long a run token still carries late log lines and repeated reports after the run's end."""


class Phase(IntEnum):
    """Who has the right to execute a run."""

    NONE = 0
    """Nobody: it waits in the queue."""
    OFFERED = 1
    """An agent leased it and has not accepted yet."""
    HELD = 2
    """An agent accepted it; its supervisor renews the lease once it is there."""
    ENDED = 3
    """Nobody any more: the run is finished. Its last holder may still report what happened before the end."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One unfinished situation of a run.

    Attributes:
        owner: Who has to move it on.
        within: How long it may last, from `since`.
        since: What the time is counted from.
        next_state: What it becomes when the time is over.
        next_phase: Who has it then.
        reason: The failure that is recorded, when the next state is a failed one.
    """

    owner: str
    within: int
    since: str
    next_state: StateCode
    next_phase: Phase
    reason: FailureCode | None = None


_LOST = Situation("agent", LOST_AFTER, "last heard of", StateCode.CRASHED, Phase.ENDED, FailureCode.LOST)

UNFINISHED: Final[dict[tuple[StateCode, Phase], Situation]] = {
    (StateCode.SCHEDULED, Phase.NONE): Situation(
        "queue", START_WITHIN, "due", StateCode.CRASHED, Phase.ENDED, FailureCode.START_TIMEOUT
    ),
    (StateCode.SCHEDULED, Phase.OFFERED): Situation("agent", ACCEPT_WITHIN, "leased", StateCode.SCHEDULED, Phase.NONE),
    (StateCode.SUBMITTED, Phase.HELD): _LOST,
    (StateCode.RUNNING, Phase.HELD): _LOST,
    (StateCode.CANCELLING, Phase.HELD): _LOST,
}
"""Every situation in which an unfinished run can be. No other pair of state and phase may be stored."""

FLOW_RUN_STATES: Final = frozenset(
    {state for state, _ in UNFINISHED}
    | {StateCode.SUCCESS, StateCode.SKIPPED, StateCode.FAILED, StateCode.TIMED_OUT, StateCode.CANCELLED}
    | {StateCode.CRASHED}
)
"""States in which a flow run can be."""

TASK_RUN_ENDS: Final = frozenset(state for state in StateCode if state.is_finished and state is not StateCode.LOOPED)
"""States that end a task run. Looped ends an iteration only: Running follows."""

_DELAYS: Final = frozenset(map(int, LaunchDelay))
_REPORTABLE: Final = FLOW_RUN_STATES - {StateCode.SCHEDULED, StateCode.SUBMITTED}


def deadline(state: StateCode, phase: Phase, since: int) -> int | None:
    """Returns when the situation's time is over; None for a finished run."""
    if state.is_finished:
        return None
    return since + UNFINISHED[state, phase].within


def start_up_grace(lease: int = RUN_LEASE) -> int:
    """Returns for how long a control plane that started does not reap: holders could not renew while it was away."""
    return max(2 * lease, 120 * SECOND)


def is_lost(state: StateCode, phase: Phase, heard: int, now: int) -> bool:
    """True while nobody vouched for a held run for longer than its lease. Reversible, never stored."""
    return phase is Phase.HELD and not state.is_finished and heard + RUN_LEASE < now


def lateness(state: StateCode, scheduled: int, now: int) -> int:
    """Returns how long past its time a run is that has not started; 0 when it is not late. Never stored."""
    return max(0, now - scheduled) if state is StateCode.SCHEDULED else 0


def known_delay(number: int) -> int:
    """Returns the number of a launch delay; 0 for one that is not on the closed list, as another version's."""
    return number if number in _DELAYS else 0


def reported_state(current: StateCode, target: StateCode) -> StateCode | None:
    """Returns the state that a run has after its writer reported `target`, or None when nothing changes.

    A finished run stays as it is. Running never takes back Cancelling. What a run cannot say of itself is ignored.
    """
    if current.is_finished or target not in _REPORTABLE or target is current:
        return None
    if current is StateCode.CANCELLING and target is StateCode.RUNNING:
        return None
    return target


def revived_state(started: bool, cancel_requested: bool) -> StateCode:
    """Returns the state of a run that was presumed dead and is heard of again under the same epoch."""
    if cancel_requested:
        return StateCode.CANCELLING
    return StateCode.RUNNING if started else StateCode.SUBMITTED


def exited_state(cancel_requested: bool) -> StateCode:
    """Returns the state of an unfinished run whose infrastructure is proven gone."""
    return StateCode.CANCELLED if cancel_requested else StateCode.CRASHED


def cancelled_state(current: StateCode) -> StateCode | None:
    """Returns the state after a request to cancel: None when a finished run refuses it.

    A run that nobody accepted is Cancelled at once; asking again changes nothing.
    """
    if current is StateCode.SCHEDULED:
        return StateCode.CANCELLED
    if current in (StateCode.CANCELLING, StateCode.CANCELLED):
        return current
    return None if current.is_finished else StateCode.CANCELLING
