"""`heliograph secrets`, as people use it: values go in and are never printed."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import PROJECT
from tests.support.cli import Cli

VALUE = "correct-horse-7"

FLOW = """
    from heliograph import Flow
    from heliograph.tasks.secrets import EnvVarSecret, Secret

    with Flow("uses-secrets") as flow:
        Secret("DB_PASSWORD")()
        Secret("API_KEY")()
        EnvVarSecret("PLAIN_VARIABLE")()
"""


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    (tmp_path / "flow.py").write_text(textwrap.dedent(FLOW))
    return Cli(tmp_path / "home", cwd=tmp_path)


def test_a_secret_is_kept_listed_and_removed_without_being_shown(alone: Cli) -> None:
    told = alone("secrets", "set", "DB_PASSWORD", "--stdin", stdin=VALUE + "\n")
    path = Path(alone.environment["HELIOGRAPH_HOME"]) / "secrets" / "DB_PASSWORD"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = alone.json("secrets", "ls")
    assert listed == [{"name": "DB_PASSWORD", "source": str(path)}]
    assert VALUE not in told.stdout + told.stderr + str(listed)
    alone("secrets", "rm", "DB_PASSWORD")
    assert not path.exists()
    alone("secrets", "rm", "DB_PASSWORD", code=3)


def test_names_that_lead_elsewhere_and_empty_values_are_refused(alone: Cli) -> None:
    alone("secrets", "set", "../token", "--stdin", stdin="x", code=2)
    alone("secrets", "set", "EMPTY", "--stdin", stdin="\n", code=2)
    assert not (Path(alone.environment["HELIOGRAPH_HOME"]) / "token").exists()


def test_what_a_flow_names_is_compared_with_what_is_here(alone: Cli) -> None:
    alone("secrets", "set", "DB_PASSWORD", "--stdin", stdin=VALUE)
    found = {row["name"]: row["source"] for row in alone.json("secrets", "check", "flow.py", code=3)}
    assert found["DB_PASSWORD"].endswith("secrets/DB_PASSWORD")
    assert found["API_KEY"] == found["PLAIN_VARIABLE"] == ""
    alone.environment |= {"HELIOGRAPH__SECRETS__API_KEY": "x", "PLAIN_VARIABLE": "y"}
    told = alone("secrets", "check", "flow.py").stdout
    assert "variable HELIOGRAPH__SECRETS__API_KEY" in told
    assert VALUE not in told


def test_a_run_says_what_it_needs_of_an_agent(cli: Cli, write_flow: Callable[[str], Path]) -> None:
    path = write_flow("""
        from heliograph import Flow, task
        from heliograph.run_configs import DockerRun
        from heliograph.storage import Local

        @task
        def act():
            pass

        with Flow("picky") as flow:
            act()
        boxed = Flow("boxed", tasks=[act], run_config=DockerRun(image="flows:1"), storage=Local())
    """)
    cli("register", str(path), "--project", PROJECT, "--label", "gpu")
    run = cli.json("run", f"{PROJECT}/picky")["name"].rpartition("/")[2]
    told = cli("labels", "explain", run).stdout
    assert f"needs the label gpu, host {os.uname().nodename}" in told
    assert "agent-1: lacks label gpu" in told
    assert "lacks label gpu" in cli("runs", "why", run).stdout
    cli("runs", "cancel", run)

    boxed = cli.json("run", f"{PROJECT}/boxed")["name"].rpartition("/")[2]
    told = cli("labels", "explain", boxed).stdout
    assert "an agent of type docker" in told
    assert "agent-1: lacks" in told
    cli("runs", "cancel", boxed)
