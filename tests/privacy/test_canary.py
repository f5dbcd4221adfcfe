"""What reaches the control plane of a run full of canaries is exactly what the contract names.

One canary per place where user data can be. The sinks are the bytes on the wire in both directions, the control
plane's files (database, WAL, log store) and what it printed. The set of canaries found must *equal* the expected one:
fewer means that the scan is blind, more means a leak.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privacy.flows import source
from tests.support.canary import Canaries
from tests.support.history import task_runs
from tests.support.stack import PROJECT, Stack
from tests.support.tap import Tap

from heliograph.engine.codes import StateCode

ALLOWED = {"parameter_value", "log_line"}
"""A parameter's value and an explicit log line cross by the user's own act."""


@pytest.fixture
def canaries() -> Canaries:
    """Fresh canaries."""
    return Canaries()


@pytest.fixture
def stack(tmp_path: Path, canaries: Canaries) -> Iterator[Stack]:
    """A stack whose every connection to the control plane goes through a tap."""
    stack = Stack(tmp_path, environment={"INHERITED": canaries["agent_env"]})
    stack.start_control_plane()
    with Tap(stack.port) as tap:
        stack.environment["HELIOGRAPH__CLIENT__ADDRESS"] = f"127.0.0.1:{tap.port}"
        stack.tap = tap  # type: ignore[attr-defined]
        yield stack
        stack.stop()


def sinks(stack: Stack) -> dict[str, list[bytes]]:
    """Returns all that the control plane has seen and kept."""
    return {
        "wire": stack.tap.recorded(),  # type: ignore[attr-defined]
        "files": [path.read_bytes() for path in stack.data.rglob("*") if path.is_file()],
        "output": [stack.log("control-plane").encode()],
    }


def run_canary(stack: Stack, canaries: Canaries, *agent_args: str) -> str:
    """Runs the canary flow to its (failed) end and returns the run's id."""
    stack.agent_args = list(agent_args)
    stack.start_agent()
    stack.register(source(canaries, str(stack.root / "results")))
    run = stack.run("canary", f"given={canaries['parameter_value']}")
    stack.wait_for(run, StateCode.FAILED)
    stack.cli("runs", "inspect", run)
    stack.cli("runs", "logs", run)
    stack.cli("runs", "why", run)
    stack.cli("results", "ls", run)
    return run


def hits(stack: Stack, canaries: Canaries) -> dict[str, set[str]]:
    """Returns the places found in each sink."""
    return {name: canaries.found_in(found) for name, found in sinks(stack).items()}


def test_only_what_the_contract_names_reaches_the_control_plane(stack: Stack, canaries: Canaries) -> None:
    """Default settings: the parameter's value and the log line cross, nothing else; the text is on the user's side."""
    run = run_canary(stack, canaries)
    found = hits(stack, canaries)
    assert found["wire"] == ALLOWED
    assert found["files"] <= ALLOWED
    assert "parameter_value" in found["files"], "the scan of files sees what must be there"
    assert found["output"] == set()

    failures = {found.task_slug: found for found in task_runs(stack, run) if found.state == StateCode.FAILED}
    assert len(failures) == 2, "the broken task and the missing key"
    failed = failures["break_down-1"]
    assert failed.failure.exception_class == "builtins.ValueError"
    assert failed.failure.frames[-1].function == "break_down"
    assert not failed.failure.text
    told = stack.cli("errors", "show", failed.failure.error_id).stdout
    assert canaries["exception"] in told, "the text is there for those who may read the user's storage"


def test_log_mode_local_keeps_every_line_at_home(stack: Stack, canaries: Canaries) -> None:
    """Mode `local`: level, time and count only."""
    run_canary(stack, canaries, "--log-mode", "local")
    assert hits(stack, canaries)["wire"] == {"parameter_value"}


def test_failure_text_full_is_seen_by_the_scan(stack: Stack, canaries: Canaries) -> None:
    """The positive control: a user's side that sends texts is caught sending them, on the wire and in the files."""
    run_canary(stack, canaries, "--failure-text", "full")
    found = hits(stack, canaries)
    assert found["wire"] >= ALLOWED | {"exception"}
    assert "exception" in found["files"]


def test_secrets_in_log_lines_are_scrubbed(stack: Stack, canaries: Canaries) -> None:
    """A secret that a flow logs does not cross, in any of the forms in which it could."""
    stack.environment["HELIOGRAPH__SECRETS__KEY"] = canaries["secret"]
    stack.start_agent()
    stack.register(
        """
        import base64
        import heliograph
        from heliograph import Flow, task
        from heliograph.client import Secret

        @task
        def careless():
            key = Secret("KEY").get()
            log = heliograph.context.logger
            log.info("the key is %s", key)
            log.warning("encoded: %s", base64.b64encode(("user:" + key).encode()).decode())
            log.error("in a list: %r", [key, {"k": key}])
            try:
                raise ValueError(key)
            except ValueError:
                log.exception("failed")

        with Flow("careless") as flow:
            careless()
        """
    )
    run = stack.run("careless")
    stack.wait_for(run, StateCode.SUCCESS)
    lines = stack.cli("runs", "logs", run).stdout
    assert "the key is ***" in lines
    found = hits(stack, canaries)
    assert found["wire"] == set()
    assert found["files"] == set()
    assert PROJECT in stack.cli("projects", "ls").stdout
