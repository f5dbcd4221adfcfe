"""Docker Engines that are reached by ssh: through a real sshd, with the Docker command at its end."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
from tests.support.docker_engine import DockerEngine
from tests.support.figures import Figure
from tests.support.sshd import SshClient, Sshd, make_key

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage import image_build
from heliograph.utilities import docker_ssh
from heliograph_agents.launchers.docker.engine import Engine, EngineAwayError

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]

FAILED = (AssertionError, pytest.fail.Exception)
LABEL = {"heliograph.test": "ssh"}


def test_an_engine_by_ssh_answers_like_one_that_is_here(
    docker_engine: DockerEngine,
    sshd: Sshd,
    ssh_user: SshClient,
    runtime_image: str,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Engine(docker_engine.url, 30.0)
    monkeypatch.setenv("DOCKER_HOST", sshd.url)
    there = Engine("", 30.0)
    try:
        assert [there.version() for _ in range(5)] == [here.version()] * 5
        body = {"Image": runtime_image, "Cmd": ["sh", "-c", "echo one; echo two >&2"], "Labels": LABEL, "Tty": False}
        events = there.events(LABEL)
        name = there.create(body, "heliograph-by-ssh", "")
        there.put(name, "/tmp", _archive())
        assert there.has(name, "/tmp/word")
        there.start(name)
        assert sorted(b"".join(there.follow(name)).split()) == [b"one", b"two"]
        assert next(iter(events))["Action"] == "die"
        assert [one["Id"] for one in here.containers(LABEL)] == [name]
        there.remove(name, force=True)
        assert there.container(name) is None
        events.close()
    finally:
        there.close()
        here.close()
    assert all("BatchMode=yes" in call and "StrictHostKeyChecking=yes" in call for call in ssh_user.calls)
    assert len(ssh_user.calls) <= 5, "connections are used again: each is a login"
    figure(f"17 questions and 2 streams through sshd to the engine, {len(ssh_user.calls)} logins")


def _archive() -> bytes:
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("word")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    return stream.getvalue()


def _refused(url: str) -> str:
    engine = Engine(url, 30.0)
    try:
        with pytest.raises(EngineAwayError) as refused:
            engine.version()
    finally:
        engine.close()
    return str(refused.value)


def _only_known_servers(sshd: Sshd, ssh_user: SshClient) -> None:
    ssh_user.known_hosts.write_text("")
    assert "Host key verification failed" in _refused(sshd.url)
    make_key(ssh_user.folder / "another")
    kind, key, *_ = (ssh_user.folder / "another.pub").read_text().split()
    ssh_user.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    assert "not the one in known_hosts" in _refused(sshd.url)


def test_only_a_server_that_is_known_is_spoken_to(sshd: Sshd, ssh_user: SshClient) -> None:
    _only_known_servers(sshd, ssh_user)


def test_a_server_that_is_believed_untold_is_found(
    sshd: Sshd, ssh_user: SshClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = tuple(word.replace("StrictHostKeyChecking=yes", "StrictHostKeyChecking=no") for word in docker_ssh._OPTIONS)
    monkeypatch.setattr(docker_ssh, "_OPTIONS", loose)
    with pytest.raises(FAILED):
        _only_known_servers(sshd, ssh_user)


def test_what_a_killed_process_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="hg-", dir="/tmp") as short:  # a socket's path has few letters
        folder = Path(short)
        monkeypatch.setattr(tempfile, "tempdir", short)
        monkeypatch.setattr(docker_ssh, "_LEFT_SECONDS", -1.0)
        living = docker_ssh.SshWay("ssh://engine.test")
        left = folder / "heliograph-docker-ssh-left"
        left.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(left / "s"))
        docker_ssh.SshWay("ssh://engine.test").close()
        assert [f"unix://{kept}/s" for kept in folder.iterdir()] == [living.url]
        living.close()
        assert not list(folder.iterdir())


def test_what_is_in_the_way_is_said_when_an_agent_starts(
    sshd: Sshd, ssh_user: SshClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "/nowhere.sock" in _refused(f"{sshd.url}/nowhere.sock"), "the Docker command's own words"
    assert "Connection refused" in _refused(f"ssh://{sshd.user}@127.0.0.1:1")
    with pytest.raises(StorageError, match="Connection refused"):
        image_build.Engine(f"ssh://{sshd.user}@127.0.0.1:1").check("any")
    make_key(tmp_path / "stranger")
    stranger = SshClient(tmp_path / "other", sshd, tmp_path / "stranger")
    monkeypatch.setenv("PATH", stranger.path)
    assert "Permission denied" in _refused(sshd.url)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh cannot be started" in _refused(sshd.url)
    for address in ("ssh://user:word@host", "ssh://", "ssh://-oProxyCommand=id", "ssh://host:x"):
        with pytest.raises(InvalidArgumentError) as none:
            docker_ssh.SshWay(address)
        assert "word" not in str(none.value).replace("password", "")
