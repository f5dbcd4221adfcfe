"""Bundles: what goes in, what the digest says, and what is refused."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config import set_temporary_config
from heliograph.engine.results import LocalResult
from heliograph.exceptions import BundleChangedError, CycleError, StorageError
from heliograph.storage import BundleFormat, Local
from heliograph.storage.bundle import build_bundle
from heliograph.storage.collect import project_root
from heliograph.storage.manifest import PICKLE_PATH, FileEntry, Manifest

Project = Callable[..., tuple[Path, Any]]


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.email=a@example.org", "-c", "user.name=a"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_outside_git_all_files_but_ignored_ones_go_in(project: Project) -> None:
    folder, flow = project(
        {
            "helper.py": "X = 1\n", "data.json": "{}", "__pycache__/x.pyc": "", ".venv/lib/a.py": "",
            "env/pyvenv.cfg": "", "env/b.py": "",
            ".env": "PASSWORD=x", "big.bin": "x", ".heliographignore": "*.bin\n", "server.key": "x",
        },
        imports="import helper",
    )  # fmt: skip
    bundle = build_bundle(flow)
    entry = bundle.manifest.entrypoint
    assert set(bundle.manifest.by_path) == {entry, "helper.py", "data.json", ".heliographignore"}
    assert bundle.manifest.format is BundleFormat.SOURCE
    assert bundle.manifest.flow == "etl"
    assert bundle.manifest.module == entry.removesuffix(".py")
    assert {path for path, _ in bundle.report.dropped} >= {"big.bin", ".env", "env/", ".venv/", "server.key"}
    assert str(folder) in "\n".join(bundle.report.lines())


def test_in_git_tracked_files_go_in_and_imported_ones(project: Project) -> None:
    folder, flow = project(
        {
            "helper.py": "X = 1\n",
            "tracked.sql": "select 1",
            "notes.txt": "private",
            ".gitignore": "*.tmp\n",
            "a.tmp": "",
        },
        imports="import helper",
    )
    _git(folder, "init", "-q")
    _git(folder, "add", "tracked.sql", ".gitignore")
    _git(folder, "commit", "-qm", "x")
    bundle = build_bundle(flow)
    assert set(bundle.manifest.by_path) == {bundle.manifest.entrypoint, "helper.py", "tracked.sql", ".gitignore"}
    assert ("notes.txt", "not tracked by git") in bundle.report.dropped
    assert any("helper.py is not tracked by git, but imported" in note for note in bundle.report.notes)


@pytest.mark.parametrize("ignore_file", [".gitignore", ".heliographignore"])
@pytest.mark.parametrize("git", [True, False])
def test_an_imported_module_that_is_ignored_is_an_error_that_names_it(
    project: Project, ignore_file: str, git: bool
) -> None:
    folder, flow = project({"helper.py": "", ignore_file: "helper.py\n"}, imports="import helper")
    if git:
        _git(folder, "init", "-q")
        _git(folder, "add", ignore_file)
    with pytest.raises(StorageError, match=r"helper\.py is imported by the flow, but an ignore rule"):
        build_bundle(flow)


def test_the_digest_says_what_is_in_it_and_nothing_else(project: Project) -> None:
    folder, flow = project({"a.txt": "1"})
    first = build_bundle(flow)
    os.utime(folder / "a.txt", (1, 1))
    assert build_bundle(flow).manifest.digest == first.manifest.digest
    assert build_bundle(flow).archive() == first.archive()
    (folder / "a.txt").write_text("2")
    second = build_bundle(flow)
    assert second.manifest.digest != first.manifest.digest
    (folder / "a.txt").write_text("1")
    (folder / "a.txt").chmod(0o755)
    assert build_bundle(flow).manifest.digest not in (first.manifest.digest, second.manifest.digest)


def test_the_archive_says_nothing_of_machine_time_or_user(project: Project) -> None:
    _, flow = project({"a.txt": "1"})
    with tarfile.open(fileobj=io.BytesIO(build_bundle(flow).archive())) as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_the_root_is_the_one_given_or_the_nearest_with_a_marker(tmp_path: Path) -> None:
    deep = tmp_path / "repo" / "flows" / "etl.py"
    deep.parent.mkdir(parents=True)
    deep.touch()
    assert project_root(deep, None) == (tmp_path / "repo" / "flows", True)
    (tmp_path / "repo" / "pyproject.toml").touch()
    assert project_root(deep, None) == (tmp_path / "repo", True)
    (tmp_path / "repo" / "flows" / "heliograph.toml").touch()
    assert project_root(deep, None) == (tmp_path / "repo" / "flows", True)
    assert project_root(deep, tmp_path) == (tmp_path, True)
    with pytest.raises(StorageError, match="is not in the project root"):
        project_root(deep, tmp_path / "elsewhere")


def test_of_a_home_folder_only_what_the_flow_imports_is_taken(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, flow = project({"helper.py": "", "private.txt": "x"}, imports="import helper")
    monkeypatch.setattr(Path, "home", lambda: folder)
    bundle = build_bundle(flow)
    assert set(bundle.manifest.by_path) == {bundle.manifest.entrypoint, "helper.py"}
    assert any("nothing else was taken" in note for note in bundle.report.notes)


def test_files_that_nobody_said_are_meant_are_warned_of(project: Project) -> None:
    folder, flow = project({"helper.py": "", "private.txt": "x"}, imports="import helper")
    (warning,) = build_bundle(flow).report.warnings
    assert "private.txt" in warning
    assert "helper.py" not in warning
    assert not build_bundle(flow, project_root=folder).report.warnings
    (folder / "heliograph.toml").touch()
    assert not build_bundle(flow).report.warnings


def test_packages_come_with_their_init_files_and_the_flow_keeps_its_name(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "", "src/pack/__init__.py": "", "src/pack/flows/__init__.py": "", "src/pack/util.py": "X = 1",
        "src/pack/flows/etl.py": "from heliograph import Flow\nfrom pack.util import X\nflow = Flow('packaged')\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    sys.path.insert(0, str(tmp_path / "src"))
    import importlib

    flow = importlib.import_module("pack.flows.etl").flow
    manifest = build_bundle(flow).manifest
    assert (manifest.entrypoint, manifest.module) == ("src/pack/flows/etl.py", "pack.flows.etl")
    assert manifest.sys_path == ("src/pack/flows", "src", "")


def test_limits_warn_and_refuse(project: Project) -> None:
    _, flow = project({"data.txt": "x" * 2000})
    with set_temporary_config({"storage.soft_limit_bytes": 1000}):
        assert any("is there data in it?" in warning for warning in build_bundle(flow).report.warnings)
    with (
        set_temporary_config({"storage.hard_limit_bytes": 1000}),
        pytest.raises(StorageError, match="larger than 1,000"),
    ):
        build_bundle(flow)


def test_links_that_lead_out_stay_out(project: Project, tmp_path: Path) -> None:
    folder, flow = project({"inside.txt": "1"})
    (tmp_path / "secret.txt").write_text("x")
    (folder / "out").symlink_to(tmp_path / "secret.txt")
    (folder / "in").symlink_to(folder / "inside.txt")
    bundle = build_bundle(flow)
    assert "out" not in bundle.manifest.by_path
    assert ("out", "a link that leads out of the project") in bundle.report.dropped
    assert bundle.contents["in"] == b"1"


def test_a_flow_without_a_file_needs_a_pickle_and_the_error_says_so() -> None:
    from heliograph import Flow

    flow = Flow("typed")
    with pytest.raises(StorageError, match="not in a file") as caught:
        build_bundle(flow)
    assert "pickle=True" in caught.value.hint
    bundle = build_bundle(flow, pickle=True)
    assert set(bundle.manifest.by_path) == {PICKLE_PATH}
    assert bundle.manifest.cloudpickle


def test_a_flow_that_was_renamed_is_refused_before_an_agent_looks_for_it_in_vain(project: Project) -> None:
    _, flow = project({})
    flow.name = "other"
    with pytest.raises(StorageError, match=r"'etl' was renamed to 'other'") as refused:
        build_bundle(flow)
    assert "Flow('other')" in (refused.value.hint or "")
    assert build_bundle(flow, pickle=True).manifest.flow == "other"
    flow.name = "etl"
    assert build_bundle(flow).manifest.flow == "etl"


def test_what_cannot_be_pickled_is_named(project: Project) -> None:
    import threading

    _, flow = project()
    flow.broken = threading.Lock()
    with pytest.raises(StorageError, match=r"cannot be pickled.*lock"):
        build_bundle(flow, pickle=True)


def test_a_cycle_is_refused_before_anything_is_read(project: Project) -> None:
    from heliograph import Flow, task

    @task
    def a() -> None: ...

    @task
    def b() -> None: ...

    flow = Flow("cycle", tasks=[a, b])
    flow.add_edge(a, b)
    flow.add_edge(b, a)
    with pytest.raises(CycleError):
        build_bundle(flow, pickle=True)


def test_distributions_that_are_imported_are_recorded(project: Project) -> None:
    _, flow = project(
        {"helper.py": "def f():\n    import hypothesis\n    import json, not_there\n"}, imports="import click, helper"
    )
    recorded = build_bundle(flow).manifest.requirements
    assert set(recorded) == {"click", "hypothesis"}


def test_a_manifest_comes_back_and_changes_are_seen(project: Project) -> None:
    _, flow = project({"a.txt": "1"})
    manifest = build_bundle(flow).manifest
    data = manifest.to_json()
    assert Manifest.from_json(data, manifest.digest) == manifest
    changed = data.replace(b'"flow": "etl"', b'"flow": "other"')
    assert changed != data
    with pytest.raises(BundleChangedError, match="was registered with sha256"):
        Manifest.from_json(changed, manifest.digest)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "a//b", "", ".", "a\\b", "C:x", "a\nb", "a/"])
def test_a_manifest_with_a_path_outside_is_malformed(project: Project, path: str) -> None:
    _, flow = project()
    manifest = build_bundle(flow).manifest
    from dataclasses import replace

    bad = replace(manifest, files=(FileEntry(path, "0" * 64, 1),))
    with pytest.raises(StorageError, match="malformed"):
        Manifest.from_json(bad.to_json())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nonsense_is_a_storage_error(data: bytes) -> None:
    with pytest.raises(StorageError):
        Manifest.from_json(data)


@pytest.mark.parametrize("tracked", [False, True])
def test_what_heliograph_writes_into_the_project_stays_out_of_its_bundles(
    project: Project, monkeypatch: pytest.MonkeyPatch, tracked: bool
) -> None:
    folder, flow = project({"heliograph.toml": "", "data/a.csv": "1"})
    monkeypatch.setenv("HELIOGRAPH_HOME", str(folder / "state"))
    flow.result = LocalResult(str(folder / "values"))
    storage = Local(folder / "bundles of flows")
    for name in ("state/token", "values/old.pickle"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x" * 1000)
    storage.put_bundle(storage.make_bundle(flow))
    if tracked:
        for arguments in (["init", "-q"], ["add", "."]):
            subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    first, second = storage.make_bundle(flow), storage.make_bundle(flow)
    storage.put_bundle(second)
    third = storage.make_bundle(flow)
    assert first.manifest.digest == second.manifest.digest == third.manifest.digest
    assert sorted(third.contents) == sorted(["heliograph.toml", "data/a.csv", third.manifest.entrypoint])
    assert ("state", "written by Heliograph") in third.report.dropped


def test_a_project_may_be_its_own_storage(project: Project) -> None:
    folder, flow = project({"launch/run.sh": "", "bundles/x.txt": ""})
    storage = Local(folder)
    digests = set()
    for _ in range(2):
        bundle = storage.make_bundle(flow)
        storage.put_bundle(bundle)
        digests.add(bundle.manifest.digest)
    assert len(digests) == 1
    assert sorted(bundle.contents) == sorted(["launch/run.sh", "bundles/x.txt", bundle.manifest.entrypoint])
