"""The servers of a test cluster with the flags that matter: etcd, API server, controllers, scheduler, kubelet.

Everything listens on loopback, on free ports. RBAC is on; the kubelet is asked with a client certificate.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.certificates import Certificates
from tests.support.stack import free_port

NODE = "localhost"
AUTHORITY = "cluster-ca.pem"
PAUSE = "heliograph-pause:1"
CONTROLLERS = (
    "job", "cronjob", "garbagecollector", "namespace", "serviceaccount", "serviceaccount-token", "podgc",
    "ttl-after-finished", "nodelifecycle", "resourcequota",
)  # fmt: skip
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet sets on its machine. It is shown files with these values instead."""


@dataclass(slots=True)
class Servers:
    """Names, ports and flags of one cluster's servers.

    Attributes:
        folder: Folder of the cluster.
        programs: Folder with `kubernetes` and `etcd`.
        docker: Where the Docker Engine listens.
        processes: The running servers by name.
    """

    folder: Path
    programs: Path
    docker: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("api", "etcd", "peer", "kubelet")}
    )
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def url(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self.ports['api']}"

    def prepare(self) -> None:
        """Writes certificates, users and settings."""
        # One certificate for all: of the servers, and of the API server as a client of the kubelet.
        Certificates(self.folder, "cluster", hosts=[NODE])
        accounts = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (self.folder / "accounts.key").write_bytes(accounts)
        users = [
            (self.token, "admin", "system:masters"),
            (secrets.token_hex(16), "system:kube-scheduler", ""),
            (secrets.token_hex(16), f"system:node:{NODE}", "system:nodes"),
        ]
        (self.folder / "tokens.csv").write_text(
            "".join(f'{token},{name},{name},"{group}"\n' for token, name, group in users)
        )
        for (token, _name, _group), server in zip(users, ("admin", "scheduler", "kubelet"), strict=True):
            write_kubeconfig(self.folder / f"{server}.kubeconfig", self.url, token, self.folder / AUTHORITY)
        settings = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": "127.0.0.1",
            "port": self.ports["kubelet"],
            "readOnlyPort": 0,
            "healthzPort": 0,
            "tlsCertFile": f"{self.folder}/cluster.pem",
            "tlsPrivateKeyFile": f"{self.folder}/cluster.key",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": f"{self.folder}/cluster-ca.pem"},
            },
            "authorization": {"mode": "AlwaysAllow"},
            # The machine's control groups are not ours to arrange, nor are its packet filters.
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "resolvConf": "",
            "hairpinMode": "none",
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "syncFrequency": "10s",
            "volumeStatsAggPeriod": "5s",
        }
        (self.folder / "kubelet.yaml").write_text(json.dumps(settings))

    def start(self, name: str) -> None:
        """Starts one server."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
            )

    def end(self, name: str) -> None:
        """Kills one server with -9."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        """Returns the end of a server's log."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace")[-4000:] if file.exists() else ""

    def _command(self, name: str) -> list[str]:
        folder, ports = self.folder, self.ports
        server, version = str(self.programs / "kubernetes"), "--v=2"
        etcd = f"http://127.0.0.1:{ports['etcd']}"
        peer = f"http://127.0.0.1:{ports['peer']}"
        if name == "etcd":
            return [
                str(self.programs / "etcd"), f"--data-dir={folder}/etcd", f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}", "--unsafe-no-fsync",
                "--log-level=warn",
            ]  # fmt: skip
        if name == "kube-apiserver":
            return [
                server, name, version, f"--etcd-servers={etcd}", "--bind-address=127.0.0.1",
                f"--secure-port={ports['api']}", f"--cert-dir={folder}/unused", f"--tls-cert-file={folder}/cluster.pem",
                f"--tls-private-key-file={folder}/cluster.key", f"--client-ca-file={folder}/cluster-ca.pem",
                f"--token-auth-file={folder}/tokens.csv", "--anonymous-auth=false", "--authorization-mode=Node,RBAC",
                # As strict as some users' clusters: only who may finalize a Job may be blocked by one.
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder}/accounts.key",
                f"--service-account-signing-key-file={folder}/accounts.key",
                "--service-cluster-ip-range=10.233.0.0/24", "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none", "--kubelet-preferred-address-types=Hostname",
                f"--kubelet-client-certificate={folder}/cluster.pem", f"--kubelet-client-key={folder}/cluster.key",
                f"--kubelet-certificate-authority={folder}/cluster-ca.pem", "--feature-gates=TTLAfterFinished=true",
            ]  # fmt: skip
        if name == "kube-controller-manager":
            return [
                server, name, version, f"--kubeconfig={folder}/admin.kubeconfig", "--leader-elect=false", "--port=0",
                "--secure-port=0", f"--controllers={','.join(CONTROLLERS)}",
                f"--service-account-private-key-file={folder}/accounts.key", f"--root-ca-file={folder}/cluster-ca.pem",
                "--feature-gates=TTLAfterFinished=true",
            ]  # fmt: skip
        if name == "kube-scheduler":
            return [
                server, name, version, f"--kubeconfig={folder}/scheduler.kubeconfig", "--leader-elect=false",
                "--port=0", "--secure-port=0",
            ]  # fmt: skip
        assert name == "kubelet", name
        return [
            server, name, version, f"--kubeconfig={folder}/kubelet.kubeconfig", f"--config={folder}/kubelet.yaml",
            f"--hostname-override={NODE}", f"--root-dir={folder}/kubelet", f"--cert-dir={folder}/unused",
            "--container-runtime=docker", f"--docker-endpoint={self.docker}", "--network-plugin=",
            f"--container-runtime-endpoint=unix://{folder}/shim.sock",
            f"--experimental-dockershim-root-directory={folder}/shim",
            f"--volume-plugin-dir={folder}/plugins", f"--pod-infra-container-image={PAUSE}",
        ]  # fmt: skip


def write_kubeconfig(path: Path, url: str, token: str, authority: Path, namespace: str = "default") -> Path:
    """Writes a kubeconfig file for a user with a token."""
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
                "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}],
                "users": [{"name": "test", "user": {"token": token}}],
            }
        )
    )
    path.chmod(0o600)
    return path
