"""The kubelet of the fake cluster: pods are processes of this host, with their Secret as a folder.

What a container has at `/heliograph` is a folder of the pod here; paths in commands, variables and the offer are
rewritten. A pod waits for the Secrets that it mounts, ends by SIGTERM and after its grace period by SIGKILL, and takes
all of its processes with it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tests.support.kubernetes_fake.controllers import Controllers
from tests.support.kubernetes_fake.store import Json, Refusal, Store, now

from heliograph_agents.container import EXIT_STARTED_BEFORE, EXIT_WITHDRAWN

PLACE = "/heliograph"


class Kubelet:
    """Runs the pods that nobody scripts.

    Args:
        store: The objects.
        controllers: For events.
        folder: Folder of the pods.
    """

    def __init__(self, store: Store, controllers: Controllers, folder: Path) -> None:
        self._store, self._controllers, self._folder = store, controllers, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_at: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        self.scripted = False
        """True to have tests say what becomes of pods."""
        self.pretends = False
        """True to run nothing: a pod takes its offer as the first process of a container does, then runs until it is
        ended by a test or a deletion."""
        self.started: list[str] = []
        self.lingers = False
        """True to have no pretended pod end that is asked to."""

    def step(self) -> None:
        """Does what is to be done now."""
        for pod in self._store.all("pods"):
            with contextlib.suppress(Refusal):
                self._see_to(pod)

    def close(self) -> None:
        """Kills all that is left."""
        for uid in list(self._processes):
            self._kill(uid)

    def pid(self, uid: str) -> int:
        """Returns the first process of a pod; 0 when it has none."""
        process = self._processes.get(uid)
        return process.pid if process is not None else 0

    def end(self, uid: str, reason: str = "") -> None:
        """Kills a pod's processes, as the kernel does; `reason` is what the kubelet says of it."""
        self._reasons[uid] = reason
        self._kill(uid)

    def printed(self, name: str) -> bytes:
        """Returns what a pod has printed."""
        for path in self._folder.glob(f"*/{name}.log"):
            return path.read_bytes()
        return b""

    # --- pods --------------------------------------------------------------------------------------------------------

    def _see_to(self, pod: Json) -> None:
        meta = pod["metadata"]
        uid, namespace, name = meta["uid"], meta["namespace"], meta["name"]
        process = self._processes.get(uid)
        if process is not None and process.poll() is not None:
            self._ended(pod, process.returncode)
            return
        if meta.get("deletionTimestamp"):
            if process is None and self.lingers:
                return
            if process is None:
                if pod["status"].get("phase") == "Running":
                    ended = {"exitCode": 143, "reason": "Error", "finishedAt": now()}
                    self._status(pod, {"phase": "Failed"}, {"terminated": ended})
                self._store.finish("pods", namespace, name)
            elif uid not in self._kill_at:
                self._kill_at[uid] = time.monotonic() + meta.get("deletionGracePeriodSeconds", 30)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
            elif time.monotonic() > self._kill_at[uid]:
                self._kill(uid)
            return
        if process is None and not self.scripted and pod["status"].get("phase") == "Pending":
            self._begin(pod)

    def _begin(self, pod: Json) -> None:
        meta = pod["metadata"]
        folder = self._folder / meta["uid"]
        try:
            files = self._files(pod)
        except Refusal as refusal:
            self._controllers.event(pod, "Pod", "FailedMount", f"MountVolume.SetUp failed: {refusal}")
            return
        if self.pretends:
            self._pretend(pod, files)
            return
        (folder / "offer").mkdir(parents=True, exist_ok=True)
        (folder / "work").mkdir(exist_ok=True)
        for name, data in files.items():
            path = folder / "offer" / name
            path.write_bytes(data.replace(PLACE.encode() + b"/", f"{folder}/".encode()))
            path.chmod(0o444)
        flow = next(one for one in pod["spec"]["containers"] if one["name"] == "flow")
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        for one in flow["env"]:
            value = meta["uid"] if "valueFrom" in one else one["value"]
            environment[one["name"]] = value.replace(f"{PLACE}/", f"{folder}/")
        python = flow["command"][0]  # one that is a path of this host is meant
        command = [
            python if Path(python).is_absolute() else sys.executable,
            *(self._local(word, folder) for word in flow["command"][1:]),
        ]
        with (folder / f"{meta['name']}.log").open("wb") as log:
            self._processes[meta["uid"]] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                cwd=folder / "work",
            )  # fmt: skip
        self._status(pod, {"phase": "Running", "startTime": now()}, {"running": {"startedAt": now()}})

    def _pretend(self, pod: Json, files: dict[str, bytes]) -> None:
        uid = pod["metadata"]["uid"]
        code = 0
        if "withdrawn" in files:
            code = EXIT_WITHDRAWN
        elif files.get("holder", uid.encode()) != uid.encode():
            code = EXIT_STARTED_BEFORE
        if code:
            self._status(pod, {"phase": "Failed"}, {"terminated": {"exitCode": code, "reason": "Error"}})
            return
        self.started.append(uid)
        self._status(pod, {"phase": "Running"}, {"running": {"startedAt": now()}})

    @staticmethod
    def _local(word: str, folder: Path) -> str:
        if word == "/dev/termination-log":
            return str(folder / "termination-log")
        return word.replace(f"{PLACE}/", f"{folder}/")

    def _files(self, pod: Json) -> dict[str, bytes]:
        for volume in pod["spec"]["volumes"]:
            if volume["name"] == "heliograph-offer":
                secret = self._store.get("secrets", pod["metadata"]["namespace"], volume["secret"]["secretName"])
                return {name: base64.b64decode(text) for name, text in secret["data"].items()}
        return {}

    def _ended(self, pod: Json, code: int) -> None:
        uid = pod["metadata"]["uid"]
        self._kill(uid)  # what it left behind goes with its container
        del self._processes[uid]
        number = 128 - code if code < 0 else code
        word = self._folder / uid / "termination-log"
        state = {"exitCode": number, "reason": self._reasons.get(uid) or ("Error" if number else "Completed"),
                 "finishedAt": now()}  # fmt: skip
        if word.exists():
            state["message"] = word.read_text()
        self._status(pod, {"phase": "Failed" if number else "Succeeded"}, {"terminated": state})
        if pod["metadata"].get("deletionTimestamp"):
            self._store.finish("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        shutil.rmtree(self._folder / uid / "work", ignore_errors=True)

    def _status(self, pod: Json, status: Json, state: Json) -> None:
        def change(found: Json) -> None:
            statuses = [{"name": "flow", "state": state, "restartCount": 0}]
            found["status"].update({**status, "containerStatuses": statuses})

        self._store.update("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], change)

    def _kill(self, uid: str) -> None:
        """Kills all processes of a pod: those too that left its session."""
        process, place = self._processes[uid], str(self._folder / uid)
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.pid != os.getpid() and place in one.environ().get("HELIOGRAPH_HOME", ""):
                    one.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
