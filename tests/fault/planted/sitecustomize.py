"""Plants bugs into every process of a stack: `HELIOGRAPH_PLANTED_BUG` names them, separated by commas.

Python imports this file at start-up when its folder is on PYTHONPATH. The bugs are in the modules of `bugs/`, each with
a table `BUGS`: name → module → what to do with that module once it was imported. Each is a mistake that could be made,
or the moment of a death; the test that guards against it must fail when it is there.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class _Planter(importlib.abc.MetaPathFinder):
    """Applies each part of a bug right after its module was imported."""

    def __init__(self, parts: dict[str, Callable[[Any], None]]) -> None:
        self._parts = dict(parts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._parts:
            return None
        plant = self._parts.pop(fullname)
        spec = importlib.util.find_spec(fullname)  # by way of the other planters, too
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def and_plant(module: ModuleType) -> None:
            execute(module)
            plant(module)

        spec.loader.exec_module = and_plant  # type: ignore[method-assign]
        return spec


def _find(name: str) -> dict[str, Callable[[Any], None]]:
    """Returns the parts of a bug."""
    for file in sorted((Path(__file__).parent / "bugs").glob("*.py")):
        parts: dict[str, dict[str, Callable[[Any], None]]] = importlib.import_module(f"bugs.{file.stem}").BUGS
        if name in parts:
            return parts[name]
    raise LookupError(f"no planted bug is called {name!r}")


for wanted in filter(None, os.environ.get("HELIOGRAPH_PLANTED_BUG", "").split(",")):
    sys.meta_path.insert(0, _Planter(_find(wanted)))
