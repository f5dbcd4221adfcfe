"""Shelves of the cache: the same states are found as by asking the validator about one after another."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from heliograph.engine import cache_validators
from heliograph.engine.cache_shelves import Shelf, find_cached
from heliograph.engine.cache_validators import all_inputs
from heliograph.engine.result import Result
from heliograph.engine.state import Cached, utc_now

Find = Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any]], Cached | None]


def own(state: Cached, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """A validator of a user."""
    return bool(state.cached_inputs.get("x", 0) == inputs.get("x", 1) and len(parameters) == 1)


VALIDATORS: list[Any] = [
    all_inputs,
    cache_validators.all_parameters,
    cache_validators.duration_only,
    cache_validators.never_use,
    cache_validators.partial_inputs_only(["x"]),
    cache_validators.partial_inputs_only(["x", "missing"]),
    cache_validators.partial_inputs_only(),
    cache_validators.partial_parameters_only(["country"]),
    own,
]


class Unreadable:
    """A value of which no token can be made."""

    def __heliograph_token__(self) -> str:
        raise RuntimeError("no token of this")


def one_by_one(
    states: Any, validator: Any, inputs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Cached | str | None:
    try:
        return next((s for s in list(states) if validator(s, inputs, parameters)), None)
    except RuntimeError as error:
        return str(error)


def by_shelf(
    states: Any, validator: Any, inputs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Cached | str | None:
    try:
        return find_cached(states, validator, inputs, parameters)
    except RuntimeError as error:
        return str(error)


def values(chance: random.Random) -> dict[str, Any]:
    some: list[Any] = [0, 1, 1.0, True, "1", [1], (1,), {"a": 1}, Result(1), Result(location="later"), None]
    if chance.random() < 0.1:
        some.append(Unreadable())
    return {name: chance.choice(some) for name in ("x", "y", "z") if chance.random() < 0.8}


def state(chance: random.Random) -> Cached:
    expires = chance.choice([None, utc_now() + dt.timedelta(hours=1), utc_now() - dt.timedelta(hours=1)])
    parameters = (
        {"country": chance.choice(["AF", "DE"]), "year": chance.choice([1, 2])} if chance.random() < 0.9 else {}
    )
    return Cached(cached_inputs=values(chance), cached_parameters=parameters, cached_result_expiration=expires)


def differences(seed: int, find: Find) -> int:
    """How often `find` answers otherwise than one by one, over a history of puts, questions and other changes."""
    chance, shelf, wrong = random.Random(seed), Shelf(), 0
    for _ in range(80):
        deed = chance.random()
        if deed < 0.45:
            shelf.insert(0, state(chance))
        elif deed < 0.48 and shelf:
            del shelf[chance.randrange(len(shelf))]
        elif deed < 0.50:
            shelf.insert(chance.randint(0, len(shelf)), state(chance))
        elif deed < 0.52 and shelf:
            shelf[chance.randrange(len(shelf))] = state(chance)
        elif deed < 0.54 and shelf:
            chance.choice(shelf).load_cached_results({name: Read() for name in ("x", "y", "z")})
        else:
            asked = chance.choice(VALIDATORS), values(chance), {"country": "AF", "year": chance.choice([1, 2])}
            found, right = find(shelf, *asked), one_by_one(shelf, *asked)
            wrong += found is not right and not (isinstance(found, str) and found == right)
    return wrong


class Read(Result):
    def read(self, location: str) -> Result:
        return Result(1, location)


def test_finds_what_asking_one_by_one_finds() -> None:
    assert [seed for seed in range(12) if differences(seed, by_shelf)] == []


def test_the_comparison_sees_a_shelf_that_finds_the_oldest_or_takes_the_expired() -> None:
    def oldest(states: Any, validator: Any, inputs: Any, parameters: Any) -> Any:
        return one_by_one(list(states)[::-1], validator, inputs, parameters)

    def expired(states: Any, validator: Any, inputs: Any, parameters: Any) -> Any:
        fresh = [copy.copy(s) for s in states]
        for each in fresh:
            each.cached_result_expiration = None
        place = next((i for i, s in enumerate(fresh) if validator(s, inputs, parameters)), None)
        return None if place is None else states[place]

    assert any(differences(seed, oldest) for seed in range(5))
    assert any(differences(seed, lambda *asked: _or_error(expired, *asked)) for seed in range(5))


def _or_error(find: Find, *asked: Any) -> Any:
    try:
        return find(*asked)
    except RuntimeError as error:
        return str(error)


def test_makes_a_token_of_each_value_once() -> None:
    class Counted:
        made = 0

        def __init__(self, number: int) -> None:
            self.number = number

        def __heliograph_token__(self) -> int:
            Counted.made += 1
            return self.number

    shelf = Shelf()
    for number in range(200):
        assert shelf.find(all_inputs, {"x": Counted(number)}, {}) is None
        shelf.insert(0, Cached(cached_inputs={"x": Counted(number)}))
    assert Counted.made < 3 * 200
    assert all(shelf.find(all_inputs, {"x": Counted(n)}, {}) is shelf[199 - n] for n in range(200))
    assert Counted.made < 10 * 200


def test_threads_put_and_find_at_once() -> None:
    shelf, missed = Shelf(), []

    def work(part: int) -> None:
        for number in range(part, 800, 4):
            shelf.insert(0, Cached(cached_inputs={"x": number}))
            if shelf.find(all_inputs, {"x": number}, {}) is None:
                missed.append(number)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert missed == []
    assert len(shelf) == 800
    found = [shelf.find(all_inputs, {"x": number}, {}) for number in range(800)]
    assert [each and each.cached_inputs["x"] for each in found] == list(range(800))


def test_is_a_list_newest_first_that_can_be_pickled() -> None:
    old, new = Cached("old", cached_inputs={"x": 1}), Cached("new", cached_inputs={"x": 1})
    shelf = Shelf([old])
    shelf.insert(0, new)
    assert list(shelf) == shelf[:] == [new, old]
    assert shelf.find(all_inputs, {"x": 1}, {}) is new
    again = pickle.loads(pickle.dumps(shelf))
    assert [each.message for each in again] == ["new", "old"]
    assert again.find(all_inputs, {"x": 1}, {}) is again[0]
    assert shelf.pop() is old
    assert find_cached([old], all_inputs, {"x": 1}, {}) is old, "a plain list that a user gave"
