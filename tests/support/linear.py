"""Decides whether a concurrent history of one object could have happened one call after another.

The search is Wing and Gong's with Lowe's memory: take any call that could have been first, go on from the state after
it, and never look twice at the same set of calls taken and the same state. A call without an answer may have taken
effect at any later moment, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

NEVER = inf
"""When a call ended whose answer never came."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a history.

    Attributes:
        name: What was called.
        given: Its arguments.
        answer: What it returned; None when no answer came.
        begin: When it was made.
        end: When its answer was there; `NEVER` when none came.
    """

    name: str
    given: Any
    answer: Any
    begin: float
    end: float

    @property
    def answered(self) -> bool:
        """True when an answer came."""
        return self.end != NEVER


@dataclass(frozen=True, slots=True)
class Violation(Generic[S]):
    """Why a history cannot have happened.

    Attributes:
        taken: The longest order of calls that was possible.
        state: The object after them.
        stuck: The calls of which one should have been next.
    """

    taken: tuple[Call, ...]
    state: S
    stuck: tuple[Call, ...]

    def __str__(self) -> str:
        lines = [*(f"  {_show(call)}" for call in self.taken[-12:]), f"then in {self.state!r} none of"]
        return "\n".join([*lines, *(f"  {_show(call)}" for call in self.stuck)])


def check(calls: Sequence[Call], initial: S, step: Callable[[S, Call], Iterable[S]]) -> Violation[S] | None:
    """Returns None when the calls can be put into an order that the object allows, else why not.

    Args:
        calls: The history of one object.
        initial: The object before it.
        step: Returns the states in which a call, with the answer it has, may leave a state; none when it cannot have
            answered so. A call without an answer may answer anything.
    """
    order = sorted(calls, key=lambda call: call.begin)
    needed = sum(1 << number for number, call in enumerate(order) if call.answered)
    seen: set[tuple[int, S]] = {(0, initial)}
    path: list[tuple[int, int, S, Iterable[tuple[int, S]]]] = []
    done, state, first = 0, initial, 0
    best: Violation[S] | None = None
    moves = iter(_moves(order, done, first, state, step))
    while done & needed != needed:
        if best is None or len(path) > len(best.taken):
            best = Violation(tuple(order[one[0]] for one in path), state, _stuck(order, done, first))
        for number, after in moves:
            place = (done | 1 << number, after)
            if place in seen:
                continue
            seen.add(place)
            path.append((number, first, state, moves))
            done, state = place
            while done >> first & 1:
                first += 1
            moves = iter(_moves(order, done, first, state, step))
            break
        else:
            if not path:
                return best
            number, first, state, back = path.pop()
            done &= ~(1 << number)
            moves = iter(back)
    return None


def _moves(
    order: Sequence[Call], done: int, first: int, state: S, step: Callable[[S, Call], Iterable[S]]
) -> Iterable[tuple[int, S]]:
    """Yields the calls that may be next, those that ended soonest before the others, with the states after them."""
    for number in sorted(_possible(order, done, first), key=lambda number: order[number].end):
        call = order[number]
        for after in step(state, call):
            # A call that nobody heard of and that changes nothing need not have happened.
            if call.answered or after != state:
                yield number, after


def _possible(order: Sequence[Call], done: int, first: int) -> list[int]:
    """Returns the calls that had begun when the first of the others ended."""
    limit = inf
    found = []
    for number in range(first, len(order)):
        call = order[number]
        if call.begin > limit:
            break
        if not done >> number & 1:
            found.append(number)
            limit = min(limit, call.end)
    return [number for number in found if order[number].begin <= limit]


def _stuck(order: Sequence[Call], done: int, first: int) -> tuple[Call, ...]:
    return tuple(order[number] for number in _possible(order, done, first))


def _show(call: Call) -> str:
    answer = call.answer if call.answered else "no answer"
    return f"{call.name} {call.given} -> {answer} [{call.begin:.6f}, {call.end:.6f}]"
