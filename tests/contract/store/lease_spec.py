"""One run, its lease and its events as a sequential object: what each call does to it, and what it may answer.

Written from the promises, not from the store: histories of many clients are checked against it
(`tests.support.linear`). A claim and a look of the reaper are calls on every run at once; here each is a call on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.support.linear import Call

SECOND: Final = 1_000_000
ACCEPT_WITHIN, LEASE, LOST_AFTER = 30 * SECOND, 60 * SECOND, 600 * SECOND
FINISHED: Final = frozenset({"SUCCESS", "FAILED", "CANCELLED", "CRASHED"})


class Run(NamedTuple):
    """One run. `holder`: nobody, offered, held, over; empty before it was created.

    `given`: the leases that requests got, as (request, epoch): asking again gets the same one while it lives.
    """

    holder: str = ""
    state: str = ""
    epoch: int = 0
    attempt: int = 0
    agent: str = ""
    last: int = 0
    heard: int = 0
    offered_until: int = 0
    presumed: bool = False
    cancel: bool = False
    started: bool = False
    given: frozenset[tuple[str, int]] = frozenset()

    @property
    def final(self) -> bool:
        """True when nothing can change its state any more."""
        return self.state in FINISHED and not self.presumed

    def enter(self, state: str) -> Run:
        """Returns the run in another state."""
        return self._replace(
            state=state, presumed=False, started=self.started or state == "RUNNING",
            holder="over" if state in FINISHED else self.holder,
        )  # fmt: skip

    def hear(self, now: int) -> Run:
        """Returns the run after its holder was heard of: one that was presumed dead lives again."""
        if self.presumed:
            alive = "CANCELLING" if self.cancel else "RUNNING" if self.started else "SUBMITTED"
            return self.enter(alive)._replace(holder="held", heard=now)
        return self._replace(heard=now) if self.holder == "held" else self

    def command(self, epoch: int) -> str:
        """Returns what a holder of `epoch` is told."""
        if epoch < self.epoch or (epoch == self.epoch and self.holder in ("nobody", "offered")):
            return "ABANDON"
        if self.final:
            return "FORGET"
        return "CANCEL" if self.state == "CANCELLING" else "NONE"


def step(run: Run, call: Call) -> Iterator[Run]:
    """Yields the run after a call, when the call may have answered what it did. See `tests.support.linear.check`."""
    if not run.holder and call.name != "create":
        if call.answer is None:  # a claim or a look of the reaper that did not see it, or nobody knows
            yield run
        return
    for answer, after in _CALLS[call.name](run, **call.given):
        if not call.answered or answer == call.answer:
            yield after


Outcome = tuple[Any, Run]


def _create(run: Run) -> Iterator[Outcome]:
    yield "created", run if run.holder else Run("nobody", "SCHEDULED")


def _claim(run: Run, *, agent: str, request: str, now: int) -> Iterator[Outcome]:
    known = [epoch for given, epoch in run.given if given == request]
    if known:
        alive = run.holder == "offered" and run.epoch == known[0] and run.offered_until > now
        yield known[0] if alive else None, run
        return
    yield None, run  # others were due for longer, or the request had its answer
    if run.holder == "nobody":
        epoch = run.epoch + 1
        yield (
            epoch,
            run._replace(
                holder="offered", epoch=epoch, agent=agent, last=0, heard=now, offered_until=now + ACCEPT_WITHIN,
                given=run.given | {(request, epoch)},
            ),
        )  # fmt: skip


def _accept(run: Run, *, agent: str, epoch: int, now: int) -> Iterator[Outcome]:
    if (run.agent, run.epoch) != (agent, epoch) or run.holder not in ("offered", "held"):
        yield "lost", run
    elif run.holder == "held":
        yield "accepted", run
    else:
        held = run._replace(holder="held", attempt=run.attempt + 1, heard=now)
        yield "accepted", held.enter("SUBMITTED")


def _release(run: Run, *, agent: str, epoch: int, now: int) -> Iterator[Outcome]:
    if (run.agent, run.epoch) != (agent, epoch):
        yield "lost", run
    elif run.holder not in ("offered", "held") and not run.presumed:
        yield run.state, run
    elif run.last:
        yield "refused", run
    else:
        accepted = run.state != "SCHEDULED"
        after = (
            run.enter("CANCELLED")
            if run.cancel
            else run.enter("SCHEDULED")._replace(holder="nobody", attempt=run.attempt - accepted)
        )
        yield after.state, after


def _beat(run: Run, *, agent: str, epoch: int, now: int) -> Iterator[Outcome]:
    if epoch == run.epoch and agent == run.agent and not run.final:
        run = run.hear(now)
    mine = epoch < run.epoch or agent == run.agent
    yield run.command(epoch) if mine else "ABANDON", run


def _send(run: Run, *, epoch: int, first: int, events: tuple[str, ...], now: int) -> Iterator[Outcome]:
    if epoch != run.epoch or run.holder not in ("held", "over"):
        yield "lost", run
        return
    if first > run.last + 1:
        yield f"gap {run.last + 1}", run
        return
    if not run.final:
        run = run.hear(now)
    for state in events[run.last + 1 - first :]:
        if state and not run.final and state != run.state and (run.state, state) != ("CANCELLING", "RUNNING"):
            run = run.enter(state)
    run = run._replace(last=max(run.last, first + len(events) - 1))
    yield f"acked {run.last} {run.command(epoch)}", run


def _exit(run: Run, *, agent: str, epoch: int, now: int) -> Iterator[Outcome]:
    if (run.agent, run.epoch) != (agent, epoch) or run.holder == "offered":
        yield "lost", run
        return
    if run.holder == "held" or run.presumed:
        run = run.enter("CANCELLED" if run.cancel else "CRASHED")
    yield run.state, run


def _cancel(run: Run) -> Iterator[Outcome]:
    if run.state == "SCHEDULED":
        run = run._replace(cancel=True).enter("CANCELLED")
    elif run.state in ("SUBMITTED", "RUNNING"):
        run = run._replace(cancel=True).enter("CANCELLING")
    elif run.state not in ("CANCELLING", "CANCELLED"):
        yield "refused", run
        return
    yield run.state, run


def _confirm(run: Run, *, now: int) -> Iterator[Outcome]:
    if run.presumed or (run.holder == "held" and run.heard + LEASE < now):
        run = run.enter("CANCELLED" if run.cancel else "CRASHED")
        yield run.state, run
    else:
        yield "refused", run


def _reap(run: Run, *, now: int) -> Iterator[Outcome]:
    if run.holder == "offered" and run.offered_until <= now:
        yield "requeued", run._replace(holder="nobody")
    elif run.holder == "held" and run.heard + LOST_AFTER <= now:
        yield "crashed", run.enter("CRASHED")._replace(presumed=True)
    else:
        yield None, run


def _get(run: Run) -> Iterator[Outcome]:
    yield (run.state, run.epoch, run.attempt, run.last, run.presumed), run


_CALLS: Final = {
    "create": _create, "claim": _claim, "accept": _accept, "release": _release, "beat": _beat, "send": _send,
    "exit": _exit, "cancel": _cancel, "confirm": _confirm, "reap": _reap, "get": _get,
}  # fmt: skip
