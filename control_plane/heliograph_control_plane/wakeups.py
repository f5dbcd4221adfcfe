"""Wake-ups: what a commit changed, told to the calls that wait for it, within milliseconds.

Hints only: every waiter reads the store after it was woken, and wakes by itself every few seconds, so that a lost
hint costs time and nothing else. All state belongs to the event loop's thread; the store's thread only hands over.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from heliograph_control_plane.domain.matching import match
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.records import Agent, Changes, Requirement, Scope, Upcoming
from heliograph_control_plane.waiting import wait_until

SLOW_POLL_SECONDS = 5.0
"""How often waiters look without a hint."""

REFRESH_SECONDS = 0.02
"""How soon after a poll was woken the store is asked whether more runs are due; one question for all of them."""

# Polls that may come back empty-handed in a row (from an agent that is full, say) before the slow poll goes on.
_MAX_MISSES = 3
# Most polls that are woken at once for one requirement.
_MAX_WOKEN = 64


def fits(requirement: Requirement, agent: Agent, scope: Scope) -> bool:
    """True when `agent`, called by a token with `scope`, could take a run that needs `requirement`."""
    return (scope is None or requirement.project in scope) and match(
        required_labels=requirement.labels,
        required_launcher=requirement.launcher,
        required_host=requirement.host,
        project=requirement.project,
        labels=agent.labels,
        launcher=agent.launcher,
        host=agent.host,
        projects=agent.projects or None,
    ).fits


@dataclass(eq=False, slots=True)
class Listener:
    """One waiter for changes of some runs.

    Attributes:
        event: Set when something changed.
        runs: Ids of runs that changed since they were last taken.
        overflowed: More ids came than are kept.
        states_only: Changes of task runs and new log lines do not wake it.
    """

    limit: int
    states_only: bool = False
    event: asyncio.Event = field(default_factory=asyncio.Event)
    runs: set[str] = field(default_factory=set)
    overflowed: bool = False

    def tell(self, run_ids: frozenset[str] | set[str]) -> None:
        """Notes changes and wakes the waiter."""
        if len(self.runs) + len(run_ids) > self.limit:
            self.overflowed = True
        else:
            self.runs |= run_ids
        self.event.set()

    def take(self) -> set[str]:
        """Returns what changed, and starts anew."""
        taken, self.runs = self.runs, set()
        self.event.clear()
        return taken

    async def wait(self, seconds: float = SLOW_POLL_SECONDS) -> None:
        """Waits for a change, but not longer than `seconds`."""
        await wait_until(self.event, seconds)


@dataclass(eq=False, slots=True)
class LeaseWaiter:
    """One parked poll of an agent. `hint`: what it was woken for."""

    agent: Agent
    scope: Scope
    request_id: str = ""
    event: asyncio.Event = field(default_factory=asyncio.Event)
    hint: Requirement | None = None


@dataclass(slots=True)
class _Course:
    """How it goes with the runs of one requirement: polls to wake next, and polls that found nothing in a row."""

    number: int = 1
    misses: int = 0


class Wakeups:
    """Takes the store's changes to whom they concern. Made inside the event loop that it serves."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._arrived: list[Changes] = []
        self._by_run: defaultdict[str, set[Listener]] = defaultdict(set)
        self._everything: set[Listener] = set()
        self._waiters: deque[LeaseWaiter] = deque()
        self._by_request: defaultdict[tuple[str, str], list[LeaseWaiter]] = defaultdict(list)
        self._due: dict[Requirement, int] = {}
        self._due_changed = asyncio.Event()
        self._courses: dict[Requirement, _Course] = {}
        self._refresh_at = 0.0
        self._observers: list[Callable[[Changes], None]] = []
        self.stopping = asyncio.Event()
        self._unsubscribe = store.subscribe(self._from_writer)

    # --- from the store ---------------------------------------------------------------------------------------------

    def _from_writer(self, changes: Changes) -> None:
        with self._lock:
            self._arrived.append(changes)
            if len(self._arrived) > 1:
                return
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for changes in arrived:
            for observer in self._observers:
                observer(changes)
            for run_id in changes.runs | changes.tasks | changes.logs:
                for listener in self._by_run.get(run_id, ()):
                    if run_id in changes.runs or not listener.states_only:
                        listener.tell({run_id})
            if changes.runs:
                for listener in self._everything:
                    listener.tell(changes.runs)
            self._note(changes.ready)
            if changes.ready:
                for upcoming in changes.ready:
                    self._courses.pop(upcoming.requirement, None)
                self._hand_out()

    def _note(self, ready: Iterable[Upcoming]) -> None:
        for upcoming in ready:
            known = self._due.get(upcoming.requirement)
            if known is None or upcoming.ready_micros < known:
                self._due[upcoming.requirement] = upcoming.ready_micros

    def observe(self, observer: Callable[[Changes], None]) -> None:
        """Calls `observer` on the event loop with every change."""
        self._observers.append(observer)

    # --- changes of runs --------------------------------------------------------------------------------------------

    @contextmanager
    def listen(
        self, run_ids: Collection[str] = (), *, states_only: bool = False, limit: int = 10_000
    ) -> Iterator[Listener]:
        """Listens to changes of these runs, or of all runs when none is named."""
        listener = Listener(limit, states_only)
        for run_id in run_ids:
            self._by_run[run_id].add(listener)
        if not run_ids:
            self._everything.add(listener)
        try:
            yield listener
        finally:
            self._everything.discard(listener)
            for run_id in run_ids:
                home = self._by_run[run_id]
                home.discard(listener)
                if not home:
                    del self._by_run[run_id]

    # --- runs that are due ------------------------------------------------------------------------------------------

    @contextmanager
    def parked(self, agent: Agent, scope: Scope, request_id: str = "") -> Iterator[LeaseWaiter]:
        """Parks a poll: its event is set when a run may be there for it.

        One request may be parked more than once: asked again on a new connection while the old one is dead and nobody
        knows, or doubled by the network.
        """
        waiter = LeaseWaiter(agent, scope, request_id)
        self._waiters.append(waiter)
        same = self._by_request[agent.name, request_id]
        same.append(waiter)
        try:
            yield waiter
        finally:
            self._waiters.remove(waiter)
            same.remove(waiter)
            if not same:
                self._by_request.pop((agent.name, request_id), None)

    @property
    def parked_polls(self) -> int:
        """How many polls are parked here: about as many as agents that are idle."""
        return len(self._waiters)

    async def wait_for_run(self, waiter: LeaseWaiter, seconds: float) -> bool:
        """Waits until a run may be there for `waiter`; False when the time is over or the server stops."""
        if self.stopping.is_set():
            return False
        await wait_until(waiter.event, max(seconds, 0))
        woken = waiter.event.is_set() and not self.stopping.is_set()
        waiter.event.clear()
        return woken

    def tell_outcome(self, waiter: LeaseWaiter, *, got_runs: bool) -> None:
        """Tells how a look at the store ended. There may be more runs: the store is asked soon.

        Who else waits with the same request looks too, and finds what this one was given: only one of them is heard.
        """
        if got_runs:
            for other in self._by_request.get((waiter.agent.name, waiter.request_id), ()):
                if other is not waiter:
                    other.event.set()
        hint, waiter.hint = waiter.hint, None
        if hint is not None:
            course = self._courses.setdefault(hint, _Course())
            course.misses = 0 if got_runs else course.misses + 1
            if course.misses <= _MAX_MISSES:
                self._refresh_soon()

    def _refresh_soon(self) -> None:
        self._refresh_at = min(self._refresh_at, self._loop.time() + REFRESH_SECONDS)
        self._due_changed.set()

    def _hand_out(self) -> None:
        """Wakes polls for every requirement that has a run due; the others wait for their time."""
        now = self._store.now()
        for requirement in [found for found, ready_micros in self._due.items() if ready_micros <= now]:
            del self._due[requirement]
            course = self._courses.setdefault(requirement, _Course())
            self._wake(requirement, course.number)
            # As long as runs are left each time, twice as many polls are woken the next time.
            course.number = min(2 * course.number, _MAX_WOKEN)
        self._due_changed.set()

    def _wake(self, requirement: Requirement, number: int) -> None:
        """Wakes so many of the polls that fit, those first that have waited longest since they were last woken."""
        woken: list[LeaseWaiter] = []
        for waiter in self._waiters:
            if len(woken) == number:
                break
            if not waiter.event.is_set() and fits(requirement, waiter.agent, waiter.scope):
                waiter.hint = requirement
                waiter.event.set()
                woken.append(waiter)
        for waiter in woken:
            self._waiters.remove(waiter)
            self._waiters.append(waiter)

    async def keep_time(self) -> None:
        """Wakes polls when the time of a run comes, and looks into the store now and then. Runs until cancelled."""
        while True:
            self._due_changed.clear()
            if self._loop.time() >= self._refresh_at:
                self._refresh_at = self._loop.time() + SLOW_POLL_SECONDS
                # A poll looks for itself before it is parked: without parked polls there is nobody to wake.
                if self._waiters:
                    upcoming = await self._store.upcoming()
                    known = {found.requirement for found in upcoming}
                    self._courses = {key: course for key, course in self._courses.items() if key in known}
                    self._note(upcoming)
            self._hand_out_if_due()
            pause = self._refresh_at - self._loop.time()
            if self._due:
                pause = min(pause, (min(self._due.values()) - self._store.now()) / 1e6)
            await wait_until(self._due_changed, max(pause, 0.001))

    def _hand_out_if_due(self) -> None:
        now = self._store.now()
        if any(ready_micros <= now for ready_micros in self._due.values()):
            self._hand_out()

    # --- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Wakes everyone who waits, for good."""
        self._unsubscribe()
        self.stopping.set()
        for waiter in self._waiters:
            waiter.event.set()
        for listeners in (self._everything, *self._by_run.values()):
            for listener in listeners:
                listener.event.set()
