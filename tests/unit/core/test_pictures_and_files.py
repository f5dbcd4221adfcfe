"""Pictures, files and diagnostics of a flow."""

import json
import pickle
import sys

import pytest

from heliograph import Flow, Parameter, task
from heliograph.core.saving import load
from heliograph.exceptions import ConfigurationError, FlowError, LoadError, PythonMismatchError


@task
def numbers(n):
    return list(range(n))


@task
def check(x):
    if x == 1:
        raise ValueError
    return x


@pytest.fixture
def flow():
    with Flow('my "flow"') as flow:
        check.map(numbers(Parameter("n", default=3)))
    return flow


class TestText:
    def test_mermaid(self, flow):
        assert flow.visualize(format="mermaid").splitlines() == [
            "flowchart TD",
            '    t0(["n"])',
            '    t1["numbers"]',
            '    t2[["check #lt;map#gt;"]]',
            "    t0 -->|n| t1",
            "    t1 -.->|x| t2",
        ]
        assert flow.visualize(format="mermaid", horizontal=True).startswith("flowchart LR")

    def test_plain_text(self, flow):
        assert flow.visualize(format="text").splitlines() == [
            'my "flow"',
            "├── n",
            "├── numbers",
            "│     n ← n",
            "└── check <map>",
            "      x ⇠ numbers",
        ]

    def test_with_a_state_each_child_is_shown_in_its_color(self, flow):
        state = flow.run()
        text = flow.visualize(state, format="text")
        assert "check [1]  (Failed)" in text
        assert "check [2]  (Success)" in text
        drawn = flow.visualize(state, format="mermaid")
        colors = {line.split()[1]: line.split("fill:")[1] for line in drawn.splitlines() if "style" in line}
        assert colors["t2_0"] == colors["t2_2"] != colors["t2_1"]

    def test_a_file(self, flow, tmp_path):
        flow.visualize(format="mermaid", filename=tmp_path / "picture")
        assert (tmp_path / "picture.mmd").read_text().startswith("flowchart")

    def test_a_foreign_state_is_refused(self, flow):
        from heliograph.engine.state import Success

        with pytest.raises(FlowError, match="not that of a flow run"):
            flow.visualize(Success(result=1), format="text")


class TestGraphviz:
    def test_shapes_and_styles(self, flow):
        source = flow.visualize().source
        assert "check <map>" in source
        assert "shape=box" in source
        assert "style=dashed" in source
        assert "rankdir=LR" in flow.visualize(horizontal=True).source

    def test_states_color_the_nodes(self, flow):
        state = flow.run()
        source = flow.visualize(state).source
        children = state.result[flow.get_tasks(name="check")[0]].map_states
        assert f"{children[1].color}80" in source

    def test_without_the_package_the_error_names_the_extra(self, flow, monkeypatch):
        monkeypatch.setitem(sys.modules, "graphviz", None)
        with pytest.raises(ImportError, match=r"heliograph\[viz\].*mermaid"):
            flow.visualize()

    def test_without_dot_the_error_names_the_program(self, flow, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigurationError, match="`dot`") as caught:
            flow.visualize(filename=tmp_path / "picture")
        assert "apt-get" in caught.value.hint


class TestFiles:
    def test_a_flow_comes_back(self, flow, tmp_path):
        path = flow.save(tmp_path / "deep" / "f.heliograph")
        loaded = Flow.load(path)
        assert set(loaded.slugs.values()) == {"numbers-1", "check-1", "n"}
        assert loaded.run(n=1).is_successful()

    def test_by_name_from_the_products_folder(self, flow, tmp_path, monkeypatch):
        monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path))
        assert flow.save() == str(tmp_path / "flows" / "my-flow.heliograph")
        assert Flow.load('my "flow"').name == flow.name
        assert Flow.load("my-flow.heliograph").name == flow.name

    def test_another_python_is_refused(self, flow, tmp_path):
        path = tmp_path / "f"
        flow.save(path)
        content = pickle.loads(path.read_bytes())
        content["versions"]["python"] = "3.1"
        content["flow"] = b"not even read"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(PythonMismatchError, match=r"made by Python 3\.1"):
            load(path)

    @pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1]), pickle.dumps({"flow": 1})])
    def test_other_files_are_refused(self, content, tmp_path):
        path = tmp_path / "f"
        path.write_bytes(content)
        with pytest.raises(LoadError, match="holds no flow"):
            load(path)
        with pytest.raises(LoadError, match="cannot be read"):
            load(tmp_path / "missing")


def test_diagnostics_hold_names_and_numbers_and_no_values(monkeypatch):
    monkeypatch.setenv("HELIOGRAPH__SECRETS__DATABASE", "hunter2")
    monkeypatch.setenv("HELIOGRAPH__CLIENT__TOKEN", "hunter3")
    with Flow("secret name") as flow:
        numbers(Parameter("n", default="hunter4"))
        numbers("hunter5")
    text = flow.diagnostics(include_secret_names=True)
    info = json.loads(text)
    assert info["flow"]["tasks"] == 3
    assert info["secrets"] == ["DATABASE"]
    assert info["settings"]["client.token"] == "HELIOGRAPH__CLIENT__TOKEN"
    assert "hunter" not in text
    assert "secrets" not in json.loads(flow.diagnostics())
