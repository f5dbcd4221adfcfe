"""Loading: checks before any user code, the bytes that were checked, nothing at module level that must not happen."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliograph.config import set_temporary_config
from heliograph.exceptions import (
    BundleChangedError,
    GraphMismatchError,
    LoadError,
    PythonMismatchError,
    RequirementsMismatchError,
)
from heliograph.storage import BundleRef, Local, from_reference
from heliograph.storage.bundle import build_bundle
from heliograph.storage.cache import manifest_of
from heliograph.storage.load import load_flow, load_flows, preflight
from heliograph.storage.requirements import check_requirements

Project = Callable[..., tuple[Path, Any]]


def _fetched(flow: Any, tmp_path: Path, **options: Any) -> Path:
    """Stores and fetches a bundle, then makes this process forget the original."""
    storage = Local(tmp_path / "storage")
    folder = storage.fetch(storage.put_bundle(build_bundle(flow, **options)), tmp_path / "cache")
    for name, module in list(sys.modules.items()):
        if str(tmp_path / "project") in str(getattr(module, "__file__", "")):
            del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(tmp_path))]
    return folder


def _in_process(folder: Path, code: str) -> str:
    """Loads the bundle in a fresh process, as a run does, and returns what `code` prints."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom heliograph.storage.load import load_flow, read_manifest\n"
        f"folder = Path({str(folder)!r})\n"
        "if __name__ == '__main__':\n"
        "    flow = load_flow(folder, read_manifest(folder))\n" + textwrap.indent(textwrap.dedent(code), "    ")
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=program, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_flow_runs_from_the_bundle_with_its_helpers_and_data(project: Project, tmp_path: Path) -> None:
    _, flow = project(
        {"helper.py": "from pathlib import Path\nDATA = (Path(__file__).parent / 'data' / 'x.txt').read_text()\n",
         "data/x.txt": "inside"},
        imports="import helper",
    )  # fmt: skip
    folder = _fetched(flow, tmp_path)
    code = """
    import helper
    print(flow.name, helper.DATA, helper.__file__.startswith(str(folder)), flow.run().is_successful())
    """
    assert _in_process(folder, code).splitlines()[-1] == "etl inside True True"
    assert not list(folder.rglob("__pycache__"))


def test_helpers_that_are_imported_late_come_from_the_bundle_too(project: Project, tmp_path: Path) -> None:
    source = """
    from heliograph import Flow, task

    @task
    def late():
        import helper
        from pack import part
        return helper.X + part.Y

    with Flow("etl") as flow:
        late()
    """
    _, flow = project(
        {"helper.py": "X = 1\n", "pack/__init__.py": "", "pack/part.py": "Y = 2\n"}, flow=textwrap.dedent(source)
    )
    folder = _fetched(flow, tmp_path)
    code = "state = flow.run(); print([state.result[t].result for t in flow.tasks])"
    assert _in_process(folder, code).splitlines()[-1] == "[3]"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_child_processes_can_import_the_flow_and_its_classes_can_be_pickled(
    project: Project, tmp_path: Path, method: str
) -> None:
    source = """
    from dataclasses import dataclass
    from heliograph import Flow

    @dataclass
    class Record:
        cases: int

    def make(cases):
        return Record(cases)

    flow = Flow("etl")
    """
    _, flow = project(flow=textwrap.dedent(source), at="flows/{module}.py", files={"pyproject.toml": ""})
    folder = _fetched(flow, tmp_path)
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, pickle, sys
        from pathlib import Path
        from heliograph.storage.load import load_flow, read_manifest
        if __name__ == "__main__":
            folder = Path({str(folder)!r})
            manifest = read_manifest(folder)
            load_flow(folder, manifest)
            module = sys.modules[manifest.module]
            assert pickle.loads(pickle.dumps(module.Record(3))) == module.Record(3)
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                print(pool.map(module.make, [74]))
                pool.close()
                pool.join()
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[Record(cases=74)]", done.stderr
    assert not list(folder.rglob("__pycache__"))


def test_run_and_register_at_the_top_level_do_nothing(project: Project, tmp_path: Path) -> None:
    source = """
    from heliograph import Flow, task
    from pathlib import Path

    @task
    def touch():
        Path({path!r}).touch()

    with Flow("etl") as flow:
        touch()
    if __name__ != "other":
        flow.run()
        flow.register("covid")
    """
    mark = tmp_path / "ran"
    silenced = "does nothing while the flow is being loaded"
    with pytest.warns(UserWarning, match=silenced):
        _, flow = project(flow=textwrap.dedent(source).format(path=str(mark)))
    folder = _fetched(flow, tmp_path)
    with pytest.warns(UserWarning, match=silenced):
        loaded = load_flow(folder, manifest_of(folder))
    assert loaded.name == "etl"
    assert not mark.exists()


@pytest.mark.parametrize("pickled", [False, True])
def test_both_formats_give_the_registered_graph(project: Project, tmp_path: Path, pickled: bool) -> None:
    _, flow = project({"helper.py": "X = 1\n"}, imports="import helper")
    folder = _fetched(flow, tmp_path, pickle=pickled)
    manifest = manifest_of(folder)
    loaded = load_flow(folder, manifest)
    assert loaded == loaded
    assert [task.name for task in loaded.sorted_tasks()] == ["country", "count"]


def test_a_pickle_carries_the_projects_own_modules(project: Project, tmp_path: Path) -> None:
    source = """
    from heliograph import Flow, task
    from helper import double

    @task
    def work():
        return double(2)

    with Flow("etl") as flow:
        work()
    """
    _, flow = project({"helper.py": "def double(x):\n    return 2 * x\n"}, flow=textwrap.dedent(source))
    folder = _fetched(flow, tmp_path, pickle=True)
    code = "state = flow.run(); print('helper' in sys.modules, [state.result[t].result for t in flow.tasks])"
    assert _in_process(folder, code).splitlines()[-1] == "False [4]"


def test_a_file_that_changes_after_the_check_is_not_run(project: Project, tmp_path: Path) -> None:
    _, flow = project({"helper.py": "X = 1\n"}, imports="import helper")
    folder = _fetched(flow, tmp_path)
    manifest = manifest_of(folder)
    preflight(manifest)
    mark = tmp_path / "ran"
    folder.chmod(0o700)
    for name in ("helper.py", manifest.entrypoint):
        file = folder / name
        original = file.read_text()
        file.chmod(0o600)
        file.write_text(f"open({str(mark)!r}, 'w')\n{original}")
        with pytest.raises(BundleChangedError, match=name):
            load_flow(folder, manifest)
        file.write_text(original)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["helper.cpython-311.pyc", "helper.pyc", "click.py", "__pycache__/helper.cpython-311.pyc"]
)
def test_a_file_that_was_added_is_not_imported(project: Project, tmp_path: Path, name: str) -> None:
    _, flow = project({"helper.py": "X = 1\n"}, imports="import helper, click")
    folder = _fetched(flow, tmp_path)
    sys.modules.pop("click", None)
    mark = tmp_path / "ran"
    folder.chmod(0o700)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"open({str(mark)!r}, 'w')\n")
    try:
        load_flow(folder, manifest_of(folder))
    except BundleChangedError as error:
        assert "click.py" in str(error)  # noqa: PT017 (either outcome is right, each for its files)
    assert not mark.exists()


def test_a_package_that_changes_after_the_check_is_not_run(tmp_path: Path) -> None:
    import importlib

    folder = tmp_path / "project-p"
    (folder / "pack_of_flows").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    (folder / "pack_of_flows" / "__init__.py").write_text("X = 1\n")
    (folder / "pack_of_flows" / "etl.py").write_text("from heliograph import Flow\nflow = Flow('etl')\n")
    sys.path.insert(0, str(folder))
    fetched = _fetched(importlib.import_module("pack_of_flows.etl").flow, tmp_path)
    manifest = manifest_of(fetched)
    assert manifest.module == "pack_of_flows.etl"
    assert load_flow(fetched, manifest).name == "etl"
    assert sys.modules["pack_of_flows"].__file__ == str(fetched / "pack_of_flows" / "__init__.py")
    for name in ("pack_of_flows", "pack_of_flows.etl"):
        del sys.modules[name]
    file = fetched / "pack_of_flows" / "__init__.py"
    file.chmod(0o600)
    file.write_text("X = 2\n")
    with pytest.raises(BundleChangedError, match="__init__"):
        load_flow(fetched, manifest)


def test_a_flow_that_is_not_there_names_those_that_are(project: Project, tmp_path: Path) -> None:
    _, flow = project()
    folder = _fetched(flow, tmp_path)
    manifest = manifest_of(folder)
    with pytest.raises(LoadError, match="no flow with the name 'other' at its top level; there are: 'etl'"):
        load_flow(folder, replace(manifest, flow="other"))
    with pytest.raises(LoadError, match="has no file"):
        load_flow(folder, replace(manifest, entrypoint="none.py"))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("raise ValueError('x')", "ValueError: x"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import nope_", "No module"),
    ],
)
def test_code_that_raises_while_loading_is_a_load_error(
    project: Project, tmp_path: Path, end: str, message: str
) -> None:
    source = "import os\nfrom heliograph import Flow\nflow = Flow('etl')\nif os.environ.get('BREAK'):\n    "
    _, flow = project(flow=source + end + "\n")
    folder = _fetched(flow, tmp_path)
    os.environ["BREAK"] = "1"
    try:
        with pytest.raises(LoadError, match=message):
            load_flow(folder, manifest_of(folder))
    finally:
        del os.environ["BREAK"]
    assert load_flow(folder, manifest_of(folder)).name == "etl", "a failed attempt leaves nothing behind"


def test_another_graph_is_refused_or_warned_of(project: Project, tmp_path: Path) -> None:
    source = """
    import os
    from heliograph import Flow, Parameter
    flow = Flow("etl", tasks=[Parameter(f"p{{i}}") for i in range(int(os.environ.get("COUNT", "{n}")))])
    """
    _, flow = project(flow=textwrap.dedent(source).format(n=2))
    folder = _fetched(flow, tmp_path)
    os.environ["COUNT"] = "3"
    try:
        with pytest.raises(GraphMismatchError, match="was registered with the graph sha256:") as caught:
            load_flow(folder, manifest_of(folder))
        assert "pickle=True" in caught.value.hint
        with (
            set_temporary_config({"storage.graph_check": "warn"}),
            pytest.warns(UserWarning, match="its code now makes"),
        ):
            load_flow(folder, manifest_of(folder))
    finally:
        del os.environ["COUNT"]


def test_the_registered_graph_wins_over_the_manifests(project: Project, tmp_path: Path) -> None:
    _, flow = project()
    folder = _fetched(flow, tmp_path)
    with pytest.raises(GraphMismatchError):
        load_flow(folder, manifest_of(folder), "sha256:" + "0" * 64)


def test_a_file_named_like_an_installed_module_does_not_take_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "project-x"
    folder.mkdir()
    (folder / "json.py").write_text("from heliograph import Flow\nflow = Flow('etl')\n")
    flow = load_flows(folder / "json.py")[0]
    fetched = _fetched(flow, tmp_path)
    assert load_flow(fetched, manifest_of(fetched)).name == "etl"
    import json

    assert json.loads("[1]") == [1]


def test_a_second_version_in_one_process_is_really_loaded(project: Project, tmp_path: Path) -> None:
    folder, flow = project({"helper.py": "X = 1\n"}, imports="import helper")
    file = next(folder.glob("etl_*.py"))
    storage = Local(tmp_path / "storage")
    first = storage.fetch(storage.put_bundle(build_bundle(flow)), tmp_path / "cache")
    (folder / "helper.py").write_text("X = 2\n")
    second = storage.fetch(storage.put_bundle(build_bundle(flow)), tmp_path / "cache")
    for name in ("helper", file.stem):
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(folder))]
    load_flow(first, manifest_of(first))
    assert sys.modules["helper"].X == 1
    load_flow(second, manifest_of(second))
    assert sys.modules["helper"].X == 2


def test_load_flows_finds_flows_in_lists_and_refuses_what_is_no_file(tmp_path: Path) -> None:
    file = tmp_path / "project-many.py"
    file.write_text(
        "from heliograph import Flow\nflows = [Flow('a'), Flow('b')]\nalso = flows[0]\nmore = {'c': Flow('c')}\n"
    )
    assert [flow.name for flow in load_flows(file)] == ["a", "b", "c"]
    for name, text in {"none.py": None, "bad.py": "x = (", "boom.py": "1 / 0", "x.txt": "text"}.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(LoadError, match=name):
            load_flows(tmp_path / name)


# --- preflight -------------------------------------------------------------------------------------------------------


def test_a_pickle_needs_the_same_minor_version_implementation_and_cloudpickle(project: Project) -> None:
    _, flow = project()
    manifest = build_bundle(flow, pickle=True).manifest
    assert preflight(manifest) == []
    minor = sys.version_info.minor
    for change in ({"python": f"3.{minor - 1}"}, {"python": f"3.{minor + 1}"}, {"implementation": "pypy"}):
        with pytest.raises(PythonMismatchError, match=r"is a pickle of .*; here is") as caught:
            preflight(replace(manifest, **change))
        assert caught.value.hint
    with pytest.raises(PythonMismatchError, match=r"cloudpickle 2\.2\.1; here is 3"):
        preflight(replace(manifest, cloudpickle="2.2.1"))


def test_source_runs_on_its_python_and_newer_ones(project: Project) -> None:
    _, flow = project()
    manifest = build_bundle(flow).manifest
    minor = sys.version_info.minor
    preflight(replace(manifest, python=f"3.{minor - 1}", implementation="pypy"))
    for python in (f"3.{minor + 1}", "4.0", "2.7"):
        with pytest.raises(PythonMismatchError, match=f"made with Python {python}; here is 3.{minor}"):
            preflight(replace(manifest, python=python))


def test_requirements_are_compared_as_the_policy_says() -> None:
    import importlib.metadata

    here = importlib.metadata.version("click")
    major, minor, *_ = here.split(".")
    other_minor = f"{major}.{int(minor) + 1}.0"
    other_major = f"{int(major) + 1}.0"
    assert check_requirements({"click": here}, "strict") == ([], [])
    assert check_requirements({"click": other_minor}, "compatible")[1][0].startswith("click: the bundle has")
    assert check_requirements({"click": other_minor}, "strict")[0]
    assert check_requirements({"click": other_major}, "compatible")[0]
    assert check_requirements({"not-there": "1"}, "compatible")[0] == ["not-there: the bundle has 1, here is none"]
    assert check_requirements({"not-there": "1"}, "off") == ([], [])


def test_missing_requirements_are_refused_with_all_of_them(project: Project) -> None:
    _, flow = project()
    manifest = replace(build_bundle(flow).manifest, requirements={"aa-none": "1.0", "bb-none": "2.0"})
    with pytest.raises(RequirementsMismatchError, match=r"aa-none: .* here is none; bb-none") as caught:
        preflight(manifest)
    assert "Install these versions" in caught.value.hint
    assert preflight(manifest, requirements="off") == []
    with set_temporary_config({"storage.requirements": "off"}):
        assert preflight(manifest) == []


def test_preflight_runs_no_code_of_the_user(project: Project, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    storage = Local(tmp_path / "storage")
    _, flow = project(imports=f"open({str(mark)!r}, 'w').close()")
    mark.unlink()
    ref = storage.put_bundle(build_bundle(flow, pickle=True))
    folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path / "cache")
    preflight(manifest_of(folder))
    assert not mark.exists()


def test_references_are_plain_values() -> None:
    ref = BundleRef("local", "/x", "sha256:" + "0" * 64, "sha256:" + "1" * 64)
    assert pickle.loads(pickle.dumps(ref)) == ref


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1\ny = unknown\n", "odd.py:2: NameError: name 'unknown' is not defined"),
        ("import json\n\njson.loads('{')\n", "odd.py:3: JSONDecodeError: "),
        ("x = 1\ndef broken(:\n", "odd.py:2: SyntaxError: invalid syntax"),
        ("import odd_helper\n", "odd_helper.py:2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_with_its_line(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "odd_helper.py").write_text("\n1 / 0\n")
    (tmp_path / "odd.py").write_text(source)
    with pytest.raises(LoadError) as no:
        load_flows(tmp_path / "odd.py")
    assert f"cannot be loaded: {told}" in str(no.value)
    assert str(no.value).count("line 2") == 0
