"""Small parts: output caps, health answers, name locks, suspension, environments."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.agent import Agent, AgentOptions, _launch_went
from heliograph_agents.bundles import stricter
from heliograph_agents.health import _respond
from heliograph_agents.host import AgentRunningError, folders, lock_name
from heliograph_agents.launchers.local.parents import child_environment, environment_fingerprint
from heliograph_agents.link import Link
from heliograph_agents.offers import Offers
from heliograph_agents.output import OutputFile
from heliograph_agents.run_directory import RunSettings
from heliograph_agents.tracker import LaunchFailed, Tracker


def test_output_keeps_the_newest_within_its_cap(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    output = OutputFile(path, echo=False, cap_bytes=1000)
    for number in range(500):
        output.write(f"line {number:04d}\n".encode())
    output.close()
    kept = (tmp_path / "output.log.1").read_text() + path.read_text()
    assert len(kept) <= 1010
    assert kept.endswith("line 0499\n")
    lines = [int(line.split()[1]) for line in kept.splitlines()]
    assert lines == list(range(lines[0], 500))
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET /healthz HTTP/1.1", b"200"), (b"HEAD /readyz?x=1 HTTP/1.0", b"503"), (b"GET /x HTTP/1.1", b"404"),
     (b"POST /healthz HTTP/1.1", b"404"), (b"\xff\xfe", b"404")],
)  # fmt: skip
def test_health_answers(request_line: bytes, status: bytes) -> None:
    answer = _respond(request_line + b"\r\n\r\n", {"/healthz": lambda: (True, "ok"), "/readyz": lambda: (False, "no")})
    assert answer.split()[1] == status


def test_one_agent_of_a_name(tmp_path: Path) -> None:
    held = lock_name(tmp_path, "a")
    with pytest.raises(AgentRunningError, match=f"pid {os.getpid()}"):
        lock_name(tmp_path, "a")
    os.close(held)
    os.close(lock_name(tmp_path, "a"))


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\nb"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        folders(name)


def test_agents_that_fail_to_launch_stop_claiming_for_a_while(tmp_path: Path) -> None:
    async def play() -> tuple[tuple[bool, str], tuple[bool, str]]:
        nothing: Any = None
        link = Link("127.0.0.1:1", None, None, insecure=False)
        agent = Agent(AgentOptions("a", (), 2, ""), link, nothing, Offers(tmp_path), nothing, nothing)
        agent._registered.set()
        agent._note_launch(False)
        agent._note_launch(False)
        two = agent.readiness()
        agent._note_launch(False)
        return two, agent.readiness()

    two, three = asyncio.run(play())
    assert "launches" not in two[1]
    assert three == (False, "3 launches in a row failed")


def test_a_full_place_and_a_bad_run_stop_no_claims() -> None:
    """Neither says anything of the agent: its other runs may have room elsewhere."""
    tracker = Tracker("run", 1)
    assert _launch_went(tracker, LaunchFailed(None, 60.0)) is False
    assert _launch_went(tracker, LaunchFailed(None, 60.0, no_room=True)) is None
    assert _launch_went(tracker, LaunchFailed(FailureCode.LAUNCH_SETTINGS)) is None


def test_runs_get_the_agents_environment_without_its_credentials() -> None:
    settings = RunSettings(address="x", agent="a", home="/h", cache="/c")
    given = {"PATH": "/bin", "HELIOGRAPH__CLIENT__TOKEN": "t", "HELIOGRAPH__CLIENT__TOKEN_FILE": "f", "A": "b"}
    assert child_environment(settings, given) == {"PATH": "/bin", "A": "b", "HELIOGRAPH_HOME": "/h"}


def test_installing_something_changes_the_fingerprint(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    before = environment_fingerprint([str(site), str(tmp_path)])
    os.utime(site, (1, 1))
    assert environment_fingerprint([str(site), str(tmp_path)]) != before


@pytest.mark.parametrize(
    ("wish", "limit", "used"),
    [("", "redacted", "redacted"), ("full", "local", "local"), ("local", "full", "local"), ("full", "full", "full")],
)
def test_a_flow_may_only_ask_for_less(wish: str, limit: str, used: str) -> None:
    assert stricter(wish, limit) == used
