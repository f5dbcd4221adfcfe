"""The kinds of storage that the suite is run on, found by their files, and the parts that they need."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.storages.ground import Ground
from tests.support.git_http import git_server
from tests.support.home import home
from tests.unit.storage.conftest import clean_imports

__all__ = ["clean_imports", "git_server", "home"]

_MODULES = {
    path.stem.removesuffix("_ground"): importlib.import_module(f"tests.contract.storages.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("*_ground.py"))
}
GROUNDS: dict[str, type[Ground]] = {name: module.GROUND for name, module in _MODULES.items()}

for _module in _MODULES.values():  # fixtures of a kind belong to its file
    globals().update({name: getattr(_module, name) for name in _module.__all__})


def _opened(kind: type[Ground], request: pytest.FixtureRequest, folder: Path) -> Iterator[Ground]:
    made = kind(folder, request)
    made.open()
    try:
        yield made
    finally:
        made.close()


def _params(*, holds: bool = False, wire: bool = False) -> list[object]:
    return [
        pytest.param(kind, marks=[pytest.mark.xdist_group(f"storage-{name}"), pytest.mark.timeout(600)], id=name)
        for name, kind in GROUNDS.items()
        if (kind.holds or not holds) and (kind.port is not Ground.port or not wire)
    ]


@pytest.fixture(params=_params())
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """One kind of storage, with a place of its own for the test."""
    yield from _opened(request.param, request, tmp_path)


@pytest.fixture(params=_params(holds=True))
def holding(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """One kind that keeps bundles' bytes."""
    yield from _opened(request.param, request, tmp_path)


@pytest.fixture(params=_params(wire=True))
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """One kind that is reached over HTTP."""
    yield from _opened(request.param, request, tmp_path)
