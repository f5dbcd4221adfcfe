from __future__ import annotations

import importlib
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.home import home

from heliograph.storage import load

__all__ = ["home"]

FLOW = """
from heliograph import Flow, Parameter, task
{imports}

@task
def count(country):
    return len(country)

with Flow({name!r}) as flow:
    count(Parameter("country", default="AF"))
"""


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """Puts `sys.path` and `sys.modules` back as they were."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    for root in list(load._roots):
        load._forget(root)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "/heliograph" not in file and "site-packages" not in file and "/pytest-of-" in file:
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Writes a project and returns its folder and its flow, loaded from there as `register` does."""

    def make(
        files: dict[str, str] | None = None, *, flow: str | None = None, imports: str = "", at: str = "{module}.py"
    ) -> tuple[Path, Any]:
        folder = tmp_path / f"project-{uuid.uuid4().hex[:6]}"
        path = folder / at.format(module=f"etl_{uuid.uuid4().hex[:8]}")
        path.parent.mkdir(parents=True)
        for name, text in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        path.write_text(flow or FLOW.format(name="etl", imports=imports))
        flows = load.load_flows(path)
        return folder, flows[0] if flows else None

    return make
