"""A uv project with this checkout in its environment: of another minor version of Python, where this machine has one.

Debian has one Python, and the package indexes have none to install: interpreters come from the machine, by their names
on PATH or as pyenv keeps them. Where there is no other minor version the environment is of the same one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINORS = range(11, 16)
PROJECT = """
[project]
name = "etl"
version = "1"
requires-python = ">=3.11"
dependencies = ["heliograph"]

[tool.uv]
constraint-dependencies = {pins}

[tool.uv.sources]
heliograph = {{ path = {checkout}, editable = true }}
"""


@dataclass(frozen=True, slots=True)
class SecondPython:
    """A uv project that was synced, besides the environment of the tests.

    Attributes:
        project: Its folder.
        version: Its Python, major and minor.
    """

    project: Path
    version: tuple[int, int]

    @property
    def folder(self) -> Path:
        """The environment that uv made."""
        return self.project / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def is_another_minor(self) -> bool:
        """True when a pickle of the tests' Python does not fit it."""
        return self.version != sys.version_info[:2]


def other_interpreter() -> str:
    """Returns an interpreter of another minor version that Heliograph runs on; else the tests' own."""
    kept = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for minor in MINORS:
        if (3, minor) == sys.version_info[:2]:
            continue
        places = [shutil.which(f"python3.{minor}"), *map(str, kept.glob(f"3.{minor}.*/bin/python3.{minor}"))]
        for place in filter(None, places):
            asked = [place, "-c", "import sys; print(sys.version_info[:2])"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.stdout.strip() == str((3, minor)):
                return place
    return sys.executable


@pytest.fixture(scope="session")
def second_python(tmp_path_factory: pytest.TempPathFactory) -> SecondPython:
    """A project that needs this checkout, synced as its owner would."""
    made = SecondPython(tmp_path_factory.mktemp("project"), (0, 0))
    pins = (ROOT / "constraints.txt").read_text().split("\n")
    (made.project / "pyproject.toml").write_text(
        PROJECT.format(checkout=json.dumps(str(ROOT)), pins=json.dumps([pin for pin in pins if pin]))
    )
    uv = str(Path(sys.executable).with_name("uv"))
    _run(uv, "sync", "-q", "--no-python-downloads", "--project", str(made.project), "--python", other_interpreter())
    assert (made.project / "uv.lock").exists()
    told = _run(str(made.python), "-c", "import sys; print(*sys.version_info[:2])").split()
    return replace(made, version=(int(told[0]), int(told[1])))


def _run(*command: str) -> str:
    # The environment that the tests run in is not the project's.
    variables = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=variables)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
