"""Concurrent histories of claims, leases and events: clients that do what agents, supervisors and people do, at random.

What they called and what was answered is checked, run by run, against `lease_spec`. A `Target` carries the calls out:
the store itself, or the services of a control plane. Time stands still but for leaps between the phases of a history,
so that every call's time is known.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.contract.store.helpers import TOKEN, Clock, flow, new_run, task
from tests.contract.store.lease_spec import Run, step
from tests.support.linear import NEVER, Call, check

from heliograph.engine.codes import StateCode
from heliograph.exceptions import IllegalTransitionError, LeaseLostError, NotFoundError, SequenceGapError
from heliograph_control_plane.store import SqlStore
from heliograph_control_plane.store.records import EventBatch, HeldRun, RequestKey

LEAPS = (1, 20, 31, 61, 601)
"""Seconds between phases: within an offer, beyond it, beyond a lease, beyond `lost_after`."""
RECENT = 6
"""Runs that clients choose from: few, so that they meet."""

_ids = itertools.count(1)


class NoAnswerError(Exception):
    """The call may have taken effect, or not."""


class NotMadeError(Exception):
    """The call cannot be made: nobody has what it takes."""


class Target(Protocol):
    """Carries calls out. Answers are words, as `lease_spec` has them; for `claim` epochs by run, for `reap` words by
    run, for `create` the run's id."""

    def call(self, name: str, run: str, **given: Any) -> Any:
        """Raises NoAnswerError when the answer never came, NotMadeError when nothing was asked."""

    def doubled(self) -> bool:
        """True when this thread's last call may take effect a second time."""


@dataclass
class History:
    """What one set of clients did.

    Attributes:
        runs: Ids, in the order of their making.
        leases: (run, agent, epoch) as they were told, newest last.
        calls: All calls as (run or "", call).
    """

    runs: list[str] = field(default_factory=list)
    leases: list[tuple[str, str, int]] = field(default_factory=list)
    sent: dict[tuple[str, int], int] = field(default_factory=dict)
    calls: list[tuple[str, Call]] = field(default_factory=list)

    def violations(self) -> list[str]:
        """Returns what cannot have happened, one text for each run or request."""
        found = [f"{run}:\n{bad}" for run in self.runs if (bad := check(self._of(run), Run(), step)) is not None]
        return found + self._requests()

    def _of(self, run: str) -> list[Call]:
        """Returns the history of one run."""
        calls = []
        # A claim that did not give the run says something about it only when its request gave it another time.
        gave = {c.given["request"] for _, c in self.calls if c.name == "claim" and c.answered and run in c.answer}
        made = {c.given["request"] for _, c in self.calls if c.name == "create" and c.answered and c.answer == run}
        for target, call in self.calls:
            if call.name == "create":
                if call.given["request"] in made:
                    answer = "created" if call.answered else None
                    calls.append(Call(call.name, {}, answer, call.begin, call.end))
            elif call.name in ("claim", "reap"):
                told = call.answer.get(run) if call.answered else None
                if told is not None or not call.answered or call.name == "reap" or call.given["request"] in gave:
                    calls.append(Call(call.name, call.given, told, call.begin, call.end))
            elif target == run:
                calls.append(call)
        return calls

    def _requests(self) -> list[str]:
        """A request did one thing, however often it was made."""
        made: dict[str, set[str]] = defaultdict(set)
        given: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for _, call in self.calls:
            if call.answered and call.name == "create":
                made[call.given["request"]].add(call.answer)
            elif call.answered and call.name == "claim":
                given[call.given["request"]] |= set(call.answer.items())
        return [f"{request} made {sorted(runs)}" for request, runs in made.items() if len(runs) > 1] + [
            f"{request} gave {sorted(leases)}" for request, leases in given.items() if len(leases) > MOST
        ]


MOST = 2
"""Most runs that one claim asks for."""


class Client(threading.Thread):
    """One client. It is an agent, and now and then a supervisor, a person or the reaper."""

    def __init__(self, number: int, seed: int, target: Target, history: History, shared: Shared) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.agent = f"h{seed}-agent-{number}"
        self._random = random.Random(f"{seed}/{number}")
        self._target, self._history, self._shared = target, history, shared
        self._requests: list[str] = []
        self._asked = 0.0
        self._creations: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Does its share, phase by phase."""
        try:
            for _ in range(self._shared.phases):
                for _ in range(self._shared.calls):
                    self._one()
                self._shared.barrier.wait(120)
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            self.failure = error
            self._shared.barrier.abort()

    def _one(self) -> None:
        chosen = self._random.choices(
            ("create", "claim", "accept", "send", "beat", "release", "exit", "cancel", "confirm", "reap", "get"),
            self._shared.weights,
        )[0]
        if chosen == "create":
            self._create()
        elif chosen == "claim":
            self._claim()
        elif chosen == "reap":
            self._do("reap", "", now=self._shared.now())
        elif chosen in ("cancel", "confirm", "get"):
            if runs := self._history.runs[-RECENT:]:
                given = {"now": self._shared.now()} if chosen == "confirm" else {}
                self._do(chosen, self._random.choice(runs), **given)
        elif leases := self._history.leases[-2 * RECENT :]:
            self._with_lease(chosen, *self._random.choice(leases))

    def _create(self) -> None:
        again = self._creations and self._random.random() < 0.3
        request = self._random.choice(self._creations) if again else f"c{next(_ids)}"
        self._creations.append(request)
        run = self._do("create", "", request=request)
        if run is not None and run not in self._history.runs:
            self._history.runs.append(run)

    def _claim(self) -> None:
        # A lease is given again while it waits to be accepted, which is 30 s where time is real.
        again = self._requests and self._random.random() < 0.35 and time.monotonic() < self._asked + 10
        if not again:
            self._requests.append(f"r{next(_ids)}")
            self._asked = time.monotonic()
        request = self._requests[-1]
        given = self._do("claim", "", agent=self.agent, request=request, now=self._shared.now())
        for run, epoch in (given or {}).items():
            if (run, self.agent, epoch) not in self._history.leases:
                self._history.leases.append((run, self.agent, epoch))

    def _with_lease(self, chosen: str, run: str, agent: str, epoch: int) -> None:
        wrong = self._random.random()
        if wrong < 0.05:
            agent = self.agent
        elif wrong < 0.1 and epoch > 1:
            epoch -= 1
        now = self._shared.now()
        if chosen != "send":
            self._do(chosen, run, agent=agent, epoch=epoch, now=now)
            return
        last = self._history.sent.get((run, epoch), 0)
        first = max(1, last + 1 + self._random.choice((0, 0, 0, 0, -1, -2, 1)))
        events = tuple(
            self._random.choices(("", "RUNNING", "SUCCESS", "FAILED"), (6, 3, 1, 1), k=self._random.randint(0, 3))
        )
        told = self._do("send", run, epoch=epoch, first=first, events=events, now=now)
        if told is not None and told.startswith("acked"):
            self._history.sent[run, epoch] = int(told.split()[1])

    def _do(self, name: str, run: str, **given: Any) -> Any:
        begin = time.monotonic()
        try:
            answer = self._target.call(name, run, **{key: value for key, value in given.items() if key != "now"})
            end = time.monotonic()
        except NoAnswerError:
            answer, end = None, NEVER
        except NotMadeError:
            return None
        self._history.calls.append((run, Call(name, given, answer, begin, end)))
        if self._target.doubled():
            self._history.calls.append((run, Call(name, given, None, begin, NEVER)))
        return answer


@dataclass
class Shared:
    """What the clients of one history share.

    Attributes:
        calls: Calls of each client in each phase.
        weights: How often each kind of call is made, in the order of `Client._one`.
        now: The time of this phase.
    """

    phases: int
    calls: int
    weights: tuple[int, ...]
    now: Callable[[], int]
    barrier: threading.Barrier


STORE_WEIGHTS = (4, 14, 16, 22, 10, 8, 6, 4, 2, 4, 10)


def record(
    target: Target,
    register: Callable[[str], None],
    seed: int,
    clients: int,
    calls: int,
    *,
    clock: Clock | None = None,
    weights: tuple[int, ...] = STORE_WEIGHTS,
    phases: int = 8,
) -> History:
    """Has clients make their calls, and returns what happened.

    Args:
        target: What they call.
        register: Registers an agent.
        seed: Decides what each client does; how they meet is up to the machine.
        clients: How many.
        calls: Calls of each.
        clock: Leaps between phases; None where time is real and too short to matter.
        weights: See `Shared`.
        phases: Into how many the calls are parted.
    """
    history, leaps = History(), random.Random(seed)

    def leap() -> None:
        if clock is not None:
            clock.advance(leaps.choice(LEAPS))

    barrier = threading.Barrier(clients, action=leap)
    now: Callable[[], int] = clock if clock is not None else lambda: 0
    shared = Shared(phases, calls // phases, weights, now, barrier)
    workers = [Client(number, seed, target, history, shared) for number in range(clients)]
    for worker in workers:
        register(worker.agent)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failures = [worker.failure for worker in workers if worker.failure is not None]
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    assert not failures
    return history


def one_command(names: Sequence[str]) -> str:
    """Returns what a heartbeat asks for one run, as `lease_spec` has it.

    That its supervisor was heard of is no command of its own: it comes alone, or before the one that is to be done.
    """
    rest = names[1:] if names and names[0] == "CONNECTED" else names
    return ", ".join(rest) or "NONE"


class StoreTarget:
    """The store, or several over one database: each client keeps to one.

    Args:
        stores: What is called.
    """

    def __init__(self, *stores: SqlStore) -> None:
        self._stores = stores

    def call(self, name: str, run: str, **given: Any) -> Any:
        """See `Target`."""
        number = int(threading.current_thread().name.rpartition("-")[2])
        method: Callable[..., Any] = getattr(self, f"_{name}")
        try:
            return method(self._stores[number % len(self._stores)], run, **given)
        except LeaseLostError:
            return "lost"
        except IllegalTransitionError:
            return "refused"
        except NotFoundError:
            return "not found"
        except SequenceGapError as error:
            return f"gap {error.metadata['expected_sequence']}"

    def doubled(self) -> bool:
        """See `Target`."""
        return False

    @staticmethod
    def _create(store: SqlStore, _: str, request: str) -> str:
        key = RequestKey("CreateFlowRun/users/ann", request, b"")
        return store.create_flow_run(new_run(f"run-{next(_ids)}"), key).result(60).run_id

    @staticmethod
    def _claim(store: SqlStore, _: str, agent: str, request: str) -> dict[str, int]:
        leases = store.lease_flow_runs(agent, request, MOST).result(60)
        return {lease.flow_run.run_id: lease.epoch for lease in leases}

    @staticmethod
    def _accept(store: SqlStore, run: str, agent: str, epoch: int) -> str:
        store.accept_flow_run(agent, run, epoch, TOKEN).result(60)
        return "accepted"

    @staticmethod
    def _release(store: SqlStore, run: str, agent: str, epoch: int) -> str:
        return store.release_flow_run(agent, run, epoch, b"", 0).result(60).state.name

    @staticmethod
    def _exit(store: SqlStore, run: str, agent: str, epoch: int) -> str:
        return store.report_flow_run_exit(agent, run, epoch, b"", 0).result(60).state.name

    @staticmethod
    def _beat(store: SqlStore, run: str, agent: str, epoch: int) -> str:
        commands = store.heartbeat_agent(agent, [HeldRun(run, epoch, True)], False).result(60)
        return one_command([one.command.name for one in commands])

    @staticmethod
    def _send(store: SqlStore, run: str, epoch: int, first: int, events: tuple[str, ...]) -> str:
        content = tuple(flow(StateCode[name]) if name else task(0, StateCode.RUNNING) for name in events)
        ack = store.apply_event_batch(EventBatch(run, epoch, first, content)).result(60)
        return f"acked {ack.acked_sequence} {ack.command.name}"

    @staticmethod
    def _cancel(store: SqlStore, run: str) -> str:
        return store.cancel_flow_run(run, "users/ann").result(60).state.name

    @staticmethod
    def _confirm(store: SqlStore, run: str) -> str:
        return store.confirm_flow_run_dead(run, "users/ann").result(60).state.name

    @staticmethod
    def _reap(store: SqlStore, _: str) -> dict[str, str]:
        reaped = store.reap(5_000).result(60)
        return dict.fromkeys(reaped.requeued, "requeued") | dict.fromkeys(reaped.crashed, "crashed")

    @staticmethod
    def _get(store: SqlStore, run: str) -> tuple[Any, ...]:
        found = store.get_flow_run(run).result(60)
        return (found.state.name, found.epoch, found.attempt, found.last_sequence, found.presumed_dead)
