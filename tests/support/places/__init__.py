"""Where agents launch runs, one for each kind of launcher: what tests of whole stacks need to know of each."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.support.places.docker import DockerPlace
from tests.support.places.ecs import EcsPlace
from tests.support.places.kubernetes import KubernetesPlace
from tests.support.places.place import LocalPlace, Place

__all__ = ["PLACES", "LocalPlace", "Place", "group_of", "kinds"]

PLACES: dict[str, type[Place]] = {
    "local": LocalPlace,
    "docker": DockerPlace,
    "ecs": EcsPlace,
    "kubernetes": KubernetesPlace,
}


def group_of(kind: str) -> str:
    """Returns the xdist group of a kind: those that share a part with other tests have its group."""
    return {"docker": "docker", "ecs": "docker"}.get(kind, f"place-{kind}")


def kinds(*, full: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Parametrizes a test with `kind`. A module that uses it imports the fixtures of the parts.

    Args:
        full: Kinds for the full form alone: their quick form is another test.
    """
    marks = {kind: [pytest.mark.xdist_group(group_of(kind)), *([pytest.mark.full] if kind in full else [])]
             for kind in PLACES}  # fmt: skip
    return pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks[kind]) for kind in PLACES])
