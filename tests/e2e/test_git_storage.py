"""A flow in a private repository, from registration to its result, with its values on the agent only."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.git_http import PASSWORD, USER, GitServer, git_server
from tests.support.stack import PROJECT, Stack

from heliograph.engine.codes import StateCode

__all__ = ["git_server"]

FLOW = """
import os
from heliograph import Flow, task
from heliograph.run_configs import UniversalRun
from heliograph.storage import Git
from words import WORD

@task
def say():
    with open({witness!r}, "a") as stream:
        print(WORD, os.environ["KEY"], file=stream)

storage = Git(repo={url!r}, git_token_secret_name="READ", launch="agent")
with Flow("say", storage=storage, run_config=UniversalRun(env={{"KEY": "the-author's-own"}})) as flow:
    say()
"""


@pytest.fixture
def private_stack(tmp_path: Path, git_server: GitServer) -> Iterator[Stack]:
    secrets = {
        "HELIOGRAPH__SECRETS__READ": f"{USER}:{PASSWORD}",
        "HELIOGRAPH__STORAGE__TOKENS": f"{git_server.address}=READ",
    }
    running = Stack(tmp_path, environment=secrets)
    try:
        running.start_control_plane()
        running.start_agent()
        yield running
    finally:
        running.stop()


def test_a_flow_runs_from_a_private_repository(private_stack: Stack, git_server: GitServer, tmp_path: Path) -> None:
    repository = git_server.repository(f"e{uuid.uuid4().hex[:8]}", private=True)
    witness = tmp_path / "witness"
    repository.commit({"flow.py": FLOW.format(url=repository.url, witness=str(witness)), "words.py": "WORD = 'one'\n"})
    stack = private_stack
    stack.cli("projects", "create", PROJECT)
    shown = stack.cli("register", str(repository.clone / "flow.py"), "--project", PROJECT).stderr
    repository.commit({"words.py": "WORD = 'two'\n"})

    # Its values are nowhere: the run is refused, and says what is missing and where it belongs.
    stack.wait_for(stack.run("say"), StateCode.FAILED, StateCode.CRASHED)
    said = stack.log("agent-1") + "".join(path.read_text() for path in stack.home.rglob("supervisor.log"))
    assert "env.KEY" in said

    own = stack.home / "launch" / PROJECT / "say.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[env]\nKEY = "the-agent\'s-own"\n')
    own.chmod(0o600)
    stack.wait_for(stack.run("say"), StateCode.SUCCESS)
    assert witness.read_text() == "one the-agent's-own\n"
    crossed = b"".join(path.read_bytes() for path in stack.data.rglob("*") if path.is_file())
    for text in (PASSWORD, "the-agent's-own", "the-author's-own", "READ"):
        assert text.encode() not in crossed
        assert text not in shown + stack.log("agent-1") + stack.log("control-plane")
