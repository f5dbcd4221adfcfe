"""Flows in private repositories at GitHub and GitLab, from registration to their results, through a real agent."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.git_host import TOKEN, HostDouble, HostRepository
from tests.support.git_http import git
from tests.support.github import GitHubDouble, github
from tests.support.gitlab import GitLabDouble, gitlab
from tests.support.stack import PROJECT, Stack

from heliograph.engine.codes import StateCode

__all__ = ["github", "gitlab"]

FLOW = """
from heliograph import Flow, task
from heliograph.storage import GitHub, GitLab
from words import WORD

@task
def say():
    with open({witness!r}, "a") as stream:
        print({name!r}, WORD, file=stream)

with Flow({name!r}, storage={storage}) as flow:
    say()
"""


@pytest.fixture
def hosted_stack(tmp_path: Path, github: GitHubDouble, gitlab: GitLabDouble) -> Iterator[Stack]:
    """A control plane and an agent whose owner has bound a token to both servers."""
    environment = {
        "HELIOGRAPH__SECRETS__READ": TOKEN,
        "HELIOGRAPH__STORAGE__TOKENS": f"{github.address()}=READ,{gitlab.address()}=READ",
    }
    running = Stack(tmp_path, environment=environment)
    try:
        running.start_control_plane()
        running.start_agent()
        yield running
    finally:
        running.stop()


def _written(double: HostDouble, witness: Path) -> tuple[HostRepository, str]:
    """Makes a private repository with a flow. Returns it with the flow's name."""
    repository = double.repository(f"shop/e{uuid.uuid4().hex[:8]}", private=True)
    storage = f"GitLab({repository.name!r}, host={double.site()!r}, access_token_secret='READ')"
    if isinstance(double, GitHubDouble):
        storage = f"GitHub({repository.name!r}, base_url={double.base_url!r}, access_token_secret='READ')"
    name = f"say-{double.kind}"
    flow = FLOW.format(witness=str(witness), name=name, storage=storage)
    repository.commit({"flow.py": flow, "words.py": "WORD = 'one'\n"})
    return repository, name


def test_flows_run_from_private_repositories(
    hosted_stack: Stack, github: GitHubDouble, gitlab: GitLabDouble, tmp_path: Path
) -> None:
    stack, witness = hosted_stack, tmp_path / "witness"
    stack.cli("projects", "create", PROJECT)
    policy = tmp_path / "policy.toml"
    policy.write_text(f'storages = ["github:{github.site()}/shop/", "gitlab:{gitlab.site()}/other/"]\n')
    shown, expected = "", ""
    for double in (github, gitlab):
        repository, name = _written(double, witness)
        file = str(repository.clone / "flow.py")
        # What an agent whose policy names places would say before anything is registered.
        allowed = double is github
        judged = stack.cli("flows", "check", file, "--project", PROJECT, "--policy", str(policy), check=False)
        assert judged.returncode == (0 if allowed else 6), judged.stderr
        assert ("an agent would run it" if allowed else "is not among storages") in judged.stdout
        shown += judged.stdout + stack.cli("register", file, "--project", PROJECT).stderr

        # The branch is rewritten, and says something else now: a run still is what was registered.
        git(repository.clone, "checkout", "-q", "--orphan", "rewritten")
        repository.commit({"words.py": "WORD = 'two'\n"})
        git(repository.clone, "push", "-q", "-f", "origin", "rewritten:main")
        stack.wait_for(stack.run(name), StateCode.SUCCESS)
        expected += f"{name} one\n"
        assert witness.read_text() == expected

        # The server tidied the commit away: what the agent has still runs, another agent is told.
        repository.tidy()
        stack.wait_for(stack.run(name), StateCode.SUCCESS)
        expected += f"{name} one\n"
        for cached in stack.home.rglob("bundles"):
            shutil.rmtree(_writable(cached))
        stack.wait_for(stack.run(name), StateCode.FAILED, StateCode.CRASHED)
        said = stack.log("agent-1") + "".join(path.read_text() for path in stack.home.rglob("supervisor.log"))
        assert f"is not in {repository.url} any more" in said
        assert witness.read_text() == expected

    told = shown + stack.log("agent-1") + stack.log("control-plane")
    told += "".join(one.path for double in (github, gitlab) for one in double.asked)
    kept = b"".join(path.read_bytes() for path in stack.root.rglob("*") if path.is_file() and not path.is_symlink())
    assert TOKEN not in told
    assert TOKEN.encode() not in kept, "neither store, caches, manifests, run directories nor logs have the token"
    files = [one for double in (github, gitlab) for one in double.asked if one.server == "files"]
    assert files
    assert not [one for one in files if "authorization" in one.headers]


def _writable(folder: Path) -> Path:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    return folder
