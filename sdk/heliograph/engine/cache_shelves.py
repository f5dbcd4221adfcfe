"""Shelves of the cache: the cached states under one key, newest first, found by what a validator compares.

Asking a validator about each state costs a map of n children n² comparisons of values. A validator that compares
tokens of inputs or parameters says which (`cache_validators.compared_by`), and a shelf keeps its states in order of
them as well: each state is tokenized once for each such validator. Whom the validator would accept first is found
either way; it is still asked about the state that was found, and any other validator about state after state.

Only what changes inside a value after it was put here (a list that is appended to) may be missed, where asking one by
one would compare the changed value.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, MutableSequence
from heapq import merge
from typing import Any, SupportsIndex

from heliograph.engine.cache_validators import Compared, Validator, compared_by, never_use
from heliograph.engine.state import Cached


class Shelf(MutableSequence[Cached]):
    """Cached states, newest first: a list, of which `insert(0, state)` costs the same however many there are.

    Threads may put and look at once. Any change but `insert(0, …)` has what is known of the order learned anew.

    Args:
        states: What is on it at first, newest first.
    """

    def __init__(self, states: list[Cached] | None = None) -> None:
        self._oldest_first: list[Cached] = list(reversed(states or ()))
        self._orders: dict[Compared, _Order] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> list[Cached]:
        return list(self)

    def __setstate__(self, states: list[Cached]) -> None:
        Shelf.__init__(self, states)

    def __len__(self) -> int:
        return len(self._oldest_first)

    def __getitem__(self, index: Any) -> Any:
        return self._oldest_first[::-1][index] if isinstance(index, slice) else self._oldest_first[-1 - index]

    def __iter__(self) -> Iterator[Cached]:
        states = self._oldest_first
        return (states[place] for place in reversed(range(len(states))))  # others may put a state meanwhile

    def __setitem__(self, index: Any, value: Any) -> None:
        with self._lock:
            states = self._oldest_first[::-1]
            states[index] = value
            self._replace(states)

    def __delitem__(self, index: Any) -> None:
        with self._lock:
            states = self._oldest_first[::-1]
            del states[index]
            self._replace(states)

    def insert(self, index: SupportsIndex, value: Cached) -> None:
        """Puts a state before the one at `index`."""
        with self._lock:
            if index == 0:
                self._oldest_first.append(value)
                return
            states = self._oldest_first[::-1]
            states.insert(index, value)
            self._replace(states)

    def _replace(self, states: list[Cached]) -> None:
        self._oldest_first = states[::-1]
        self._orders = {}

    def find(self, validator: Validator, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Cached | None:
        """Returns the newest state that the validator accepts for a run with these inputs and parameters."""
        compared = compared_by(validator)
        candidates = iter(self) if compared is None else self._alike(compared, inputs, parameters)
        return first_valid(candidates, validator, inputs, parameters)

    def _alike(self, compared: Compared, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Cached]:
        """The states that are the same in what is compared, and those of which that cannot be told; newest first."""
        try:
            key = compared.key_of_run(inputs, parameters) if self._oldest_first else None
        except Exception:  # noqa: BLE001 - a value's own code; the validator meets the same error, if it gets that far
            key = None
        if key is None:
            return iter(self)
        with self._lock:
            states, order = self._oldest_first, self._orders.setdefault(compared, _Order())
        order.learn(states, compared, self._lock)
        alike = order.by_key.get(key, [])
        return (states[place] for place in merge(reversed(alike), reversed(order.unknown), reverse=True))


class _Order:
    """Where on a shelf the states are, by what one validator compares. Places count from the oldest."""

    def __init__(self) -> None:
        self.by_key: dict[tuple[Any, ...], list[int]] = {}
        self.unknown: list[int] = []
        self.learned = 0

    def learn(self, states: list[Cached], compared: Compared, lock: threading.Lock) -> None:
        """Takes in what came since the last time. Tokens are made outside the lock: they may run a value's own code."""
        until = len(states)
        while (begin := self.learned) < until:
            keys = [_key_of(state, compared) for state in states[begin:until]]
            with lock:
                if self.learned != begin:
                    continue  # another thread was quicker
                for place, key in enumerate(keys, begin):
                    places = self.unknown if key is None else self.by_key.setdefault(key, [])
                    places.append(place)
                self.learned = until


def _key_of(state: Cached, compared: Compared) -> tuple[Any, ...] | None:
    try:
        return compared.key_of_state(state)
    except Exception:  # noqa: BLE001 - a value's own code, or a state of the user's own making: the validator is asked
        return None


def find_cached(
    states: Any, validator: Validator, inputs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Cached | None:
    """Returns the newest of `states` that the validator accepts: of a shelf, or a plain list that the user gave."""
    if validator is never_use:
        return None
    if isinstance(states, Shelf):
        return states.find(validator, inputs, parameters)
    return first_valid(iter(tuple(states)), validator, inputs, parameters)


def first_valid(
    candidates: Iterator[Cached], validator: Validator, inputs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Cached | None:
    """Returns the first that the validator accepts."""
    return next((state for state in candidates if validator(state, inputs, parameters)), None)
