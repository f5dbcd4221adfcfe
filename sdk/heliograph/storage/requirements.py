"""Distributions that a flow imports: which they are, and whether those installed here will do."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

__all__ = ["check_requirements", "imported_distributions"]


def imported_distributions(files: Iterable[Path], own: frozenset[str]) -> dict[str, str]:
    """Returns the installed distributions whose modules the files import, anywhere in them, name to version.

    Args:
        files: Python files.
        own: Top-level names of modules that are in the bundle itself.
    """
    names: set[str] = set()
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    names -= sys.stdlib_module_names | own | {"heliograph"}
    if not names:
        return {}
    found = {_normal(name) for module in names for name in _distributions().get(module, ())}
    return {name: version for name in sorted(found) if (version := _version(name))}


def check_requirements(recorded: Mapping[str, str], policy: str) -> tuple[list[str], list[str]]:
    """Compares what a bundle recorded with what is installed here.

    Args:
        recorded: Name to version.
        policy: `off`: nothing is compared. `compatible`: a missing distribution or another major version (for 0.x:
            another minor one) is refused, any other difference is a warning. `strict`: every difference is refused.

    Returns:
        What is refused and what is a warning, one line each.
    """
    refused: list[str] = []
    warned: list[str] = []
    if policy == "off":
        return refused, warned
    for name, wanted in sorted(recorded.items()):
        here = _version(name)
        if here == wanted:
            continue
        line = f"{name}: the bundle has {wanted}, here is {here or 'none'}"
        refuse = here is None or policy == "strict" or _series(here) != _series(wanted)
        (refused if refuse else warned).append(line)
    return refused, warned


def _series(version: str) -> tuple[str, ...]:
    """Returns the part of a version that must agree: 2 of 2.3.1, 0.4 of 0.4.2, as semantic versioning has it."""
    release = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    parts = release[1].split(".") if release else [version]
    return tuple(parts[:2] if parts[0] == "0" else parts[:1])


@cache  # it reads the list of files of everything that is installed
def _distributions() -> Mapping[str, list[str]]:
    from importlib.metadata import packages_distributions

    return packages_distributions()


@cache
def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
