"""A second Python environment with this checkout in it: of another minor version of Python, where this machine has one.

Debian has one Python, and the package indexes have none to install: interpreters come from the machine, by their names
on PATH or as pyenv keeps them. Where there is no other minor version the environment is of the same one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINORS = range(11, 16)


@dataclass(frozen=True, slots=True)
class SecondPython:
    """A venv besides the one of the tests.

    Attributes:
        folder: The venv.
        version: Its Python, major and minor.
    """

    folder: Path
    version: tuple[int, int]

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
    """A venv with this checkout and what it needs, as its owner would make it."""
    folder = tmp_path_factory.mktemp("second") / "venv"
    uv = str(Path(sys.executable).with_name("uv"))
    _run(uv, "venv", "-q", "--python", other_interpreter(), str(folder))
    python = folder / "bin" / "python"
    _run(uv, "pip", "install", "-q", "--python", str(python), "-c", str(ROOT / "constraints.txt"), "-e", str(ROOT))
    told = _run(str(python), "-c", "import sys; print(*sys.version_info[:2])").split()
    return SecondPython(folder, (int(told[0]), int(told[1])))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
