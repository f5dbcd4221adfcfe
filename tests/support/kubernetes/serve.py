"""Runs a whole cluster: `unshare --mount python -m tests.support.kubernetes.serve FOLDER PROGRAMS`.

It lives in a mount namespace of its own, so that nothing that a kubelet and a Docker Engine mount is seen outside or
outlives it, and so that the machine's settings, which a kubelet would change, are files of ours. It ends, with all
servers and containers, when its standard input ends: with the tests, however they die. On its standard output come
lines of JSON: first where everything is, then an answer to each line of its input: `{"start": NAME}`, `{"kill": NAME}`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.docker_engine import DockerEngine
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.servers import AUTHORITY, NODE, PAUSE, TUNABLES, Servers

READY_SECONDS = 240.0
"""For each step of a start; other work shares the machine."""

RUNTIME = """#!/bin/sh
# Sandboxes ask for a negative oom score, which not every root may give.
last=
for argument; do
  [ "$last" = --bundle ] && sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$argument/config.json"
  last=$argument
done
PATH=$PATH:/usr/sbin:/sbin exec runc "$@"
"""


def main() -> None:
    """Runs until the standard input ends."""
    folder, programs = Path(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(0))
    with (folder / "lock.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "lock.new").rename(folder / "lock")  # who finds it, finds it held
        _hide_the_machine(folder)
        servers = Servers(folder, programs)
        with ThreadPoolExecutor(1) as pool:
            engine = pool.submit(_start_engine, folder)
            try:
                _start_plane(servers)
                _start_node(servers, engine.result())
                _serve(servers, engine.result())
            finally:
                for name in list(servers.processes):
                    servers.end(name)
                engine.result().stop()
                _unmount(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _serve(servers: Servers, engine: DockerEngine) -> None:
    """Tells where everything is, and does what it is told."""
    _tell(
        {"url": servers.url, "token": servers.token, "docker": engine.url, "gateway": engine.gateway} | _pids(servers)
    )
    for line in sys.stdin:
        command: dict[str, str] = json.loads(line)
        if "kill" in command:
            servers.end(command["kill"])
        if "start" in command:
            servers.start(command["start"])
        _tell(_pids(servers))


def _pids(servers: Servers) -> dict[str, Any]:
    return {"pids": {name: one.pid for name, one in servers.processes.items()}}


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def _hide_the_machine(folder: Path) -> None:
    """Shows this namespace settings and log folders that are not the machine's."""
    for name, value in TUNABLES.items():
        shown, true = folder / "machine" / name, Path("/proc/sys") / name
        if true.exists():
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.write_text(f"{value}\n")
            subprocess.run(["mount", "--bind", str(shown), str(true)], check=True)
    logs = folder / "machine" / "log"
    logs.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(logs), "/var/log"], check=True)


def _start_engine(folder: Path) -> DockerEngine:
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    engine = DockerEngine(f"--add-runtime=test={runtime}", "--default-runtime=test", parent=folder)
    (folder / "bridge").write_text(engine.bridge)  # for who sweeps, should this process be killed
    client = engine.client()
    try:
        client.api.import_image_from_data(_pause(), repository=PAUSE.partition(":")[0], tag=PAUSE.partition(":")[2],
                                          changes=['ENTRYPOINT ["/bin/sh", "/pause"]'])  # fmt: skip
    finally:
        client.close()
    return engine


def _pause() -> bytes:
    """Returns the root file system of what holds a pod's namespaces: a shell that waits for its end."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        script = b"trap 'exit 0' TERM INT\nwhile :; do sleep 3600 & wait $!; done\n"
        entry = tarfile.TarInfo("pause")
        entry.size = len(script)
        archive.addfile(entry, io.BytesIO(script))
        for name in ("bin/busybox", "bin/sh", "bin/sleep"):
            if name == "bin/busybox":
                archive.add(shutil.which("busybox") or "/bin/busybox", name)
            else:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
    return stream.getvalue()


def _start_plane(servers: Servers) -> None:
    servers.prepare()
    servers.start("etcd")
    servers.start("kube-apiserver")
    api = Api(servers.url, servers.token, str(servers.folder / AUTHORITY))
    _until(servers, "kube-apiserver", lambda: api.ask("GET", "/readyz")[0] == 200)
    servers.start("kube-controller-manager")
    servers.start("kube-scheduler")


def _start_node(servers: Servers, engine: DockerEngine) -> None:
    servers.docker = engine.url
    servers.start("kubelet")
    api = Api(servers.url, servers.token, str(servers.folder / AUTHORITY))

    def ready() -> bool:
        status, node = api.ask("GET", f"/api/v1/nodes/{NODE}")
        if status != 200 or node["spec"].get("taints"):
            return False
        conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
        account = api.ask("GET", "/api/v1/namespaces/default/serviceaccounts/default")[0]
        return conditions.get("Ready") == "True" and account == 200

    _until(servers, "kubelet", ready)


def _until(servers: Servers, name: str, look: Any) -> None:
    limit = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if look():
                return
        for other, process in servers.processes.items():
            if process.poll() is not None:
                raise SystemExit(f"{other} ended with {process.returncode}:\n{servers.log(other)}")
        if time.monotonic() > limit:
            raise SystemExit(f"{name} is not ready:\n{servers.log(name)}")
        time.sleep(0.05)


def _unmount(folder: Path) -> None:
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith(str(folder)):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)


if __name__ == "__main__":
    main()
