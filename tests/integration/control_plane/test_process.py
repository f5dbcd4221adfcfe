"""The control plane as a process: it starts, refuses, survives a kill, and stops without leaving anybody hanging."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from tests.support.control_plane import channel, control_plane, control_plane_process
from tests.support.scene import Scene
from tests.support.stack import wait_until

from heliograph.api.v1 import (
    admin_service_pb2 as admin_pb,
)
from heliograph.api.v1 import (
    admin_service_pb2_grpc,
    agent_service_pb2_grpc,
    flow_run_service_pb2_grpc,
    project_service_pb2_grpc,
)
from heliograph.api.v1 import (
    agent_service_pb2 as agents_pb,
)
from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)
from heliograph.exceptions import ConfigurationError, HeliographError
from heliograph_control_plane.server import ServerSettings, _credentials

START = [sys.executable, "-m", "heliograph_control_plane", "start"]


def test_acknowledged_changes_survive_a_kill_and_the_token_stays_good(tmp_path: Path) -> None:
    with control_plane_process(tmp_path) as process:
        with channel(process.address, process.token) as made:
            project_service_pb2_grpc.ProjectServiceStub(made).CreateProject(
                projects_pb.CreateProjectRequest(project_id="p")
            )
            before = admin_service_pb2_grpc.AdminServiceStub(made).GetServerInfo(admin_pb.GetServerInfoRequest())
        process.kill()
        process.start()
        with channel(process.address, process.token) as made:
            stub = project_service_pb2_grpc.ProjectServiceStub(made)
            names = [project.name for project in stub.ListProjects(projects_pb.ListProjectsRequest()).projects]
            after = admin_service_pb2_grpc.AdminServiceStub(made).GetServerInfo(admin_pb.GetServerInfoRequest())
        assert names == ["projects/p"]
        assert (after.incarnation, after.store) == (before.incarnation, "sqlite")
        said = process.log.read_text()
        assert process.token not in said
        assert f"Heliograph control plane on {process.address} (plaintext)" in said
        assert f"sqlite:///{process.data_dir}/heliograph.db" in said
        assert f"{process.data_dir}/admin.token" in said


def test_an_acceptance_again_after_a_kill_gives_the_same_token_and_another_agents_another(tmp_path: Path) -> None:
    with control_plane_process(tmp_path) as process, ExitStack() as stack:
        scene = Scene(stack, process)  # type: ignore[arg-type]
        project = scene.project()
        flow = scene.flow(project).name
        tokens = [scene.token("agent", projects=(project,), principal="services/agent").secret for _ in range(2)]
        agent = scene.agent(api=scene.api(tokens[0])).name
        accepts = []
        for _ in range(2):
            scene.run(flow)
            (lease,) = scene.lease(agent, api=scene.api(tokens[0]))
            accepts.append(agents_pb.AcceptFlowRunRequest(agent=agent, flow_run=lease.flow_run.name, epoch=lease.epoch))

        def given() -> list[str]:
            return [scene.api(token).agents.AcceptFlowRun(accepts[0]).run_token for token in tokens]

        before = given()
        assert len(set(before)) == 2, "each token of the agent's leads to its own"
        assert scene.api(tokens[0]).agents.AcceptFlowRun(accepts[1]).run_token not in before, "each run's is its own"
        process.kill()
        process.start()
        assert given() == before
        # The newest is the good one: the other was replaced.
        assert scene.api(before[1]).admin.WhoAmI(admin_pb.WhoAmIRequest()).principal == accepts[0].flow_run


def test_sigterm_ends_parked_polls_and_streams_with_answers_and_exits_with_0(tmp_path: Path) -> None:
    outcomes: dict[str, object] = {}
    with control_plane_process(tmp_path) as process, ExitStack() as stack:
        made = stack.enter_context(channel(process.address, process.token))
        agents = agent_service_pb2_grpc.AgentServiceStub(made)
        agents.RegisterAgent(agents_pb.RegisterAgentRequest(agent_id="a", launcher="local", capacity=1))

        def poll() -> None:
            request = agents_pb.LeaseFlowRunsRequest(
                agent="agents/a", request_id="r", max_runs=1, wait=Duration(seconds=50)
            )
            outcomes["poll"] = len(agents.LeaseFlowRuns(request, timeout=60).leases)

        def follow() -> None:
            request = runs_pb.WatchFlowRunsRequest(parent="projects/-")
            outcomes["watch"] = list(
                flow_run_service_pb2_grpc.FlowRunServiceStub(made).WatchFlowRuns(request, timeout=60)
            )

        threads = [threading.Thread(target=work) for work in (poll, follow)]
        for thread in threads:
            thread.start()
        channelz = channelz_pb2_grpc.ChannelzStub(made)

        def under_way() -> int:
            (server,) = channelz.GetServers(channelz_pb2.GetServersRequest()).server
            return server.data.calls_started - server.data.calls_succeeded - server.data.calls_failed

        wait_until(lambda: under_way() >= 3, "both have come, beside the question")
        assert process.terminate() == 0
        for thread in threads:
            thread.join(60)
    assert outcomes == {"poll": 0, "watch": []}


def refusal(*arguments: str) -> str:
    done = subprocess.run([*START, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in {0, None}
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_refuses_plaintext_where_others_can_listen(tmp_path: Path) -> None:
    said = refusal("--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path))
    assert "plaintext" in said
    assert "--insecure" in said
    assert not (tmp_path / "admin.token").exists()


def test_it_refuses_a_port_that_is_taken_and_a_store_that_is_in_use(tmp_path: Path) -> None:
    with control_plane(tmp_path / "one") as plane:
        port = int(plane.address.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match="cannot listen"), control_plane(tmp_path / "two", port=port):
            pass
        with pytest.raises(HeliographError, match="in use"), control_plane(tmp_path / "one"):
            pass
    with control_plane(tmp_path / "one", port=port):
        pass


@pytest.mark.parametrize("fields", [{"tls_cert": Path("c")}, {"tls_cert": Path("/no/c"), "tls_key": Path("/no/k")}])
def test_half_of_tls_is_refused(tmp_path: Path, fields: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError):
        _credentials(ServerSettings(data_dir=tmp_path, **fields))


@pytest.mark.parametrize(
    ("host", "good"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("192.0.2.1", False)]
)
def test_plaintext_is_for_loopback(tmp_path: Path, host: str, good: bool) -> None:
    settings = ServerSettings(data_dir=tmp_path, host=host)
    if good:
        assert _credentials(settings) is None
    else:
        with pytest.raises(HeliographError):
            _credentials(settings)
    assert _credentials(ServerSettings(data_dir=tmp_path, host=host, insecure=True)) is None


def certificate(folder: Path, name: str, issuer: str | None = None) -> tuple[Path, Path]:
    """Makes a certificate and its key: self-signed, or signed by another that was made before."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer, by = key, subject
    if issuer is not None:
        loaded = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer, by = loaded, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority, _ = certificate(tmp_path, "authority")
    cert, key = certificate(tmp_path, "server", "authority")
    client_cert, client_key = certificate(tmp_path, "client", "authority")
    with control_plane(tmp_path / "plane", tls_cert=cert, tls_key=key, tls_client_ca=authority) as plane:
        metadata = (("authorization", f"Bearer {plane.token}"),)
        address = plane.address.replace("127.0.0.1", "localhost")
        good = grpc.ssl_channel_credentials(authority.read_bytes(), client_key.read_bytes(), client_cert.read_bytes())
        with grpc.secure_channel(address, good) as made:
            who = admin_service_pb2_grpc.AdminServiceStub(made).WhoAmI(
                admin_pb.WhoAmIRequest(), metadata=metadata, timeout=10
            )
        assert who.principal == "users/admin"
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes())) as made:
            with pytest.raises(grpc.RpcError) as caught:
                admin_service_pb2_grpc.AdminServiceStub(made).WhoAmI(
                    admin_pb.WhoAmIRequest(), metadata=metadata, timeout=5
                )
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(plane.address) as made, pytest.raises(grpc.RpcError):
            admin_service_pb2_grpc.AdminServiceStub(made).WhoAmI(
                admin_pb.WhoAmIRequest(), metadata=metadata, timeout=60
            )


def test_client_pings_every_ten_seconds_are_welcome(scene: Scene) -> None:
    options = [
        ("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]  # fmt: skip
    with grpc.insecure_channel(scene.plane.address, options=options) as made:
        agent = scene.agent("pings")
        poll = agent_service_pb2_grpc.AgentServiceStub(made).LeaseFlowRuns
        request = agents_pb.LeaseFlowRunsRequest(
            agent=agent.name, request_id="ping", max_runs=1, wait=Duration(seconds=2)
        )
        metadata = (("authorization", f"Bearer {scene.plane.token}"),)
        assert not poll(request, metadata=metadata, timeout=30).leases


def test_a_store_is_migrated_by_command(tmp_path: Path) -> None:
    base = [sys.executable, "-m", "heliograph_control_plane"]
    done = subprocess.run([*base, "migrate", "--data-dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "heliograph.db").exists()
