"""The suite finds what it is for: each test here plants a fault and wants one of the suite's tests to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages import planted, test_holding, test_storages
from tests.contract.storages.local_ground import LocalGround

from heliograph.storage import LaunchSettings

FAILED = (AssertionError, pytest.fail.Exception)


class Planted(LocalGround):
    """A folder that is written by a storage with a fault."""

    variant: type[Any]

    def storage(self) -> Any:
        """Returns the storage with the fault."""
        return self.variant(self.place)


@pytest.fixture
def ground(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[type[Any]], Planted]:
    def make(variant: type[Any]) -> Planted:
        made = Planted(tmp_path, request)
        made.variant = variant
        return made

    return make


def _nothing(text: str) -> None:
    """Takes a figure."""


@pytest.mark.parametrize("variant", [planted.ManifestFirst, planted.Torn])
def test_a_bundle_that_can_be_reached_too_early_is_found(ground: Callable[..., Planted], variant: type[Any]) -> None:
    with pytest.raises(FAILED):
        test_holding.test_an_author_who_is_killed_leaves_nothing_or_all_of_it(ground(variant), 1, _nothing)


def test_writing_again_is_found(ground: Callable[..., Planted]) -> None:
    with pytest.raises(FAILED):
        test_storages.test_the_same_content_again_stores_nothing(ground(planted.Rewriting))


def test_two_salts_are_found(ground: Callable[..., Planted]) -> None:
    with pytest.raises(FAILED):
        test_holding.test_one_of_many_makes_the_salt(ground(planted.TwoSalts))


def test_launch_settings_that_nobody_compares_are_found(
    ground: Callable[..., Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = LaunchSettings.from_json.__func__  # type: ignore[attr-defined]

    def unchecked(cls: type[LaunchSettings], data: bytes, expected: str) -> LaunchSettings:
        import hashlib

        return sound(cls, data, f"sha256:{hashlib.sha256(data).hexdigest()}")  # type: ignore[no-any-return]

    monkeypatch.setattr(LaunchSettings, "from_json", classmethod(unchecked))
    from heliograph.storage import Local

    with pytest.raises(FAILED):
        test_storages.test_what_is_not_as_registered_is_refused(ground(Local), _nothing)


def test_a_policy_that_takes_any_spelling_is_found(
    ground: Callable[..., Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    from heliograph.storage import Local

    for module in ("heliograph.storage.places", "heliograph.storage"):
        monkeypatch.setattr(f"{module}.check_location", lambda *_: None)
    with pytest.raises(FAILED):
        test_storages.test_a_policy_lets_through_what_is_below_and_nothing_else(ground(Local))
