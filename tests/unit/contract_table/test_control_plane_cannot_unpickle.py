"""Nothing in the control plane turns bytes into code: no pickle, no eval, no import of what it was sent."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import heliograph_control_plane

PACKAGE = Path(heliograph_control_plane.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "jsonpickle", "runpy", "code"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}


def offences(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.partition(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                found.append(name)
            case ast.Attribute(attr="import_module"):
                found.append("import_module")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_is_clean(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from cloudpickle import loads",
        "def f():\n    return eval('1')",
        "import importlib\nimportlib.import_module(x)",
    ],
)
def test_planted_offence_is_found(planted: str) -> None:
    assert offences(planted)
