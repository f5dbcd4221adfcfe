"""The ways between agent, engine, containers and control plane: addresses, certificates, contexts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.certificates import Certificates
from tests.support.docker_engine import DockerEngine
from tests.support.sshd import SshClient, Sshd
from tests.support.stack import Stack

from heliograph.engine.codes import StateCode
from heliograph_agents.launchers.docker.engine import Engine, EngineAwayError

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]

FLOW = """
from heliograph import Flow, task
from heliograph.run_configs import DockerRun
from heliograph.storage import Local

@task
def hello():
    print("inside", flush=True)

with Flow("hello", storage=Local({bundles!r}, host=""), run_config=DockerRun(image={image!r})) as flow:
    hello()
"""


@contextlib.contextmanager
def relay(engine: DockerEngine, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Has the engine answer on a TCP port of loopback, too, as with `dockerd -H tcp://`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def answer(inward: socket.socket) -> None:
        with contextlib.ExitStack() as ends:
            ends.enter_context(inward)
            if tls is not None:
                try:
                    inward = ends.enter_context(tls.wrap_socket(inward, server_side=True))
                except OSError:
                    return
            outward = ends.enter_context(socket.socket(socket.AF_UNIX))
            outward.connect(engine.url.removeprefix("unix://"))
            back = threading.Thread(target=pump, args=(outward, inward), daemon=True)
            back.start()
            pump(inward, outward)
            back.join()

    def serve() -> None:
        while True:
            try:
                inward, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(inward,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def version(base_url: str = "") -> str:
    engine = Engine(base_url, 30.0)
    try:
        return engine.version()
    finally:
        engine.close()


def test_a_run_by_ssh_in_a_container_reaches_the_control_plane_of_its_host_with_certificates_of_both(
    tmp_path: Path, docker_engine: DockerEngine, sshd: Sshd, ssh_user: SshClient, runtime_image: str
) -> None:
    server = Certificates(tmp_path / "server", "server", hosts=["host.docker.internal"])
    person = Certificates(tmp_path / "client", "client")
    stack = Stack(
        tmp_path,
        environment={
            **docker_engine.environment,
            "DOCKER_HOST": sshd.url,
            "PATH": ssh_user.path,
            "HELIOGRAPH__CLIENT__TLS_CA": str(server.ca),
            "HELIOGRAPH__CLIENT__TLS_CERT": str(person.cert),
            "HELIOGRAPH__CLIENT__TLS_KEY": str(person.key),
        },
        server_args=[
            "--host", "0.0.0.0", "--tls-cert", str(server.cert), "--tls-key", str(server.key),
            "--tls-client-ca", str(person.ca),
        ],
    )  # fmt: skip
    bundles = tmp_path / "bundles"
    stack.agent_args = [
        "--type", "docker", "--advertise-address", f"host.docker.internal:{stack.port}",
        "--volume", f"{bundles}:{bundles}:ro",
    ]  # fmt: skip
    try:
        stack.start_control_plane()
        stack.start_agent()
        stack.register(FLOW.format(bundles=str(bundles), image=runtime_image))
        stack.wait_for(stack.run("hello"), StateCode.SUCCESS, seconds=240)
        assert ssh_user.calls, "the engine was reached by ssh"
    finally:
        stack.stop()


def test_an_engine_on_a_port_is_used_by_its_address(docker_engine: DockerEngine, nobody: Path) -> None:
    with relay(docker_engine) as port:
        assert version(f"tcp://127.0.0.1:{port}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("swept")
def test_an_engine_behind_certificates_is_used_as_the_docker_command_would(
    docker_engine: DockerEngine, nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Certificates(tmp_path / "made", "engine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    context.load_verify_locations(made.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    folder = tmp_path / "certificates"
    folder.mkdir()
    for name, file in (("ca.pem", made.ca), ("cert.pem", made.cert), ("key.pem", made.key)):
        (folder / name).write_bytes(file.read_bytes())
    with relay(docker_engine, context) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        with pytest.raises(EngineAwayError):
            version()
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))
        assert version()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("swept")
def test_the_context_of_the_docker_command_is_followed(docker_engine: DockerEngine, nobody: Path) -> None:
    with pytest.raises(EngineAwayError):
        version("unix:///nowhere/at/all.sock")
    (nobody / "config.json").write_text(json.dumps({"currentContext": "elsewhere"}))
    meta = nobody / "contexts" / "meta" / hashlib.sha256(b"elsewhere").hexdigest()
    meta.mkdir(parents=True)
    endpoint = {"Host": docker_engine.url, "SkipTLSVerify": False}
    (meta / "meta.json").write_text(
        json.dumps({"Name": "elsewhere", "Metadata": {}, "Endpoints": {"docker": endpoint}})
    )
    assert version()
