"""Flows as people start them: a script, a module, a prompt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import helper
from heliograph import Flow, task
from heliograph.storage.bundle import build_bundle

class Record:
    pass

@task
def work():
    return helper.X, Record()

with Flow("etl") as flow:
    work()

if __name__ == "__main__":
    manifest = build_bundle(flow).manifest
    print(manifest.entrypoint, manifest.module, list(manifest.sys_path), sorted(manifest.by_path))
"""


def _run(arguments: list[str], cwd: Path, home: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, input=text, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "HELIOGRAPH_HOME": str(home)},
    )  # fmt: skip


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "flows").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    (folder / "flows" / "etl.py").write_text(SCRIPT)
    (folder / "flows" / "helper.py").write_text("X = 1\n")
    return folder


FILES = "['flows/etl.py', 'flows/helper.py', 'pyproject.toml']"


def test_a_script(project_folder: Path, home: Path) -> None:
    done = _run(["flows/etl.py"], project_folder, home)
    assert done.stdout.strip() == f"flows/etl.py etl ['flows', ''] {FILES}", done.stderr


def test_a_module(project_folder: Path, home: Path) -> None:
    (project_folder / "flows" / "etl.py").write_text(SCRIPT.replace("import helper", "from flows import helper"))
    done = _run(["-m", "flows.etl"], project_folder, home)
    assert done.stdout.strip() == f"flows/etl.py flows.etl ['flows', ''] {FILES}", done.stderr


def test_a_prompt_has_no_file_and_is_told_the_way_out(tmp_path: Path, home: Path) -> None:
    text = "from heliograph import Flow\nfrom heliograph.storage.bundle import build_bundle\nbuild_bundle(Flow('x'))\n"
    done = _run(["-"], tmp_path, home, text)
    assert done.returncode == 1
    assert "is not in a file" in done.stderr


def test_a_pickle_from_a_prompt_runs_elsewhere(tmp_path: Path, home: Path) -> None:
    text = """
from heliograph import Flow, task
from heliograph.storage import Local
from heliograph.storage.bundle import build_bundle

class Record:
    cases = 74

@task
def work():
    return Record().cases

with Flow("typed") as flow:
    work()
ref = Local("storage").put_bundle(build_bundle(flow, pickle=True))
print(Local("storage").fetch(ref, "cache"))
"""
    folder = _run(["-"], tmp_path, home, text).stdout.strip()
    text = f"""
from pathlib import Path
from heliograph.storage.load import load_flow, preflight, read_manifest
folder = Path({folder!r})
preflight(read_manifest(folder))
flow = load_flow(folder, read_manifest(folder))
print(list(flow.run().result.values())[0].result)
"""
    done = _run(["-"], tmp_path, home, text)
    assert done.stdout.strip().splitlines()[-1:] == ["74"], done.stderr
