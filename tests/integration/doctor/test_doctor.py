"""The doctor, on real sockets: each layer that is broken is the one that it names, with what to do."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.certificates import Certificates
from tests.support.cli import Cli
from tests.support.control_plane import InProcessControlPlane, control_plane
from tests.support.registry import Registry, protected_registry, registry
from tests.support.stack import free_port

from heliograph.api.v1 import admin_service_pb2, admin_service_pb2_grpc
from heliograph.client.channel import TlsFiles
from heliograph.client.client import Client
from heliograph.client.diagnosis import Diagnosis, Finding, proxy_for, storage_finding
from heliograph.client.image_diagnosis import image_finding, parse_image
from heliograph.config import set_temporary_config
from heliograph.exceptions import StorageError
from heliograph.storage.registry_client import MANIFEST_TYPE, Repository

__all__ = ["protected_registry", "registry"]

LAYERS = ["name", "TCP", "proxy", "TLS", "ALPN", "auth", "clock"]


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listens on loopback and has `answer` deal with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    answer(connection)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def speaking_tls(certificates: Certificates, *protocols: str) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    if protocols:
        context.set_alpn_protocols(list(protocols))

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)

    return answer


def no_client() -> Client:
    raise AssertionError("asked above a broken layer")


def diagnose(address: str, *, ca: Path | None = None, client: Callable[[], Client] = no_client) -> list[Finding]:
    return list(Diagnosis(address, TlsFiles(ca=str(ca) if ca else ""), insecure=False, client=client).findings())


def broken(findings: list[Finding], layer: str) -> Finding:
    """Returns the one finding that fails: that of `layer`, with everything above it not tried."""
    assert [finding.layer for finding in findings] == LAYERS
    at = LAYERS.index(layer)
    assert [finding.layer for finding in findings if finding.good is False] == [layer], findings
    assert all(f"{layer} fails" in finding.said for finding in findings[at + 1 :])
    assert findings[at].advice
    return findings[at]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "right")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def test_a_good_way(plane: InProcessControlPlane) -> None:
    with Client(plane.address, plane.token) as client:
        findings = diagnose(plane.address, client=lambda: client)
    assert [finding.layer for finding in findings] == LAYERS
    assert {finding.good for finding in findings} == {True, None}
    assert findings[5].said.startswith("signed in as")


def test_a_wrong_name() -> None:
    found = broken(diagnose("heliograph.invalid:4480"), "name")
    assert "heliograph.invalid" in found.said


def test_a_refused_port() -> None:
    assert "refuse" in broken(diagnose(f"127.0.0.1:{free_port()}"), "TCP").said


def test_plaintext_where_tls_is_expected(plane: InProcessControlPlane) -> None:
    found = broken(diagnose(f"https://{plane.address}"), "TLS")
    assert "INSECURE" in found.advice or "plaintext" in found.advice


def test_tls_where_plaintext_is_expected(certificates: Certificates) -> None:
    with serving(speaking_tls(certificates, "h2")) as address:
        assert "https://" in broken(diagnose(address), "TLS").advice


def test_something_else_that_listens_there() -> None:
    with serving(lambda connection: connection.sendall(b"220 smtp.example.org ESMTP\r\n")) as address:
        assert "HTTP/2" in broken(diagnose(address), "TLS").said


def test_another_authority(certificates: Certificates, tmp_path: Path) -> None:
    other = Certificates(tmp_path, "other")
    with serving(speaking_tls(certificates, "h2")) as address:
        assert "TLS_CA" in broken(diagnose(address, ca=other.ca), "TLS").advice


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    other = Certificates(tmp_path, "other", address="127.0.0.9")
    with serving(speaking_tls(other, "h2")) as address:
        assert "subjectAltName" in broken(diagnose(address, ca=other.ca), "TLS").advice


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_a_balancer_that_does_not_speak_http_2(certificates: Certificates, protocols: tuple[str, ...]) -> None:
    with serving(speaking_tls(certificates, *protocols)) as address:
        assert "balancer" in broken(diagnose(address, ca=certificates.ca), "ALPN").advice


def test_a_bad_token(plane: InProcessControlPlane) -> None:
    with Client(plane.address, "hg_0_nobody") as client:
        found = broken(diagnose(plane.address, client=lambda: client), "auth")
    assert "auth login" in found.advice


@pytest.mark.parametrize(("hours", "word"), [(1, "behind"), (-1, "ahead of")])
def test_a_clock_that_is_wrong(hours: int, word: str) -> None:
    class Admin(admin_service_pb2_grpc.AdminServiceServicer):
        def WhoAmI(self, request: Any, context: Any) -> admin_service_pb2.WhoAmIResponse:
            return admin_service_pb2.WhoAmIResponse(principal="users/ann")

        def GetServerInfo(self, request: Any, context: Any) -> admin_service_pb2.ServerInfo:
            info = admin_service_pb2.ServerInfo()
            info.time.FromSeconds(int(time.time()) + hours * 3600)
            return info

    server = grpc.server(ThreadPoolExecutor(2))
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(Admin(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with Client(address, "hg_0_x") as client:
            found = broken(diagnose(address, client=lambda: client), "clock")
    finally:
        server.stop(0)
    assert word in found.said
    assert "NTP" in found.advice


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: socket.socket) -> None:
        assert connection.recv(65536).startswith(b"CONNECT control.example.org:4480 ")
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    with serving(refuse) as address:
        monkeypatch.setenv("https_proxy", f"http://{address}")
        found = broken(diagnose("control.example.org:4480"), "proxy")
    assert "403" in found.said
    assert "no_proxy" in found.advice


def test_which_proxy_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://one:3128")
    assert proxy_for("control.example.org") == ("one", 3128)
    monkeypatch.setenv("grpc_proxy", "http://two")
    assert proxy_for("control.example.org") == ("two", 80)
    monkeypatch.setenv("no_proxy", "localhost, .example.org")
    assert proxy_for("control.example.org") is None
    assert proxy_for("control.example.com") == ("two", 80)


def test_storages(tmp_path: Path) -> None:
    assert storage_finding(str(tmp_path)).good
    assert storage_finding("s3://").good is False
    assert storage_finding("nothing://x").good is False


def test_the_command_says_it_in_one_screen(plane: InProcessControlPlane, tmp_path: Path) -> None:
    cli = Cli(tmp_path, HELIOGRAPH__CLIENT__ADDRESS=plane.address, HELIOGRAPH__CLIENT__TOKEN=plane.token)
    told = cli("doctor").stdout
    assert "auth: ok" in told
    assert "storage: ok" in told
    refused = cli.json("--address", f"127.0.0.1:{free_port()}", "doctor", code=1)
    assert [finding["layer"] for finding in refused if finding["good"] is False] == ["TCP"]


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's logins; there are none yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker"


def _push(registry: Registry) -> str:
    """Stores a small image as `flows/base:3`. Returns its digest."""
    repository = Repository(registry.address, "flows/base", write=True)
    body = b"{}"
    part = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": repository.put_blob(body), "size": 2}
    return repository.put_manifest(
        "3", {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": part, "layers": []}
    )  # fmt: skip


def test_an_image_is_good_when_its_registry_says_so_and_not_otherwise(registry: Registry, docker_config: Path) -> None:
    digest = _push(registry)
    name = f"{registry.address}/flows/base"
    for image in (f"{name}:3", f"{name}@{digest}", f"{name}:another@{digest}"):
        found = image_finding(image)
        assert found.good is True, found
        assert digest in found.said
    for image in (f"{name}:4", name, f"{registry.address}/flows/bsae:3", f"{name}@sha256:{'0' * 64}"):
        found = image_finding(image)
        assert found.good is False, image
        assert "has no" in found.said


def test_an_image_behind_a_login_is_good_with_the_login_that_docker_has(
    protected_registry: Registry, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = f"{protected_registry.address}/flows/base:3"
    # What is bound for bundles is no login of the engine that pulls.
    monkeypatch.setenv("HELIOGRAPH__SECRETS__REGISTRY", f"{protected_registry.user}:{protected_registry.password}")
    with set_temporary_config({"storage.tokens": (f"{protected_registry.address}=REGISTRY",)}):
        digest = _push(protected_registry)
        found = image_finding(image)
    assert (found.good, "none is here" in found.said) == (False, True), found

    protected_registry.login(docker_config)
    found = image_finding(image)
    assert found.good is True, found
    assert digest in found.said

    right = protected_registry.password
    protected_registry.password = "wrong"
    try:
        protected_registry.login(docker_config)
    finally:
        protected_registry.password = right
    found = image_finding(image)
    assert (found.good, "refuses the login" in found.said) == (False, True), found
    assert "docker login" in found.advice
    assert "wrong" not in found.said + found.advice


def test_a_registry_that_does_not_answer_is_no_good_news(docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.storage.http_client._TRIES", 1)
    found = image_finding(f"127.0.0.1:{free_port()}/flows:1")
    assert (found.good, "no answer" in found.said) == (False, True), found
    assert "only its own pull can tell" in found.advice


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("flows", ("docker.io", "flows", "latest")),
        ("ann/flows:1", ("docker.io", "ann/flows", "1")),
        ("localhost/flows:1", ("localhost", "flows", "1")),
        ("reg.example.org:5000/a/b:1", ("reg.example.org:5000", "a/b", "1")),
        (f"reg.example.org/a:1@sha256:{'a' * 64}", ("reg.example.org", "a", f"sha256:{'a' * 64}")),
    ],
)
def test_names_of_images(image: str, parts: tuple[str, str, str]) -> None:
    assert parse_image(image) == parts


@pytest.mark.parametrize("image", ["", "Flows:1", "flows:", "flows@sha256:1", "a b", "reg.example.org:5000/:1"])
def test_what_is_no_name_of_an_image_is_said_to_be_none(image: str) -> None:
    with pytest.raises(StorageError, match="is no"):
        parse_image(image)
    assert image_finding(image).good is False
