"""The life of one lease in an agent, as a pure state machine: `tracker_step(tracker, event) -> (tracker, effects)`.

No I/O, clock or thread here. `performer` carries out the effects and feeds back what came of them as events.

    OFFERED ── accepted ──> LAUNCHING ── launched ──> LIVE ── exit ──> SHIPPING ──> REPORTING ──> GONE
       ├─ refused ─> GONE      └─ failed ─> RELEASING ──────────────────────────────────────────────┘
       └─ unanswered, or left by an agent that died before it launched ─┘
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.launcher import Credentials, ExitKind, Handle, InfraExit, Liveness, RunSpec


class Phase(Enum):
    """Where a lease is."""

    OFFERED = "offered"
    LAUNCHING = "launching"
    LIVE = "live"
    SHIPPING = "shipping"
    REPORTING = "reporting"
    RELEASING = "releasing"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Tracker:
    """One lease.

    Attributes:
        flow_run: `projects/{project}/flowRuns/{id}`.
        epoch: Fencing number.
        phase: Where it is.
        handle: Its infrastructure, once launched.
        connected: True once its supervisor renews the lease itself.
        cancel: True when its end was asked for.
        abandon: True when its lease is lost.
        exit: How its infrastructure ended.
        adopted: True when an agent before this one launched it.
        overdue: True when it did not start in time, and is being removed.
    """

    flow_run: str
    epoch: int
    phase: Phase = Phase.OFFERED
    handle: Handle | None = None
    connected: bool = False
    cancel: bool = False
    abandon: bool = False
    exit: InfraExit | None = None
    adopted: bool = False
    overdue: bool = False

    @property
    def held(self) -> bool:
        """True when the agent has accepted it: heartbeats name it."""
        return self.phase not in (Phase.OFFERED, Phase.RELEASING, Phase.GONE)

    @property
    def renew(self) -> bool:
        """True when the agent has to renew its lease."""
        return self.held and not (self.phase is Phase.LIVE and self.connected)


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """The lease arrived."""

    spec: RunSpec


@dataclass(frozen=True, slots=True)
class Adopted:
    """An agent of this name launched it before; its infrastructure was found."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Accepted:
    """The control plane confirmed the lease."""

    spec: RunSpec
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Refused:
    """The lease is not to be had any more."""


@dataclass(frozen=True, slots=True)
class Unlaunched:
    """Nobody knows whether the lease was accepted, and nothing was started for it: it is to be given back.

    With `back_off` it waits in the queue: what went wrong would go wrong again at once.
    """

    back_off: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """The lease was refused at the door, before it was accepted: another try is of no use."""

    failure: FailureCode


@dataclass(frozen=True, slots=True)
class Launched:
    """Its infrastructure was started."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """Its infrastructure was not started; with `failure`, another try is of no use.

    Without, it waits in the queue for `retry_seconds`; 0 means the usual pause. `no_room`: only because it is full.
    `delay`: why.
    """

    failure: FailureCode | None
    retry_seconds: float = 0.0
    no_room: bool = False
    delay: LaunchDelay | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What the launcher saw."""

    found: Liveness | InfraExit


@dataclass(frozen=True, slots=True)
class Overdue:
    """Its supervisor was not heard of within its start timeout, while the control plane could be reached."""


class Asked(Enum):
    """What the control plane asks for: a command of its heartbeat answer."""

    CANCEL = 1
    ABANDON = 2
    FORGET = 3
    CONNECTED = 4
    ACCEPT = 5


@dataclass(frozen=True, slots=True)
class Shipped:
    """What was left in the outbox is with the control plane, or can never be."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The control plane knows the exit (or knows the run under a newer epoch)."""


@dataclass(frozen=True, slots=True)
class Released:
    """The control plane has the lease back."""


Event: TypeAlias = (
    Offered
    | Adopted
    | Accepted
    | Refused
    | Unlaunched
    | Rejected
    | Launched
    | LaunchFailed
    | Observed
    | Overdue
    | Asked
    | Shipped
    | Reported
    | Released
)


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Confirm the lease. Ends in `Accepted`, `Refused` or `Unlaunched`."""

    spec: RunSpec


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the infrastructure. Ends in `Launched` or `LaunchFailed`."""

    spec: RunSpec
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the infrastructure. Ends by itself. With `told`, its supervisor hears of it from the control plane too."""

    handle: Handle
    abandon: bool
    told: bool = False


@dataclass(frozen=True, slots=True)
class Ship:
    """Send what a dead supervisor left. Ends in `Shipped`."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Report:
    """Report the exit. Ends in `Reported`."""

    exit: InfraExit


@dataclass(frozen=True, slots=True)
class Release:
    """Give the lease back, for a pause of `seconds` with `back_off` (0: the usual one). Ends in `Released`."""

    failure: FailureCode | None
    back_off: bool
    seconds: float = 0.0
    delay: LaunchDelay | None = None


@dataclass(frozen=True, slots=True)
class AcceptAgain:
    """Give a live run a run token that the control plane knows. Ends by itself."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Forget:
    """Tell the launcher that the end is known. Ends by itself."""

    handle: Handle


Effect: TypeAlias = Accept | Launch | Stop | Ship | Report | Release | AcceptAgain | Forget

Step: TypeAlias = tuple[Tracker, tuple[Effect, ...]]


def tracker_step(tracker: Tracker, event: Event) -> Step:
    """Returns the tracker after an event, and what is to be done. An event that comes too late changes nothing."""
    if isinstance(event, Asked):
        return _asked(tracker, event)
    step = {
        Phase.OFFERED: _offered,
        Phase.LAUNCHING: _launching,
        Phase.LIVE: _live,
        Phase.SHIPPING: _shipping,
        Phase.REPORTING: _reporting,
        Phase.RELEASING: _releasing,
        Phase.GONE: _stay,
    }[tracker.phase]
    return step(tracker, event)


def _stay(tracker: Tracker, _: Event) -> Step:
    return tracker, ()


def _offered(tracker: Tracker, event: Event) -> Step:
    match event:
        case Offered(spec):
            return tracker, (Accept(spec),)
        case Adopted(handle):
            return replace(tracker, phase=Phase.LIVE, handle=handle, adopted=True), ()
        case Accepted(spec, credentials):
            return replace(tracker, phase=Phase.LAUNCHING), (Launch(spec, credentials),)
        case Refused():
            return replace(tracker, phase=Phase.GONE), ()
        case Unlaunched(back_off):
            delay = LaunchDelay.UNCONFIRMED if back_off else None
            return replace(tracker, phase=Phase.RELEASING), (Release(None, back_off=back_off, delay=delay),)
        case Rejected(failure):
            return replace(tracker, phase=Phase.RELEASING), (Release(failure, back_off=False),)
    return tracker, ()


def _launching(tracker: Tracker, event: Event) -> Step:
    match event:
        case Launched(handle):
            live = replace(tracker, phase=Phase.LIVE, handle=handle)
            return live, _stop(live)
        case LaunchFailed(failure, seconds, delay=delay):
            release = Release(failure, True, seconds, delay) if failure is None else Release(failure, False)
            return replace(tracker, phase=Phase.RELEASING), (release,)
    return tracker, ()


def _live(tracker: Tracker, event: Event) -> Step:
    match event:
        case Observed(Liveness() as found):
            return replace(tracker, connected=tracker.connected or found is Liveness.CONNECTED), ()
        case Observed(InfraExit() as found):
            if tracker.overdue and found.kind is not ExitKind.FINISHED:
                # Removed by us: what it says of its end is our doing, what it lacked is worth more.
                found = replace(found, kind=ExitKind.DIED, reason=_why_overdue(found))
            return _ended(replace(tracker, exit=found), found)
        case Overdue() if not (tracker.connected or tracker.overdue):
            assert tracker.handle is not None
            return replace(tracker, overdue=True), (Stop(tracker.handle, abandon=True),)
    return tracker, ()


def _why_overdue(found: InfraExit) -> FailureCode:
    known = (FailureCode.NO_CAPACITY, FailureCode.IMAGE_UNAVAILABLE, FailureCode.LAUNCH_SETTINGS)
    return found.reason if found.reason in known else FailureCode.START_TIMEOUT


def _ended(tracker: Tracker, found: InfraExit) -> Step:
    assert tracker.handle is not None
    if found.kind is ExitKind.NEVER_STARTED:
        # An agent that died in the middle is no reason to wait; one that cannot launch would try for ever.
        again = not tracker.adopted
        delay = (found.delay or LaunchDelay.PLATFORM) if again else None
        return replace(tracker, phase=Phase.RELEASING), (Release(None, back_off=again, delay=delay),)
    if found.kind in (ExitKind.DIED, ExitKind.UNSHIPPED) and not tracker.abandon:
        return replace(tracker, phase=Phase.SHIPPING), (Ship(tracker.handle),)
    return replace(tracker, phase=Phase.REPORTING), (Report(found),)


def _shipping(tracker: Tracker, event: Event) -> Step:
    if isinstance(event, Shipped):
        assert tracker.exit is not None
        return replace(tracker, phase=Phase.REPORTING), (Report(tracker.exit),)
    return tracker, ()


def _reporting(tracker: Tracker, event: Event) -> Step:
    return _forgotten(tracker) if isinstance(event, Reported) else (tracker, ())


def _releasing(tracker: Tracker, event: Event) -> Step:
    return _forgotten(tracker) if isinstance(event, Released) else (tracker, ())


def _forgotten(tracker: Tracker) -> Step:
    effects = () if tracker.handle is None else (Forget(tracker.handle),)
    return replace(tracker, phase=Phase.GONE), effects


def _asked(tracker: Tracker, asked: Asked) -> Step:
    if asked is Asked.CONNECTED:
        return replace(tracker, connected=True), ()
    if asked is Asked.ACCEPT:
        if tracker.phase is not Phase.LIVE or tracker.handle is None:
            return tracker, ()
        return replace(tracker, connected=False), (AcceptAgain(tracker.handle),)
    if asked is Asked.FORGET:
        return tracker, ()  # its supervisor is told as well, and its end is seen by itself
    if asked is Asked.ABANDON:
        if tracker.phase in (Phase.SHIPPING, Phase.REPORTING):
            return _forgotten(tracker)  # the infrastructure is gone, and nobody waits for its story
        tracker = replace(tracker, abandon=True)
    else:
        tracker = replace(tracker, cancel=True)
    return tracker, _stop(tracker) if tracker.phase is Phase.LIVE else ()


def _stop(tracker: Tracker) -> tuple[Effect, ...]:
    if tracker.handle is None or not (tracker.cancel or tracker.abandon):
        return ()
    return (Stop(tracker.handle, tracker.abandon, tracker.connected),)
