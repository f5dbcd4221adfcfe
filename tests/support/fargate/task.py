"""One task of the double: a thread that walks the phases, and containers of the engine between RUNNING and its end."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import docker
import docker.errors
import requests.exceptions
from tests.support.docker_engine import DockerEngine
from tests.support.fargate.definitions import ACCOUNT, REGION
from tests.support.fargate.script import Misfortune

PHASES = ("PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED")


class _Stop(Exception):
    """The task does not go on."""


class Task:
    """One task.

    Args:
        engine: Where its containers run.
        definition: Its definition.
        request: The call that made it.
        binds: What all containers see of this host, as a file system in the network would show it.
        misfortune: What befalls it.
        printed: Takes what a container printed: container's definition, task id, lines.
    """

    def __init__(
        self,
        engine: DockerEngine,
        definition: Mapping[str, Any],
        request: Mapping[str, Any],
        binds: Mapping[str, str],
        misfortune: Misfortune,
        printed: Callable[[Mapping[str, Any], str, list[str]], None],
    ) -> None:
        self.id = uuid.uuid4().hex
        cluster = str(request.get("cluster") or "default").rpartition("/")[2]
        self.arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{cluster}/{self.id}"
        self.cluster = cluster
        self._engine, self._definition, self._request, self._binds = engine, definition, request, binds
        self._misfortune, self._printed = misfortune, printed
        self._overrides: Mapping[str, Any] = request.get("overrides") or {}
        self._lock = threading.Condition()
        self._names: dict[str, str] = {}
        self.phases: list[str] = []
        self.document: dict[str, Any] = {
            "taskArn": self.arn,
            "clusterArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{cluster}",
            "taskDefinitionArn": definition["taskDefinitionArn"],
            "group": request.get("group") or f"family:{definition['family']}",
            "desiredStatus": "RUNNING",
            "createdAt": datetime.now(UTC),
            "startedBy": request.get("startedBy"),
            "cpu": str(self._overrides.get("cpu") or definition.get("cpu") or "0"),
            "memory": str(self._overrides.get("memory") or definition.get("memory") or "0"),
            "overrides": dict(self._overrides),
            "attachments": [],
            "enableExecuteCommand": bool(request.get("enableExecuteCommand")),
            "tags": self._tags(),
            "containers": [self._container(one) for one in definition["containerDefinitions"]],
            "healthStatus": "UNKNOWN",
            "availabilityZone": f"{REGION}a",
            "version": 1,
        }
        strategy = request.get("capacityProviderStrategy")
        if strategy:
            self.document["capacityProviderName"] = strategy[0]["capacityProvider"]
            self.document["launchType"] = "FARGATE"
        else:
            self.document["launchType"] = request.get("launchType") or "FARGATE"
        self._enter("PROVISIONING")
        self._thread = threading.Thread(target=self._live, name=f"fargate-{self.id[:8]}", daemon=True)
        self._thread.start()

    def _tags(self) -> list[dict[str, str]]:
        return [dict(one) for one in self._request.get("tags") or ()]

    def _container(self, one: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "containerArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:container/{self.cluster}/{self.id}/{uuid.uuid4()}",
            "taskArn": self.arn, "name": one["name"], "image": one["image"], "lastStatus": "PENDING",
            "networkInterfaces": [], "healthStatus": "UNKNOWN", "cpu": str(one.get("cpu", 0)),
        }  # fmt: skip

    # --- from outside --------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """True when it is over."""
        return self.document["lastStatus"] == "STOPPED"

    def stop(self, code: str, reason: str) -> None:
        """Asks it to end: SIGTERM, then SIGKILL after the stop timeout."""
        with self._lock:
            if self.document["desiredStatus"] == "STOPPED":
                return
            self._end(code, reason)
            self._lock.notify_all()
        if self._names:
            threading.Thread(target=self._stop_containers, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Waits until it is over."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def container_names(self) -> list[str]:
        """Returns the names of its containers in the engine."""
        return list(self._names.values())

    # --- its life ------------------------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        self.document["lastStatus"] = phase
        self.document["version"] += 1 if self.phases else 0
        self.phases.append(phase)

    def _end(self, code: str, reason: str) -> None:
        if self.document["desiredStatus"] != "STOPPED":
            self.document |= {
                "desiredStatus": "STOPPED", "stopCode": code, "stoppedReason": reason, "stoppingAt": datetime.now(UTC),
            }  # fmt: skip

    def _live(self) -> None:
        client = self._engine.client(timeout=600)
        try:
            with contextlib.suppress(_Stop):
                self._begin(client)
                self._run(client)
        except (docker.errors.APIError, requests.exceptions.RequestException) as error:
            self._end("TaskFailedToStart", f"CannotStartContainerError: {error}")
        finally:
            try:
                self._finish(client)
            finally:
                client.close()

    def _pass(self, phase: str) -> None:
        """Goes on to the next phase, unless somebody stops it or something befalls it here."""
        with self._lock:
            if self._misfortune.hold == self.document["lastStatus"]:
                while not (self._misfortune.let_go.is_set() or self.document["desiredStatus"] == "STOPPED"):
                    self._lock.wait(0.05)
            if self.document["desiredStatus"] == "STOPPED":
                raise _Stop
            self._enter(phase)

    def _begin(self, client: docker.DockerClient) -> None:
        bad = self._misfortune
        if bad.stop_code and not bad.reason.startswith("CannotPull"):
            with self._lock:
                # As ECS tells of tasks that got no network: without any container.
                if "network interface" in bad.reason:
                    self.document["containers"] = []
                self._end(bad.stop_code, bad.reason)
            raise _Stop
        self._pass("PENDING")
        self.document["pullStartedAt"] = datetime.now(UTC)
        for container in self._definition["containerDefinitions"]:
            self._pull(client, container["image"])
        self.document["pullStoppedAt"] = datetime.now(UTC)
        self._pass("ACTIVATING")

    def _pull(self, client: docker.DockerClient, image: str) -> None:
        bad = self._misfortune.reason if self._misfortune.stop_code else ""
        if not bad:
            try:
                client.images.get(image)
            except docker.errors.ImageNotFound:
                bad = (
                    "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref"
                    f" {image}: {image}: not found"
                )
        if bad:
            with self._lock:
                for container in self.document["containers"]:
                    container["reason"] = bad
                self._end("TaskFailedToStart", bad)
            raise _Stop

    def _run(self, client: docker.DockerClient) -> None:
        essential = None
        for definition in self._definition["containerDefinitions"]:
            made = client.containers.create(**self._arguments(definition))
            self._names[definition["name"]] = str(made.name)
            try:
                made.start()
            except docker.errors.APIError as error:
                with self._lock:
                    self._end("TaskFailedToStart", f"CannotStartContainerError: {error.explanation}")
                raise _Stop from error
            essential = essential or (made if definition.get("essential", True) else None)
        assert essential is not None
        with self._lock:
            stopping = self.document["desiredStatus"] == "STOPPED"
            if not stopping:
                self._enter("RUNNING")
                self.document |= {"startedAt": datetime.now(UTC), "connectivity": "CONNECTED"}
                for container in self.document["containers"]:
                    container["lastStatus"] = "RUNNING"
        if stopping:
            self._stop_containers()
        essential.wait()

    def _arguments(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        given = self._overrides.get("containerOverrides") or ()
        override = next((one for one in given if one.get("name") == definition["name"]), {})
        variables = {one["name"]: one["value"] for one in definition.get("environment") or ()}
        variables |= {one["name"]: one["value"] for one in override.get("environment") or ()}
        memory = int(override.get("memory") or definition.get("memory") or self.document["memory"])
        return {
            "image": definition["image"],
            "name": f"fargate-{self.id}-{definition['name']}",
            "command": override.get("command") or definition.get("command"),
            "entrypoint": definition.get("entryPoint"),
            "environment": variables,
            "network_mode": "host",
            "user": definition.get("user"),
            "mem_limit": f"{memory}m" if memory else None,
            "memswap_limit": f"{memory}m" if memory else None,
            "volumes": [f"{source}:{target}" for source, target in self._binds.items()],
            "labels": {"task": self.arn},
            "detach": True,
        }

    def _stop_containers(self) -> None:
        client = self._engine.client(timeout=600)
        try:
            for definition in self._definition["containerDefinitions"]:
                name = self._names.get(definition["name"])
                with contextlib.suppress(docker.errors.APIError):
                    if name:
                        client.containers.get(name).stop(timeout=int(definition.get("stopTimeout", 30)))
        finally:
            client.close()

    def _finish(self, client: docker.DockerClient) -> None:
        for phase in ("DEACTIVATING", "STOPPING"):
            self._enter(phase)
        self.document.setdefault("stoppingAt", datetime.now(UTC))
        for definition in self._definition["containerDefinitions"]:
            name = self._names.get(definition["name"])
            if name is not None:
                self._end_container(client, definition, name)
        with self._lock:
            self._end("EssentialContainerExited", "Essential container in task exited")
        self.document["executionStoppedAt"] = datetime.now(UTC)
        self._enter("DEPROVISIONING")
        for container in self.document["containers"]:
            container["lastStatus"] = "STOPPED"
        self.document["stoppedAt"] = datetime.now(UTC)
        self._enter("STOPPED")

    def _end_container(self, client: docker.DockerClient, definition: Mapping[str, Any], name: str) -> None:
        shown = next(one for one in self.document["containers"] if one["name"] == definition["name"])
        try:
            found = client.containers.get(name)
            found.stop(timeout=int(definition.get("stopTimeout", 30)))
            found.reload()
            state = found.attrs["State"]
            if not str(self.document.get("stoppedReason", "")).startswith("CannotStart"):
                shown["exitCode"] = int(state["ExitCode"])
            if state.get("OOMKilled"):
                shown["reason"] = "OutOfMemoryError: Container killed due to memory usage"
            self._printed(definition, self.id, found.logs().decode("utf-8", "replace").splitlines())
            found.remove(force=True)
        except docker.errors.NotFound:
            shown["exitCode"] = 137
