"""Git storage over a real ssh server: who is let in, which server is believed, and where a key is meanwhile."""

from __future__ import annotations

import logging
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.commits import register, run, write_flow
from tests.support.figures import Figure
from tests.support.git_http import GitRepository, git
from tests.support.sshd import SshClient, Sshd, make_key, running_sshd

from heliograph.config import set_temporary_config
from heliograph.context import context
from heliograph.exceptions import StorageError
from heliograph.storage import Git, git_login
from heliograph.storage.pin import Pin

pytestmark = [pytest.mark.xdist_group("storage-git-ssh"), pytest.mark.timeout(300)]

FAILED = (AssertionError, pytest.fail.Exception)


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


@pytest.fixture
def key(sshd: Sshd, tmp_path: Path) -> Path:
    """A key that the server accepts."""
    make_key(tmp_path / "id")
    sshd.accept(tmp_path / "id")
    return tmp_path / "id"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files of this test are."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    bare, clone = tmp_path / f"{uuid.uuid4().hex[:8]}.git", tmp_path / "clone"
    git(tmp_path, "init", "-q", "--bare", str(bare))
    git(tmp_path, "clone", "-q", str(bare), str(clone))
    return GitRepository(bare, clone, str(bare))


@contextmanager
def user(client: SshClient) -> Iterator[SshClient]:
    """Is that user of ssh for a while: with a program that would ask people, who are not there."""
    asked = client.folder / "ask"
    asked.write_text(f"#!/bin/sh\necho \"$@\" >>'{client.folder}/asked'\necho yes\n")
    asked.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", client.path)
        patch.setenv("SSH_ASKPASS", str(asked))
        patch.setenv("SSH_ASKPASS_REQUIRE", "force")
        patch.setenv("DISPLAY", ":0")
        for name in ("SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND"):
            patch.delenv(name, raising=False)
        yield client
    assert not (client.folder / "asked").exists(), "somebody was asked"
    assert all("BatchMode=yes" in call for call in client.calls)


def _url(sshd: Sshd, repository: GitRepository) -> str:
    return f"ssh://{sshd.user}@{sshd.address}{repository.bare}"


def test_a_users_own_key_reaches_a_repository_by_both_forms_of_address(
    sshd: Sshd, key: Path, repository: GitRepository, tmp_path: Path, figure: Figure
) -> None:
    flow = write_flow(repository)
    commit = git(repository.clone, "rev-parse", "HEAD")
    helper = next(repository.clone.glob("helper_*.py"))
    git(repository.clone, "tag", "v1")
    git(repository.clone, "push", "-q", "origin", "v1")
    with user(SshClient(tmp_path / "user", sshd, key)):
        urls = (_url(sshd, repository), f"forge:{repository.bare}")
        refs = [register(Git(repo=url, tag="v1"), flow) for url in urls]
        assert {Pin.parse(ref.location).commit for ref in refs} == {commit}
        repository.commit({helper.name: "WORD = 'two'\n"})
        for number, ref in enumerate(refs):
            assert run(ref, tmp_path / f"cache-{number}") == "one"
    assert sshd.user not in refs[0].location.partition("://")[2].partition("/")[0], "who logs in is no part of it"
    figure(f"2 forms of ssh address registered by tag and fetched, {sshd.log.count('Accepted publickey')} logins")


def test_a_deploy_key_that_is_a_secret_is_a_file_of_ones_own_for_one_command(
    sshd: Sshd,
    key: Path,
    temporary: Path,
    repository: GitRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    flow = write_flow(repository)
    text = key.read_text()
    secrets = {"DEPLOY": text.strip().replace("\n", "\r\n")}  # as forms and variables keep it
    seen: list[str] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: Any) -> Any:
        seen.append(f"{command}")
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    monkeypatch.setenv("HELIOGRAPH__SECRETS__OTHER", "a secret that is no business of ssh")
    url = _url(sshd, repository)
    with user(SshClient(tmp_path / "user", sshd)) as client, context(secrets=secrets):
        ref = register(Git(repo=url, git_token_secret_name="DEPLOY"), flow)
        with pytest.raises(StorageError, match="Permission denied") as unbound:
            run(ref, tmp_path / "a")  # an agent uses no secret that its owner did not bind
        assert f"ssh://{sshd.address}=NAME_OF_SECRET" in unbound.value.hint
        with (
            set_temporary_config({"storage.tokens": [f"{sshd.address}=DEPLOY"]}),
            pytest.raises(StorageError, match="Permission denied"),
        ):
            run(ref, tmp_path / "b")  # that is a token, for https
        with set_temporary_config(
            {"storage.tokens": [f"{sshd.address}=TOKEN", f"ssh://{sshd.address}{tmp_path}=DEPLOY"]}
        ):
            assert run(ref, tmp_path / "c") == "one"
            assert _kept(client, temporary) == {"600"}
        assert not [name for name in client.variables if name.startswith("HELIOGRAPH__")]
    for line in text.splitlines()[1:-1]:
        for told in (f"{seen}", "\n".join(client.calls), caplog.text, f"{ref}", sshd.log, f"{unbound.value}"):
            assert line not in told
        kept = (path for path in (tmp_path / "c").rglob("*") if path.is_file())
        assert not [path for path in kept if line.encode() in path.read_bytes()]


def _kept(client: SshClient, temporary: Path) -> set[str]:
    """Returns the modes of the keys that ssh was given, all of which are gone."""
    assert client.keys, "no key was given"
    assert all(path.parent.parent == temporary for _, path in client.keys)
    assert not [path for _, path in client.keys if path.exists()]
    assert not list(temporary.iterdir())
    return {mode for mode, _ in client.keys}


def test_a_key_that_the_server_does_not_accept_is_refused_with_what_to_do(
    sshd: Sshd, temporary: Path, repository: GitRepository, tmp_path: Path
) -> None:
    flow = write_flow(repository)
    stranger, locked = make_key(tmp_path / "stranger"), make_key(tmp_path / "locked", "a passphrase")
    url = _url(sshd, repository)
    with user(SshClient(tmp_path / "user", sshd)) as client:
        for text, words, way in (
            (stranger, "Permission denied", "refuses the key in the secret 'DEPLOY'"),
            (locked, "Permission denied", "secret 'DEPLOY'"),
            (stranger[: len(stranger) // 2], "Permission denied", "no whole private key"),
            ("ghp_0123456789", "'DEPLOY' is no private key", "a token is for https"),
        ):
            with context(secrets={"DEPLOY": text}), pytest.raises(StorageError, match=words) as refused:
                register(Git(repo=url, git_token_secret_name="DEPLOY"), flow)
            assert way in refused.value.hint
            assert text not in f"{refused.value} {refused.value.hint}"
        assert _kept(client, temporary) == {"600"}
        with pytest.raises(StorageError, match="Permission denied"):
            register(Git(repo=url), flow)


def _only_known_servers(sshd: Sshd, key: Path, repository: GitRepository, folder: Path) -> None:
    """A server is spoken to only when its key is the one in known_hosts."""
    flow = write_flow(repository)
    url = _url(sshd, repository)
    with user(SshClient(folder / "user", sshd, key)) as client:
        ref = register(Git(repo=url), flow)
        make_key(folder / "another")
        another = (folder / "another.pub").read_text().split()
        changed = f"[127.0.0.1]:{sshd.port} {another[0]} {another[1]}\n"
        for text, words, way in (
            ("", "Host key verification failed", "into known_hosts"),
            (changed, "not the one in known_hosts", "Somebody may stand between"),
        ):
            client.known_hosts.write_text(text)
            before = sshd.log.count("Accepted")
            with pytest.raises(StorageError, match=words) as refused:
                register(Git(repo=url), flow)
            assert way in refused.value.hint
            with pytest.raises(StorageError, match=words):
                run(ref, folder / "cache")
            assert client.known_hosts.read_text() == text, "nobody has said that it is the right one"
            assert sshd.log.count("Accepted") == before


def test_a_server_that_is_not_known_or_has_another_key_is_not_believed(
    sshd: Sshd, key: Path, repository: GitRepository, tmp_path: Path
) -> None:
    _only_known_servers(sshd, key, repository, tmp_path)


def test_what_is_not_there_is_said(sshd: Sshd, key: Path, repository: GitRepository, tmp_path: Path) -> None:
    flow = write_flow(repository)
    with user(SshClient(tmp_path / "user", sshd, key)):
        with pytest.raises(StorageError, match="does not appear to be a git repository") as nowhere:
            register(Git(repo=f"forge:{tmp_path}/nothing.git"), flow)
        assert "Could not read" not in str(nowhere.value)
        assert "The name is wrong" in nowhere.value.hint
        with pytest.raises(StorageError, match="Connection refused") as closed:
            register(Git(repo=f"ssh://{sshd.user}@127.0.0.1:1{repository.bare}"), flow)
        assert "can this machine reach it" in closed.value.hint


def test_keys_of_processes_that_were_killed_are_removed(
    sshd: Sshd, key: Path, temporary: Path, repository: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = write_flow(repository)
    left = temporary / "heliograph-key-left"
    left.mkdir()
    (left / "key").write_text("x")
    with user(SshClient(tmp_path / "user", sshd)), context(secrets={"DEPLOY": key.read_text()}):
        storage = Git(repo=_url(sshd, repository), git_token_secret_name="DEPLOY")
        register(storage, flow)
        assert left.exists(), "another process may be using it"
        monkeypatch.setattr(git_login, "_LEFT_SECONDS", -1.0)
        with set_temporary_config({"storage.git_timeout_seconds": 60.0}):
            monkeypatch.setattr(git_login.time, "time", lambda: left.stat().st_mtime + 121.0)
            register(storage, flow)
    assert not left.exists()


@pytest.mark.parametrize("planted", ["no", "accept-new"])
def test_a_server_that_is_believed_untold_is_found(
    planted: str, sshd: Sshd, key: Path, repository: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = git_login._COMMAND.replace("StrictHostKeyChecking=yes", f"StrictHostKeyChecking={planted}")
    monkeypatch.setattr(git_login, "_COMMAND", loose)
    with pytest.raises(FAILED):
        _only_known_servers(sshd, key, repository, tmp_path)


def test_somebody_who_is_asked_is_found(
    sshd: Sshd, key: Path, repository: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_login, "_COMMAND", git_login._COMMAND.replace("-oBatchMode=yes ", ""))
    with pytest.raises(FAILED):
        _only_known_servers(sshd, key, repository, tmp_path)


def test_a_key_that_stays_is_found(
    sshd: Sshd, key: Path, temporary: Path, repository: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_login.shutil, "rmtree", lambda *_, **__: None)
    with user(SshClient(tmp_path / "user", sshd)) as client:
        with context(secrets={"DEPLOY": key.read_text()}):
            register(Git(repo=_url(sshd, repository), git_token_secret_name="DEPLOY"), write_flow(repository))
        with pytest.raises(FAILED):
            _kept(client, temporary)
