"""The agent: leases runs, tracks them from lease to reported exit, and survives everything around it.

Loops, each with its own pace, joined by the trackers alone:

- *poller*: a long poll for at most as many runs as there are free slots;
- *heartbeat*: every 15 s: renews leases whose supervisors have not been heard of, brings back commands;
- *reconciler*: every 10 to 15 s: what the launcher sees of each live run; the launcher's hints make it at once.

Free slots are counted from the trackers, which the reconciler keeps equal to what is really there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from heliograph import __version__
from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.client.channel import new_request_id
from heliograph.exceptions import HeliographError, NotFoundError
from heliograph_agents import door
from heliograph_agents.ended import Ended
from heliograph_agents.gate import Gate
from heliograph_agents.health import serve_health
from heliograph_agents.launcher import ExitKind, Handle, InfraExit, Launcher, Liveness
from heliograph_agents.link import AgentRefusedError, Link, Pause, worth_another_try
from heliograph_agents.offers import Offers
from heliograph_agents.performer import Performer, Stub, delay_value, spec_of, with_own_launch
from heliograph_agents.tracker import (
    Adopted,
    Asked,
    Effect,
    Event,
    LaunchFailed,
    Observed,
    Offered,
    Overdue,
    Phase,
    Rejected,
    Tracker,
    Unlaunched,
    tracker_step,
)
from heliograph_agents.waits import Waits

_log = logging.getLogger("heliograph.agent")

POLL_SECONDS = 25.0
"""How long a poll waits for work: short enough for every proxy."""

HEARTBEAT_SECONDS = 15.0
RECONCILE_SECONDS = (10.0, 15.0)

STALE_SECONDS = 60.0
"""Age of the newest answer at which the agent calls itself unhealthy."""

LAUNCH_FAILURES = 3
"""Launches that fail in a row before the agent stops taking runs for a while."""

START_TIMEOUT_SECONDS = 900.0
"""How long a run's infrastructure may take until its supervisor is heard of, where nothing else is said."""

FIRST_SUSPENSION_SECONDS, LONGEST_SUSPENSION_SECONDS = 30.0, 600.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent is.

    Attributes:
        name: Its name, unique in the control plane.
        labels: What it offers.
        capacity: Most runs at once.
        host: Name of the host whose disk it shares; empty when it does not.
        drain_seconds: How long it waits for its runs before it leaves.
        health_host, health_port: Where `/healthz` is served; port 0 means nowhere.
        start_timeout_seconds: How long a run's infrastructure may take until its supervisor is heard of.
        max_polls: Polls after which it drains and leaves; 0 means none.
    """

    name: str
    labels: tuple[str, ...]
    capacity: int
    host: str
    drain_seconds: float = 60.0
    health_host: str = "127.0.0.1"
    health_port: int = 0
    start_timeout_seconds: float = START_TIMEOUT_SECONDS
    max_polls: int = 0


class Agent:
    """One agent on one event loop.

    Args:
        options: What it is.
        link: The control plane.
        launcher: Where its runs go.
        offers: What it has taken and not launched.
        gate: What is checked before a launch.
        ended: How its runs ended.

    Attributes:
        opened: Set when its launcher is open and it has begun to ask for runs.
        draining: Set when it takes no new runs.
    """

    def __init__(
        self, options: AgentOptions, link: Link, launcher: Launcher, offers: Offers, gate: Gate, ended: Ended
    ) -> None:
        self._options, self._link, self._launcher, self._offers = options, link, launcher, offers
        self._name = f"agents/{options.name}"
        self._performer = Performer(self._name, link, launcher, gate, ended)
        self._ended, self._telling_again = ended, False
        self._trackers: dict[tuple[str, int], Tracker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.opened, self.draining = asyncio.Event(), asyncio.Event()
        self._leaving = asyncio.Event()
        self._failed: HeliographError | None = None
        self._registered = asyncio.Event()
        self._launch_failures = 0
        self._suspended_until = 0.0
        self._blind = False
        self._spread_seconds = 0.0
        self._return_at = 0.0
        self._live_since: dict[tuple[str, int], float] = {}
        self._heard_since: float | None = None
        self._waits = Waits()

    # --- from outside -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until it is told to leave.

        Raises:
            AgentRefusedError: The control plane refuses its token.
            OSError: The launcher or the health port cannot be opened.
        """
        options = self._options
        health = None
        if options.health_port:
            checks = {"/healthz": self.health, "/readyz": self.readiness}
            health = await serve_health(options.health_host, options.health_port, checks)
        try:
            await self._launcher.open(self._on_hint)
            await self._adopt()
            self._give_back()
            self.opened.set()
            for loop in (self._poll(), self._heartbeat(), self._reconcile()):
                self._start(loop)
            await self._leaving.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if health is not None:
                health.close()
            await self._launcher.close()
            await self._link.close()
        if self._failed is not None:
            raise self._failed
        left = sum(tracker.held for tracker in self._trackers.values())
        go_on = "1 run goes on, the next agent of this name adopts it"
        if left > 1:
            go_on = f"{left} runs go on, the next agent of this name adopts them"
        _log.info("left%s", f"; {go_on}" if left else "")

    def drain(self) -> None:
        """Takes no new runs, waits for those it has, then leaves. Called again: leaves at once; runs go on."""
        if self.draining.is_set():
            self._leaving.set()
            return
        self.draining.set()
        live = len(self._trackers)
        if live:
            _log.info(
                "draining: waits up to %.0f s for %d run%s; again to leave at once",
                self._options.drain_seconds,
                live,
                "s" if live > 1 else "",
            )
        self._start(self._drain())

    def handle_signals(self) -> None:
        """Has SIGTERM and SIGINT drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain)

    def status(self) -> str:
        """Returns what it does, in a line."""
        return f"{len(self._trackers)} of {self._options.capacity} slots taken; {self.readiness()[1]}"

    def health(self) -> tuple[bool, str]:
        """Good while the control plane answered lately."""
        age = time.monotonic() - self._link.last_answer
        if not self._link.last_answer:
            return False, "the control plane has not answered yet"
        return age < STALE_SECONDS, f"the control plane answered {age:.0f} s ago"

    def readiness(self) -> tuple[bool, str]:
        """Good while it takes runs."""
        if self.draining.is_set():
            return False, "draining"
        if self._suspended_until > time.monotonic():
            return False, f"{self._launch_failures} launches in a row failed"
        if self._blind:
            return False, "what runs here cannot be listed"
        if not self._registered.is_set():
            return False, "not registered yet"
        return self.health()

    # --- trackers -----------------------------------------------------------------------------------------------

    def _feed(self, key: tuple[str, int], event: Event) -> None:
        """Gives an event to a tracker, and starts what comes of it."""
        tracker = self._trackers.get(key)
        if tracker is None:
            return
        if (good := _launch_went(tracker, event)) is not None:
            self._note_launch(good)
        tracker, effects = tracker_step(tracker, event)
        if tracker.phase in (Phase.LIVE, Phase.GONE):
            self._offers.strike(*key)
        if tracker.phase is Phase.GONE:
            del self._trackers[key]
            self._live_since.pop(key, None)
            self._waits.forget(key)
        else:
            self._trackers[key] = tracker
        if tracker.phase is Phase.LIVE and tracker.handle is not None and key not in self._live_since:
            self._live_since[key] = time.monotonic()  # not what clocks say of its age: they may be a day off
        for effect in effects:
            self._start(self._perform(key, tracker, effect))
        self._changed.set()

    async def _perform(self, key: tuple[str, int], tracker: Tracker, effect: Effect) -> None:
        event = await self._performer.perform(tracker, effect)
        if event is not None:
            self._feed(key, event)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._leaving.is_set():
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, HeliographError):
            self._failed = error
        else:
            # A fault of ours. Going on with half of the loops would be an agent that looks alive and is not.
            _log.error("the agent failed", exc_info=error)
            self._failed = HeliographError(f"the agent failed: {type(error).__name__}: {error}")
        self._leaving.set()

    def _on_hint(self, handle: Handle) -> None:
        self._start(self._observe((handle.flow_run, handle.epoch), handle))

    async def _observe(self, key: tuple[str, int], handle: Handle) -> None:
        try:
            found = await self._launcher.inspect(handle)
        except OSError as error:  # a full disk, above all: it is looked at again at the next reconcile
            _log.error("%s cannot be looked at: %s", handle.flow_run, error)
            return
        if isinstance(found, InfraExit) and found.hint:
            _log.warning("%s: %s", handle.flow_run, found.hint)
        self._feed(key, Observed(found))
        if (tracker := self._trackers.get(key)) is not None:
            starting = found is Liveness.STARTING and not tracker.connected
            self._waits.note(key, self._launcher.waits_for(handle) if starting else None)

    async def _adopt(self) -> None:
        for handle in await self._launcher.list():
            key = (handle.flow_run, handle.epoch)
            if key not in self._trackers:
                _log.info("adopting %s", handle.flow_run)
                self._trackers[key] = Tracker(*key)
                self._feed(key, Adopted(handle))
                await self._observe(key, handle)

    def _give_back(self) -> None:
        """Releases what an agent of this name had taken when it died, and not launched."""
        for key in self._offers.left():
            if key in self._trackers:
                self._offers.strike(*key)
                continue
            _log.info("giving back %s: it was leased and not launched", key[0])
            self._trackers[key] = Tracker(*key)
            self._feed(key, Unlaunched(back_off=False))

    def _note_launch(self, good: bool) -> None:
        if good:
            self._launch_failures = 0
            return
        self._launch_failures += 1
        if self._launch_failures >= LAUNCH_FAILURES:
            doublings = self._launch_failures - LAUNCH_FAILURES
            seconds = min(LONGEST_SUSPENSION_SECONDS, FIRST_SUSPENSION_SECONDS * 2**doublings)
            self._suspended_until = time.monotonic() + seconds
            _log.error("%d launches in a row failed: takes no runs for %.0f s", self._launch_failures, seconds)

    # --- loops --------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        await self._register()
        polls, pause = 0, Pause()
        # What the agent before this one was given and may not have heard of comes again, without a wait for more.
        request_id, wait = self._offers.asked(), Duration()
        while not self.draining.is_set():
            if not request_id:
                request_id = new_request_id()
                self._offers.ask(request_id)
                wait = Duration(seconds=int(POLL_SECONDS))
            free = await self._free_slots()
            if self.draining.is_set():
                return
            request = pb.LeaseFlowRunsRequest(
                agent=self._name,
                request_id=request_id,
                max_runs=min(free, 100),
                wait=wait,
            )
            try:
                answer = await self._unless_draining(self._link.call(Stub, "LeaseFlowRuns", request, POLL_SECONDS + 10))
            except NotFoundError:
                await self._register()
                continue
            except AgentRefusedError:
                raise
            except HeliographError:
                # The same request id is used again: what was leased unheard comes again.
                await self._stay_away(pause)
                continue
            if answer is None:
                return
            pause.reset()
            self._return_at = 0.0
            if answer.leases or answer.spent:
                # Not before: a poll that the network delivers late, or twice, may be given runs when its caller has
                # gone on. The next poll with its id hears of them.
                request_id = ""
            for lease in answer.leases[: max(0, self._options.capacity - len(self._trackers))]:
                self._offer(lease)  # more than were asked for would be more than there is room for
            if wait.seconds and not answer.spent:
                polls += 1
                if polls == self._options.max_polls:
                    self.drain()
            wait = Duration(seconds=int(POLL_SECONDS))

    def _offer(self, lease: pb.FlowRunLease) -> None:
        if not door.is_named(lease):
            _log.error("the control plane offers a lease that names no run: dropped")
            return
        key = (lease.flow_run.name, lease.epoch)
        if any(run == key[0] and epoch >= key[1] for run, epoch in self._trackers):
            return  # delivered twice, or late
        try:
            spec = spec_of(lease)
        except door.BadLeaseError as error:
            _log.error("%s is refused: %s", key[0], error)
            self._trackers[key] = Tracker(*key)
            self._feed(key, Rejected(error.failure))
            return
        _log.info("leased %s (%s), attempt %d", lease.flow_run.run_name, lease.flow_run.name, lease.attempt)
        self._offers.note(*key)
        self._trackers[key] = Tracker(*key)
        self._feed(key, Offered(with_own_launch(spec)))

    async def _free_slots(self) -> int:
        """Returns the number of free slots, when there is one and launches are not suspended."""
        while not self.draining.is_set():
            wait = self._suspended_until - time.monotonic()
            free = self._options.capacity - len(self._trackers)
            if wait <= 0 and free > 0 and not self._blind:
                return free
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait if wait > 0 else None):
                    await self._changed.wait()
        return 0

    async def _unless_draining(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Awaits a call; cancels it and returns None when the agent begins to drain."""
        work, drain = asyncio.ensure_future(call), asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait((work, drain), return_when=asyncio.FIRST_COMPLETED)
            return await work if work.done() else None
        finally:
            drain.cancel()
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError, HeliographError):
                    await work

    async def _register(self) -> None:
        options, pause = self._options, Pause()
        request = pb.RegisterAgentRequest(
            agent_id=options.name,
            launcher=self._launcher.kind,
            labels=options.labels,
            version=__version__,
            host=options.host,
            capacity=options.capacity,
        )
        while True:
            try:
                await self._link.call(Stub, "RegisterAgent", request)
            except HeliographError as error:
                if not worth_another_try(error):
                    raise
                await asyncio.sleep(pause.seconds())
            else:
                break
        self._registered.set()
        labels = ", ".join(options.labels) or "none"
        _log.info(
            "agent %s is registered at %s: type %s, labels %s, capacity %d",
            options.name, self._link.address, self._launcher.kind, labels, options.capacity,
        )  # fmt: skip

    async def _heartbeat(self) -> None:
        await self._registered.wait()
        pause = Pause()
        while True:
            await asyncio.sleep(self._return_at - time.monotonic())  # a poll has found that nobody is there
            request = pb.HeartbeatAgentRequest(agent=self._name, draining=self.draining.is_set())
            for key, tracker in self._trackers.items():
                if tracker.held:
                    waits_for = delay_value(self._waits.of(key, tracker))
                    request.runs.add(flow_run=key[0], epoch=key[1], renew=tracker.renew, waits_for=waits_for)
            try:
                answer = await self._link.call(Stub, "HeartbeatAgent", request)
            except AgentRefusedError:
                raise
            except HeliographError as error:
                self._heard_since = None
                if isinstance(error, NotFoundError):
                    await self._register()
                await self._stay_away(pause)
                continue
            pause.reset()
            self._return_at = 0.0
            self._spread_seconds = door.spread_seconds(_seconds(answer.spread_return))
            if door.check_incarnation(answer.incarnation):
                self._notice_store(answer.incarnation)
            for command in answer.commands:
                if command.command in (asked.value for asked in Asked):
                    self._feed((command.flow_run, command.epoch), Asked(command.command))
            self._give_up_on_late_ones()
            if answer.drain and not self.draining.is_set():
                _log.info("the control plane asks this agent to drain")
                self.drain()
            # Sooner by a little each time: agents that were started together do not stay together.
            seconds = door.heartbeat_seconds(_seconds(answer.next_heartbeat), HEARTBEAT_SECONDS)
            await asyncio.sleep(seconds * random.uniform(0.9, 1.0))  # noqa: S311 (jitter)

    def _notice_store(self, incarnation: str) -> None:
        """Notes which store answers. One that was restored is told again how runs ended, before it gives them out."""
        before = self._ended.incarnation()
        if incarnation == before or not incarnation or self._telling_again:
            return
        if not before:
            self._ended.hear(incarnation)
            return
        _log.warning("the control plane was restored from a backup: it is told again how runs ended")
        self._telling_again = True
        self._start(self._tell_again(before, incarnation))

    async def _tell_again(self, before: str, incarnation: str) -> None:
        ends = await asyncio.to_thread(self._ended.all)
        for end in ends:
            await self._performer.tell_again(end, before)
        self._ended.hear(incarnation)
        self._telling_again = False
        _log.info("the restored control plane was told of %d runs that had ended", len(ends))

    async def _stay_away(self, pause: Pause) -> None:
        """Waits before the control plane is tried again.

        Where it serves many agents it has said over how long they spread their return. This agent then comes back at
        a moment of its own, with all that it has to ask, and at that same moment of each span after it.
        """
        seconds, now = pause.seconds(), time.monotonic()
        if self._spread_seconds > seconds:
            if self._return_at <= now:
                first = not self._return_at
                self._return_at = now + self._spread_seconds * (random.random() if first else 1.0)  # noqa: S311 (jitter)
            seconds = self._return_at - now
        await asyncio.sleep(seconds)

    def _give_up_on_late_ones(self) -> None:
        """Ends what did not start in time. While the control plane is away nobody can be heard of: that counts not."""
        now = time.monotonic()
        heard_since = self._heard_since = self._heard_since or now
        for key, tracker in list(self._trackers.items()):
            if tracker.phase is not Phase.LIVE or tracker.connected or tracker.handle is None:
                continue
            limit = tracker.handle.start_timeout_seconds or self._options.start_timeout_seconds
            if now - max(self._live_since[key], heard_since) > limit:
                _log.error("%s did not start within %.0f s: it is removed", key[0], limit)
                self._feed(key, Overdue())

    async def _reconcile(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*RECONCILE_SECONDS))  # noqa: S311 (jitter)
            try:
                await self._look_around()
                await self._launcher.cleanup()
            except OSError as error:
                _log.error("what runs here cannot be listed or cleaned up: %s", error)
            for key, tracker in list(self._trackers.items()):
                if tracker.phase is Phase.LIVE and tracker.handle is not None:
                    await self._observe(key, tracker.handle)

    async def _look_around(self) -> None:
        """Adopts what is there. While nobody can say what is, no more runs are taken."""
        try:
            await self._adopt()
        except OSError:
            self._blind = True
            raise
        if self._blind:
            _log.warning("what runs here can be listed again: takes runs again")
            self._blind = False
            self._changed.set()

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.drain_seconds):
                while self._trackers:
                    self._changed.clear()
                    await self._changed.wait()
        self._leaving.set()


def _launch_went(tracker: Tracker, event: Event) -> bool | None:
    """Returns whether a launch has succeeded or failed with this event; None when it is not known by it.

    That something was started is no success yet: a full disk lets a supervisor begin that can do nothing.
    """
    match event:
        case LaunchFailed(failure, no_room=no_room):
            # What is refused for good is the run's own fault, and what finds no room may have asked for too much:
            # whoever registers such flows must not take an agent away.
            return None if no_room or failure is not None else False
        case Observed(InfraExit() as found):
            if found.kind is ExitKind.NEVER_STARTED:
                return None if tracker.adopted else False
            return True
        case Observed(Liveness.CONNECTED) | Asked.CONNECTED:
            return True
    return None


def _seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
