"""Nothing in the control plane turns bytes into code: no pickle, no eval, no import of what it was sent.

That holds for its own modules and for those of the SDK that it imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import heliograph_control_plane

PACKAGE = Path(heliograph_control_plane.__file__).parent
FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "jsonpickle", "joblib", "numpy", "pandas",
    "torch", "runpy", "code", "codeop", "multiprocessing", "pickletools",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {"import_module", "exec_module", "PickleType", "find_class", "load_module"}
BY_CONSTANT_NAMES = {
    # The lazy names of the package itself, from tables in that file; the generated modules, from their folder.
    "heliograph/__init__.py": ["import_module", "import_module"],
    "api/contract.py": ["import_module"],
}


@cache
def sdk_modules() -> tuple[Path, ...]:
    """The files of the SDK's modules that the control plane's modules import, by their imports and those of these."""
    modules = [
        ".".join(("heliograph_control_plane", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in PACKAGE.rglob("*.py")
        if "versions" not in path.parts and path.name not in ("__init__.py", "__main__.py", "env.py")
    ]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.partition('.')[0] == 'heliograph' and module.__file__: print(module.__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    files = [Path(line) for line in done.stdout.splitlines()]
    return tuple(file for file in files if not file.stem.endswith(("_pb2", "_pb2_grpc")))


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
            case ast.Attribute(attr=str(name)) if name in FORBIDDEN_ATTRIBUTES:
                found.append(name)
            case ast.keyword(arg="allow_pickle"):
                found.append("allow_pickle")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_is_clean(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


def test_the_modules_of_the_sdk_that_it_imports_are_clean() -> None:
    files = sdk_modules()
    assert any(file.name == "contract.py" for file in files)
    found = {file: offences(file.read_text(encoding="utf-8")) for file in files}
    assert {"/".join(file.parts[-2:]): offence for file, offence in found.items() if offence} == BY_CONSTANT_NAMES


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from cloudpickle import loads",
        "def f():\n    return eval('1')",
        "import importlib\nimportlib.import_module(x)",
        "from sqlalchemy import types\ncolumn = types.PickleType()",
        "load(file, allow_pickle=True)",
    ],
)
def test_planted_offence_is_found(planted: str) -> None:
    assert offences(planted)
