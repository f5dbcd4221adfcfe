"""A watch over whatever a process unpickles, and a control plane that does."""

from __future__ import annotations

import importlib.abc
import marshal
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FORBIDDEN = {"cloudpickle", "dill", "jsonpickle", "joblib", "numpy", "pandas", "shelve", "torch", "yaml"}
"""Modules that the control plane must not even import: they unpickle, or make objects from text."""


def _note(line: str) -> None:
    with Path(os.environ["HELIOGRAPH_UNPICKLING"]).open("a", encoding="utf-8") as log:
        log.write(line + "\n")


class _Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname.partition(".")[0] in FORBIDDEN:
            _note(f"import {fullname}")
            raise ImportError(f"{fullname} has no place in the control plane")


def watch(server: Any) -> None:
    """Notes every use of pickle and marshal, and refuses what the control plane must not import."""
    sys.meta_path.insert(0, _Refuse())
    _note("watching")

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            # Python reads its own .pyc files with marshal.
            if not sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
                _note(f"call {name}")
            return function(*arguments, **named)

        return call

    for module in (pickle, sys.modules["_pickle"], marshal):
        for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
            if hasattr(module, name):
                setattr(module, name, noted(f"{module.__name__}.{name}", getattr(module, name)))


def unpickle_texts(interceptors: Any) -> None:
    """A server that takes some texts for pickles."""
    parse = interceptors._Around._parse

    def careless(self: Any, raw: bytes) -> Any:
        request = parse(self, raw)
        for field, value in request.ListFields():
            if field.name == "description":
                pickle.loads(value.encode())  # the bug
        return request

    interceptors._Around._parse = careless


def import_cloudpickle(projects: Any) -> None:
    """A service that imports cloudpickle where it is used."""
    get = projects.ProjectService.GetProject

    async def careless(self: Any, request: Any, context: Any) -> Any:
        import cloudpickle

        assert cloudpickle
        return await get(self, request, context)

    projects.ProjectService.GetProject = careless


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "watch_unpickling": {"heliograph_control_plane.server": watch},
    "watched_import_of_cloudpickle": {
        "heliograph_control_plane.server": watch,
        "heliograph_control_plane.services.projects": import_cloudpickle,
    },
    "watched_unpickling": {
        "heliograph_control_plane.server": watch,
        "heliograph_control_plane.interceptors": unpickle_texts,
    },
}
