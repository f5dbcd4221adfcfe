"""Wake-ups: what a commit changed, told to the calls that wait for it, within milliseconds.

Hints only: every waiter reads the store after it was woken, and wakes by itself every few seconds, so that a lost
hint costs time and nothing else. All state belongs to the event loop's thread; the store's thread only hands over.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from heliograph_control_plane.domain.matching import match
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.records import Agent, Changes, Requirement, Scope

SLOW_POLL_SECONDS = 5.0
"""How often waiters look without a hint."""

# A hint that some run is due goes to one waiter after another; so many in a row may come back empty-handed.
_MAX_EMPTY_HANDED = 3


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
        with suppress(TimeoutError):
            await asyncio.wait_for(self.event.wait(), seconds)


@dataclass(eq=False, slots=True)
class LeaseWaiter:
    """One parked poll of an agent."""

    agent: Agent
    scope: Scope
    event: asyncio.Event = field(default_factory=asyncio.Event)


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
        self._due: dict[Requirement, int] = {}
        self._due_changed = asyncio.Event()
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
            for upcoming in changes.ready:
                known = self._due.get(upcoming.requirement)
                if known is None or upcoming.ready_micros < known:
                    self._due[upcoming.requirement] = upcoming.ready_micros
        if any(changes.ready for changes in arrived):
            self._hand_out()

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
    def parked(self, agent: Agent, scope: Scope) -> Iterator[LeaseWaiter]:
        """Parks a poll: its event is set when a run may be there for it."""
        waiter = LeaseWaiter(agent, scope)
        self._waiters.append(waiter)
        try:
            yield waiter
        finally:
            self._waiters.remove(waiter)

    async def wait_for_run(self, waiter: LeaseWaiter, seconds: float) -> bool:
        """Waits until a run may be there for `waiter`; False when the time is over or the server stops."""
        if self.stopping.is_set():
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(waiter.event.wait(), max(seconds, 0))
        woken = waiter.event.is_set() and not self.stopping.is_set()
        waiter.event.clear()
        return woken

    def pass_on(self, waiter: LeaseWaiter, *, got_runs: bool) -> None:
        """Tells how a woken poll ended: there may be more runs for others."""
        if got_runs:
            for other in self._waiters:
                if other is not waiter and other.agent.name != waiter.agent.name and not other.event.is_set():
                    other.event.set()
                    return

    def _hand_out(self) -> None:
        """Wakes a waiter for every requirement that has a run due, and sets the timer for the rest."""
        now = self._store.now()
        for requirement, ready_micros in list(self._due.items()):
            if ready_micros > now:
                continue
            del self._due[requirement]
            woken = 0
            for waiter in self._waiters:
                if fits(requirement, waiter.agent, waiter.scope):
                    waiter.event.set()
                    woken += 1
                    if woken >= _MAX_EMPTY_HANDED:
                        break
            # The next requirement goes to others first.
            self._waiters.rotate(-1)
        self._due_changed.set()

    async def keep_time(self) -> None:
        """Wakes polls when the time of a run comes, and looks into the store now and then. Runs until cancelled."""
        refresh = 0.0
        while True:
            now = self._store.now()
            if self._loop.time() >= refresh:
                # Not before the polls that are parked had their own look at the store.
                self._due |= {found.requirement: found.ready_micros for found in await self._store.upcoming()}
                refresh = self._loop.time() + SLOW_POLL_SECONDS
                self._hand_out()
            self._due_changed.clear()
            soonest = min(self._due.values(), default=None)
            pause = refresh - self._loop.time()
            if soonest is not None:
                pause = min(pause, (soonest - now) / 1e6)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due_changed.wait(), max(pause, 0.001))
            self._hand_out_if_due()

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
