"""`heliograph flows check`: what an agent would say of a file, before anything is registered."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from tests.support.cli import Cli

FLOW = """
    from heliograph import Flow, Parameter, task
    from heliograph.run_configs import LocalRun

    @task
    def clean(country):
        return country

    with Flow("covid-cases", run_config=LocalRun(env={"APP_MODE": "secret-value", "DEBUG": "1"})) as flow:
        clean(Parameter("country", default="another-secret"))
"""


@pytest.fixture
def offline(tmp_path: Path) -> Cli:
    """A command line without any control plane."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "flow.py").write_text(textwrap.dedent(FLOW))
    return Cli(tmp_path / "home", cwd=tmp_path / "project", HELIOGRAPH__CLIENT__ADDRESS="127.0.0.1:1")


def test_a_flow_that_an_agent_would_run(offline: Cli) -> None:
    told = offline("flows", "check", "flow.py", "--project", "covid").stdout
    assert "covid/covid-cases: an agent would run it" in told
    for name in ("clean", "country", "APP_MODE", "DEBUG", "flow.py", "signature: none; none is wanted here"):
        assert name in told
    assert "secret" not in told
    assert not list(offline.cwd.glob("**/*.tar"))


def test_what_a_policy_refuses_is_told_and_ends_with_6(offline: Cli) -> None:
    (offline.cwd / "policy.toml").write_text(
        'env = ["APP_*"]\nstorages = ["s3://bundles/"]\nrequire_signature = true\n'
    )
    [found] = offline.json("flows", "check", "flow.py", "--project", "covid", "--policy", "policy.toml", code=6)
    told = " | ".join(found["refused"])
    assert "DEBUG is not among env" in told
    assert "is not among storages" in told
    assert "not signed" in told
    assert "APP_MODE" not in told


def test_a_signature_is_judged_by_the_trusted_keys(offline: Cli) -> None:
    offline("keys", "new", "--comment", "ann")
    key = str(Path(offline.environment["HELIOGRAPH_HOME"]) / "keys" / "signing.pub")
    assert "not trusted here" in offline("flows", "check", "flow.py", "--project", "covid").stdout
    offline("keys", "trust", key)
    assert "trusted here as ann" in offline("flows", "check", "flow.py", "--project", "covid").stdout
    offline("keys", "untrust", "ann")
    other = offline.cwd / "eve.key"
    offline("keys", "new", "--path", str(other), "--comment", "eve")
    offline("keys", "trust", str(other.with_suffix(".pub")))
    [found] = offline.json("flows", "check", "flow.py", "--project", "covid", code=6)
    assert "which is not trusted here" in found["refused"][0]


def test_a_file_that_cannot_be_loaded_or_has_no_such_flow(offline: Cli) -> None:
    (offline.cwd / "broken.py").write_text("1 / 0\n")
    assert "ZeroDivisionError" in offline("flows", "check", "broken.py", "--project", "covid", code=1).stderr
    offline("flows", "check", "flow.py", "--project", "covid", "--name", "other", code=1)
