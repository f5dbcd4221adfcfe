"""Environments of local agents: where an interpreter is found, what it answers, what fits a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import InvalidArgumentError
from heliograph.run_configs import LocalRun
from heliograph_agents.launcher import BundleSpec, LaunchError
from heliograph_agents.launchers.local.environments import Environment, Found, Probes, check, read_environments
from heliograph_agents.run_directory import FORMAT


def _interpreter(path: Path, **told: object) -> Path:
    """Makes a program that answers as an interpreter with this in it."""
    answer = {"python": "3.12.4", "implementation": "cpython", "heliograph": "0.1.0", "format": FORMAT, "paths": []}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho asked >> {path}.asked\ncat <<'END'\n{json.dumps({**answer, **told})}\nEND\n")
    path.chmod(0o755)
    return path


def _bundle(python: str, *, pickled: bool = False) -> BundleSpec:
    return BundleSpec("local", "/b", "sha256:0", "sha256:0", pickled, python, "")


@pytest.mark.parametrize("place", ["bin/python", "bin/python3", ".venv/bin/python", ""])
def test_a_venv_a_conda_environment_a_uv_project_and_an_interpreter_are_found(tmp_path: Path, place: str) -> None:
    python = _interpreter(tmp_path / "env" / place if place else tmp_path / "env")
    assert read_environments([f"ml={tmp_path / 'env'}"]) == {"ml": Environment("ml", str(python))}


def test_a_project_that_was_never_synced_says_so(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(InvalidArgumentError) as caught:
        read_environments([f"ml={tmp_path}"])
    assert "uv sync" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["ml", "=path", "ml=", "ml=/no/such/folder"])
def test_what_names_no_environment_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        read_environments([text])


def test_a_name_is_given_once(tmp_path: Path) -> None:
    python = _interpreter(tmp_path / "python")
    with pytest.raises(InvalidArgumentError, match="twice"):
        read_environments([f"ml={python}", f"ml={python}"])


def test_an_environment_is_asked_again_when_it_changes(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    python = _interpreter(tmp_path / "python", paths=[str(packages)])
    probes, environment = Probes(), Environment("ml", str(python))
    assert probes.look(environment) == probes.look(environment)
    asked = Path(f"{python}.asked")
    assert len(asked.read_text().split()) == 1
    (packages / "new").mkdir()
    probes.look(environment)
    assert len(asked.read_text().split()) == 2


@pytest.mark.parametrize("body", ["exit 3", "echo no json", "echo '{}'", "echo broken pip >&2; exit 1"])
def test_an_interpreter_that_does_not_answer_is_refused(tmp_path: Path, body: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    with pytest.raises(LaunchError) as caught:
        Probes().look(Environment("ml", str(python)))
    assert caught.value.failure is FailureCode.LAUNCH_SETTINGS
    assert "environment ml" in str(caught.value)


def _found(python: str = "3.12.4", implementation: str = "cpython", *, form: int = FORMAT) -> Found:
    return Found(python, implementation, "0.1.0" if form else "", form, (), "" if form else "No module named x")


@pytest.mark.parametrize(
    ("bundle", "found", "failure", "words"),
    [
        (_bundle("3.11.7"), _found(), None, ""),
        (_bundle("3.12.0", pickled=True), _found(), None, ""),
        (_bundle(""), _found(), None, ""),
        (_bundle("3.13.1"), _found(), FailureCode.PYTHON_MISMATCH, "Python 3.13 or newer"),
        (_bundle("3.11.7", pickled=True), _found(), FailureCode.PYTHON_MISMATCH, "register with Python 3.12"),
        (_bundle("3.12.0", pickled=True), _found(implementation="pypy"), FailureCode.PYTHON_MISMATCH, "pypy 3.12.4"),
        (_bundle("3.11.7"), _found(form=0), FailureCode.LAUNCH_SETTINGS, "no Heliograph"),
        (_bundle("3.11.7"), _found(form=FORMAT + 1), FailureCode.LAUNCH_SETTINGS, "does not speak with"),
    ],
)
def test_what_does_not_fit_a_bundle_is_refused_with_what_to_do(
    bundle: BundleSpec, found: Found, failure: FailureCode | None, words: str
) -> None:
    environment = Environment("ml", "/envs/ml/bin/python")
    if failure is None:
        check(environment, found, bundle)
        return
    with pytest.raises(LaunchError) as caught:
        check(environment, found, bundle)
    assert caught.value.failure is failure
    assert words in str(caught.value)


def test_nothing_of_the_agents_own_environment_is_inherited(tmp_path: Path) -> None:
    python = _interpreter(tmp_path / "env" / "bin" / "python")
    (tmp_path / "env" / "conda-meta").mkdir()
    base = {"PYTHONPATH": "/agent", "VIRTUAL_ENV": "/agent", "PYTHONHOME": "/agent", "PATH": "/bin", "HOME": "/home"}
    folder = str(python.parent)
    assert Environment("ml", str(python)).variables(base) == {
        "PATH": f"{folder}:/bin", "HOME": "/home", "CONDA_PREFIX": str(tmp_path / "env")
    }  # fmt: skip


def test_a_run_config_names_an_environment_or_an_interpreter() -> None:
    assert LocalRun(environment="ml").launch_settings().options == {"environment": "ml"}
    assert LocalRun(python="/usr/bin/python3").launch_settings().options == {"python": "/usr/bin/python3"}
    assert LocalRun().launch_settings().options == {}
    with pytest.raises(ValueError, match="not both"):
        LocalRun(environment="ml", python="/usr/bin/python3")
    with pytest.raises(ValueError, match="whole path"):
        LocalRun(python="python3")
