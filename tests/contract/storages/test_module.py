"""Flows that are installed where they run, with a distribution of their own in a folder of the test."""

from __future__ import annotations

import importlib
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliograph.config import set_temporary_config
from heliograph.exceptions import (
    GraphMismatchError,
    InvalidArgumentError,
    LaunchSettingsError,
    LoadError,
    RequirementsMismatchError,
    StorageError,
)
from heliograph.storage import BundleRef, LaunchSettings, Module, from_reference, requirements
from heliograph.storage.cache import manifest_of
from heliograph.storage.load import load_flow, preflight

FLOW = """
from heliograph import Flow, task

@task
def say():
    return {word!r}

with Flow("orders") as flow:
    say()
{more}
"""

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs, or upgrades, a distribution with a module that has a flow. Returns the module's name."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    name = f"shop_{uuid.uuid4().hex[:8]}"

    def put(version: str = "1.2.0", *, word: str = "one", more: str = "") -> str:
        package = folder / name
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "flows.py").write_text(FLOW.format(word=word, more=more))
        for old in folder.glob("*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        if version:
            information = folder / f"{name}-{version}.dist-info"
            information.mkdir()
            (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            (information / "top_level.txt").write_text(f"{name}\n")
        for module in [one for one in sys.modules if one.startswith((name, "installed_flow"))]:
            del sys.modules[module]
        importlib.invalidate_caches()
        requirements._version.cache_clear()
        return f"{name}.flows"

    return put


def _registered(module: str) -> tuple[BundleRef, Any]:
    flow = importlib.import_module(module).flow
    storage = Module(module)
    ref = storage.put_bundle(storage.make_bundle(flow), LaunchSettings(labels=("gpu",)))
    for name in [one for one in sys.modules if one.startswith((module.partition(".")[0], "installed_flow"))]:
        del sys.modules[name]
    return ref, flow


def _loaded(ref: BundleRef, graph_hash: str, cache: Path) -> Any:
    """Does what a supervisor and a flow process do."""
    folder = from_reference(ref.storage, ref.location).fetch(ref, cache)
    manifest = manifest_of(folder)
    warned = preflight(manifest)
    flow = load_flow(folder, manifest, graph_hash)
    flow.warned = warned
    return flow


def _hash(flow: Any) -> str:
    from heliograph.engine.graph import compile_flow

    return compile_flow(flow).graph_hash()


def test_a_flow_is_imported_by_name_and_nothing_is_stored(install: Install, tmp_path: Path) -> None:
    module = install()
    ref, flow = _registered(module)
    top = module.partition(".")[0]
    assert ref.location == f"module://{module}#ref={top}%3D%3D1.2.0&flow=orders&labels=gpu"
    assert from_reference(ref.storage, ref.location).fetch_launch(ref).labels == ("gpu",)
    loaded = _loaded(ref, _hash(flow), tmp_path / "cache")
    state = loaded.run()
    assert [done.result for done in state.result.values()] == ["one"]
    assert loaded.warned == []
    assert _registered(module)[0] == ref, "the same again is the same"


def test_what_is_not_installed_or_changed_is_refused(install: Install, tmp_path: Path) -> None:
    module = install()
    ref, flow = _registered(module)
    graph_hash = _hash(flow)
    install("2.0.0")
    with pytest.raises(RequirementsMismatchError, match=r"1\.2\.0.*2\.0\.0"):
        _loaded(ref, graph_hash, tmp_path / "cache")
    install("1.3.0")
    assert len(_loaded(ref, graph_hash, tmp_path / "cache").warned) == 1
    install("1.3.0")
    with set_temporary_config({"storage.requirements": "strict"}), pytest.raises(RequirementsMismatchError):
        _loaded(ref, graph_hash, tmp_path / "cache")
    install("1.2.0", more="    say()\n")
    with pytest.raises(GraphMismatchError, match="orders"):
        _loaded(ref, graph_hash, tmp_path / "cache")
    nowhere = ref.location.replace("shop_", "absent_")
    with pytest.raises(RequirementsMismatchError, match="is not installed here") as caught:
        from_reference("module", nowhere).fetch(ref, tmp_path / "other")
    assert "Install" in caught.value.hint


def test_another_module_than_the_registered_one_is_refused(install: Install, tmp_path: Path) -> None:
    """What an evil control plane could do: have an agent import something else."""
    ref, _ = _registered(install())
    evil = ref.location.replace(ref.location.partition("#")[0], "module://antigravity")
    moved = BundleRef(ref.storage, evil, ref.digest, ref.launch_digest, ref.format, ref.python_version)
    with pytest.raises(StorageError, match="was registered with"):
        from_reference("module", evil).fetch(moved, tmp_path / "cache")
    assert "antigravity" not in sys.modules
    for location in ("module://", "module://a/b", "module://a-b", "module://..a", "s3://a", "module://a;b"):
        with pytest.raises(StorageError):
            from_reference("module", location)


def test_a_module_without_the_flow_or_without_a_name_is_refused_at_registration(install: Install) -> None:
    module = install()
    flow = importlib.import_module(module).flow
    assert Module().make_bundle(flow).report.how.startswith(f"imported as {module}")
    with pytest.raises(StorageError, match="0 flows named 'orders'"):
        Module("json").make_bundle(flow)
    with pytest.raises(LoadError, match="cannot be imported"):
        Module("not_there_74").make_bundle(flow)
    install("1.2.0", more="    say()\n")
    with pytest.raises(StorageError, match="another graph"):
        Module(module).make_bundle(flow)
    install("")
    flow = importlib.import_module(module).flow
    assert "nobody can compare" in Module(module).make_bundle(flow).report.warnings[0]
    with pytest.raises(InvalidArgumentError):
        Module("a/b")
    with pytest.raises(StorageError, match="no pickles"):
        Module(module).make_bundle(flow, pickle=True)


def test_values_have_no_place_unless_agents_give_them(install: Install) -> None:
    module = install()
    flow = importlib.import_module(module).flow
    storage = Module(module)
    settings = LaunchSettings(env={"API_KEY": "guess-me"})
    with pytest.raises(LaunchSettingsError, match=r"env\.API_KEY") as caught:
        storage.put_bundle(storage.make_bundle(flow), settings)
    assert "guess-me" not in f"{caught.value} {caught.value.hint}"
    left = Module(module, launch="agent")
    ref = left.put_bundle(left.make_bundle(flow), settings)
    assert "guess-me" not in str(ref)
    assert from_reference("module", ref.location).fetch_launch(ref).from_agent == ("env.API_KEY",)
