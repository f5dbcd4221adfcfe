"""Settings: precedence, casting, and errors that name their source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import ends

from heliograph import config as module
from heliograph.config import SETTINGS, config, origins, set_temporary_config
from heliograph.exceptions import ConfigurationError


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_has_a_variable_and_a_doc_line(setting: module.Setting) -> None:
    assert setting.env_name == "HELIOGRAPH__" + setting.name.upper().replace(".", "__")
    assert setting.doc.endswith(".")
    assert "\n" not in setting.doc


def _sample(setting: module.Setting) -> tuple[str, object]:
    choices = module._CHOICES.get(setting.name)
    if choices:
        return choices[-1], choices[-1]
    samples: dict[object, tuple[str, object]] = {
        bool: ("true", True), int: ("17", 17), float: ("1.5", 1.5), str: ("some text", "some text")
    }  # fmt: skip
    return samples.get(setting.kind, ("a, b", ("a", "b")))


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_is_taken_from_its_variable(setting: module.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    text, wanted = _sample(setting)
    monkeypatch.setenv(setting.env_name, text)
    value: object = config()
    for part in setting.name.split("."):
        value = getattr(value, part)
    assert value == wanted
    assert origins()[setting.name] == setting.env_name


def test_the_stronger_source_wins(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "deep").mkdir(parents=True)
    monkeypatch.chdir(project / "deep")
    assert config().results.dir == ""
    (home / "config.toml").write_text('[results]\ndir = "user"\n[agent]\nmax_runs = 3\n')
    module.reload()
    assert config().results.dir == "user"
    (project / "heliograph.toml").write_text('[results]\ndir = "project"\n')
    module.reload()
    assert (config().results.dir, config().agent.max_runs) == ("project", 3)
    assert origins()["results.dir"] == str(project / "heliograph.toml")
    monkeypatch.setenv("HELIOGRAPH__RESULTS__DIR", "variable")
    assert config().results.dir == "variable"
    with set_temporary_config({"results.dir": "temporary"}):
        assert config().results.dir == "temporary"
    assert config().results.dir == "variable"


def test_nested_sections_come_from_toml(home: Path) -> None:
    (home / "config.toml").write_text("[tasks.defaults]\nmax_retries = 2\nretry_delay_seconds = 5\n")
    assert config().tasks.defaults.max_retries == 2
    assert config().tasks.defaults.retry_delay_seconds == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[client]\nadress = 'x'\n", r"config.toml has the setting client.adress, which does not exist"),
        ("[agent]\nmax_runs = 'many'\n", r"agent.max_runs \(from .*config.toml\) must be a whole number, not 'many'"),
        ("[agent]\nmax_runs = true\n", r"must be a whole number"),
        ("[client]\ninsecure = 'perhaps'\n", r"client.insecure .* must be true or false"),
        ("[logging]\nlevel = 'LOUD'\n", r"must be one of DEBUG"),
        ("[agent]\nlabels = [1]\n", r"must be a list of texts"),
        ("[client]\ntoken = 17\n", r"client.token .* must be a text, not its value"),
        ("= nothing", r"config.toml cannot be read"),
        ("client = 1\n", r"has the setting client, which does not exist"),
    ],
)
def test_a_mistake_names_the_file_and_the_way_out(home: Path, text: str, message: str) -> None:
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        config()


def test_an_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH__CLIENT__ADRESS", "x")
    with pytest.raises(ConfigurationError, match="HELIOGRAPH__CLIENT__ADRESS, which does not exist") as refused:
        config()
    assert refused.value.hint == "Did you mean HELIOGRAPH__CLIENT__ADDRESS?"


def test_variables_that_are_no_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH__SECRETS__DATABASE", "x")
    monkeypatch.setenv("HELIOGRAPH_FLOW_RUN", "x")
    assert config().client.address == "127.0.0.1:4480"


def test_temporary_settings_are_seen_by_other_threads_and_checked() -> None:
    seen: list[int] = []
    with set_temporary_config({"tasks.defaults.max_retries": 4}):
        ends.together([lambda: seen.append(config().tasks.defaults.max_retries)])
    assert seen == [4]
    with pytest.raises(ConfigurationError), set_temporary_config({"no.such": 1}):
        pass


def test_the_token_is_not_in_a_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH__CLIENT__TOKEN", "hg_4711")
    assert config().client.token == "hg_4711"
    assert "4711" not in repr(config())


def test_reading_settings_imports_nothing_heavy() -> None:
    heavy = ("grpc", "boto3", "pandas", "google")
    code = f"import sys; import heliograph.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
