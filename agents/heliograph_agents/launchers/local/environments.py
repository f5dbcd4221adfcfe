"""Python environments of a local agent: named ones and single interpreters, what is in them, and what fits a bundle.

A name stands for a path that the agent's owner gives: the folder of a venv, of a conda environment or of a uv project,
or an interpreter. What is there is asked of the interpreter itself, again when its installed distributions change.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.launcher import BundleSpec, LaunchError
from heliograph_agents.run_directory import FORMAT

PROBE_SECONDS = 60.0

_INTERPRETERS = ("bin/python", "bin/python3", ".venv/bin/python", "Scripts/python.exe", ".venv/Scripts/python.exe",
                 "python.exe")  # fmt: skip
"""Where an environment's folder has its interpreter: venv, conda, a uv project; the same on Windows."""

_PROBE = """
import json, sys
told = {"python": ".".join(map(str, sys.version_info[:3])), "implementation": sys.implementation.name,
        "prefix": sys.prefix, "heliograph": "", "format": 0}
try:
    import heliograph
    told["heliograph"] = heliograph.__version__
    from heliograph_agents.run_directory import FORMAT
    told["format"] = FORMAT
except ImportError as error:
    told["missing"] = str(error)
told["paths"] = [path for path in sys.path if path.rstrip("/").endswith("-packages")]
print(json.dumps(told))
"""

_NOT_INHERITED = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
"""What points the agent's own interpreter at its distributions: another one would look there too."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter that runs may ask for.

    Attributes:
        name: What the owner calls it; empty for an interpreter that a run config names.
        python: The interpreter.
    """

    name: str
    python: str

    @property
    def words(self) -> str:
        """Returns what messages call it."""
        return f"environment {self.name} ({self.python})" if self.name else f"interpreter {self.python}"

    def variables(self, base: Mapping[str, str]) -> dict[str, str]:
        """Returns the environment variables of its processes."""
        folder = Path(self.python).parent
        kept = {key: value for key, value in base.items() if key not in _NOT_INHERITED}
        if (folder.parent / "pyvenv.cfg").exists():
            kept["VIRTUAL_ENV"] = str(folder.parent)
        elif (folder.parent / "conda-meta").is_dir():
            kept["CONDA_PREFIX"] = str(folder.parent)
        kept["PATH"] = os.pathsep.join((str(folder), kept.get("PATH", os.defpath)))
        return kept


@dataclass(frozen=True, slots=True)
class Found:
    """What is in an environment."""

    python: str
    implementation: str
    heliograph: str
    format: int
    paths: tuple[str, ...]
    missing: str = ""


def read_environments(texts: Iterable[str]) -> dict[str, Environment]:
    """Reads `NAME=PATH` texts.

    Raises:
        InvalidArgumentError: One has no such form, or there is no interpreter.
    """
    found: dict[str, Environment] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or not name.isprintable():
            raise InvalidArgumentError(f"{text!r} is not NAME=PATH", hint="As in --environment ml=/srv/envs/ml.")
        if name in found:
            raise InvalidArgumentError(f"environment {name} is given twice")
        found[name] = Environment(name, interpreter_in(Path(path).expanduser().absolute()))
    return found


def interpreter_in(path: Path) -> str:
    """Returns the interpreter of an environment's folder, or the interpreter that the path is.

    Raises:
        InvalidArgumentError: There is none.
    """
    if path.is_file():
        return str(path)
    for place in _INTERPRETERS:
        if (path / place).exists():
            return str(path / place)
    hint = "Name the folder of a venv, a conda environment or a uv project, or an interpreter."
    if (path / "pyproject.toml").exists():
        hint = f"It is a project without an environment: run `uv sync` in {path}."
    raise InvalidArgumentError(f"{path} has no Python", hint=hint)


class Probes:
    """What is in environments, asked once for each state of them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[float, ...], Found]] = {}

    def look(self, environment: Environment) -> Found:
        """Asks an environment what is in it.

        Raises:
            LaunchError: It is not there, or does not answer.
        """
        known = self._known.get(environment.python)
        if known is not None and known[0] == _state(environment, known[1]):
            return known[1]
        found = _ask(environment)
        self._known[environment.python] = (_state(environment, found), found)
        return found


def _state(environment: Environment, found: Found) -> tuple[float, ...]:
    """Returns what changes when the interpreter or its distributions do."""
    times = []
    for path in (environment.python, *found.paths):
        try:
            times.append(Path(path).stat().st_mtime)
        except OSError:
            times.append(0.0)
    return tuple(times)


def _ask(environment: Environment) -> Found:
    try:
        done = subprocess.run(
            [environment.python, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=environment.variables(os.environ),
            cwd="/",
            check=True,
        )
        told = json.loads(done.stdout.strip().rpartition("\n")[2])
        return Found(
            str(told["python"]),
            str(told["implementation"]),
            str(told["heliograph"]),
            int(told["format"]),
            tuple(map(str, told["paths"])),
            str(told.get("missing", "")),
        )
    except subprocess.CalledProcessError as error:
        raise _refusal(
            f"{environment.words} does not start: it ended with {error.returncode}: {error.stderr.strip()[-400:]}",
            "Mend it, or register the flow for another.",
        ) from error
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise _refusal(f"{environment.words} cannot be used: {error}", "Mend it, or name another.") from error


def check(environment: Environment, found: Found, bundle: BundleSpec) -> None:
    """Refuses an environment that cannot run a bundle, by what is known before anything is fetched.

    What a bundle needs of distributions is compared later, in the environment itself, before any of its code runs.

    Raises:
        LaunchError: Says what the bundle has, what the environment has, and what to do.
    """
    if found.format != FORMAT:
        what = f"Heliograph {found.heliograph}, which this agent does not speak with" if found.heliograph else (
            f"no Heliograph: {found.missing}"
        )  # fmt: skip
        raise _refusal(
            f"{environment.words} has {what}", f"Install this agent's version there: {_install(environment)}"
        )
    if not bundle.python_version:
        return  # nobody has said: the bundle's own manifest is looked at before any of its code runs
    made, here = _pair(bundle.python_version), _pair(found.python)
    shown = f"{found.implementation} {found.python}"
    if bundle.pickled and (made != here or found.implementation != "cpython"):
        raise _refusal(
            f"the bundle is a pickle of Python {bundle.python_version}; {environment.words} has {shown}",
            f"Ask for an environment with Python {made[0]}.{made[1]}, or register with Python {here[0]}.{here[1]}, "
            "or without pickle.",
            FailureCode.PYTHON_MISMATCH,
        )
    if made[:1] != here[:1] or made > here:
        raise _refusal(
            f"the bundle was made with Python {bundle.python_version}; {environment.words} has {shown}, which is older",
            f"Ask for an environment with Python {made[0]}.{made[1]} or newer, or register with Python "
            f"{here[0]}.{here[1]}.",
            FailureCode.PYTHON_MISMATCH,
        )


def _install(environment: Environment) -> str:
    from heliograph import __version__

    return f"uv pip install --python {environment.python} heliograph=={__version__}"


def _pair(version: str) -> tuple[int, int]:
    """Returns major and minor."""
    major, minor, *_ = [int(part) if part.isdecimal() else 0 for part in [*version.split("."), "0"]]
    return major, minor


def _refusal(message: str, hint: str, failure: FailureCode = FailureCode.LAUNCH_SETTINGS) -> LaunchError:
    return LaunchError(f"{message}. {hint}", failure)
