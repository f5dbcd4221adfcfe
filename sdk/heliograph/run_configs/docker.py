"""Runs as containers of the agent's Docker Engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from heliograph.run_configs.base import RunConfig
from heliograph.storage.launch import LaunchSettings

__all__ = ["DockerRun"]

PULL_POLICIES = ("IfNotPresent", "Always", "IfPossible", "Never")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

_OWN = ("ports", "host_config", "networks", "network_mode", "volumes", "extra_hosts", "shm_size", "gpus", "ulimits",
        "user", "platform", "entrypoint", "working_dir", "python", "pull_policy", "container_labels")  # fmt: skip


class DockerRun(RunConfig):
    """A container of the agent's Docker Engine. What is not given is as the agent has it.

    The agent's policy judges all of it: privileged mode, capabilities, devices, and the host's network or processes are
    refused unless it names them.

    Args:
        image: The image; best with its digest. It needs Heliograph, and what the flow imports.
        env: Environment variables of the run. They travel with the bundle, not in the container's configuration.
        labels: Labels that an agent must offer.
        ports: Ports of the container to expose.
        host_config: More options, as the Docker SDK's `create_host_config` takes them; they must be JSON.
        networks: Networks to join. The first is there when the container is made, the rest before it starts.
        network_mode: `bridge`, `host`, `none` or `container:NAME`, instead of networks.
        volumes: Volumes as `docker run -v` takes them, Unix or Windows, or mounts as mappings with `type`, `source`,
            `target` and `read_only`.
        extra_hosts: Names and addresses, or `NAME:ADDRESS` texts, added to those of the agent.
        cpus: Processors, in fractions.
        mem_limit: Most memory: bytes, or a text like `512m` or `2g`.
        shm_size: Size of `/dev/shm`, like `mem_limit`.
        gpus: `all`, a number, or the ids of devices.
        ulimits: Limits by name: a number for both, or soft and hard.
        user: User of the container: a name or number, with a group after a colon. By default the image's.
        platform: Platform of the image, as `linux/amd64`.
        entrypoint: Entry point instead of the image's; it must run its arguments. Empty for none.
        working_dir: Folder of the container in which the run starts.
        python: The interpreter in the image. Default: `python`.
        pull_policy: `IfNotPresent`, `Always`, `IfPossible` or `Never`. By default the agent's; where that says nothing,
            `Always` for images tagged `latest` or not at all, else `IfNotPresent`.
        container_labels: Labels of the container.
        start_timeout_seconds: How long it may take until the run is heard of.

    Raises:
        TypeError, ValueError: An argument is not what it should be.
    """

    launcher: ClassVar[str] = "docker"

    def __init__(
        self,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        labels: Iterable[str] | None = None,
        ports: Iterable[int] | None = None,
        host_config: Mapping[str, Any] | None = None,
        *,
        networks: Sequence[str] | None = None,
        network_mode: str | None = None,
        volumes: Sequence[str | Mapping[str, Any]] | None = None,
        extra_hosts: Mapping[str, str] | Sequence[str] | None = None,
        cpus: float | None = None,
        mem_limit: str | int | None = None,
        shm_size: str | int | None = None,
        gpus: str | int | Sequence[str] | None = None,
        ulimits: Mapping[str, int | Sequence[int]] | None = None,
        user: str | int | None = None,
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        working_dir: str | None = None,
        python: str | None = None,
        pull_policy: str | None = None,
        container_labels: Mapping[str, str] | None = None,
        start_timeout_seconds: int | None = None,
    ) -> None:
        super().__init__(env, labels)
        for name, value in (("networks", networks), ("volumes", volumes), ("entrypoint", entrypoint)):
            if isinstance(value, str):
                raise TypeError(f"{name} takes several texts, like [{value!r}]")
        if pull_policy is not None and pull_policy not in PULL_POLICIES:
            raise ValueError(f"pull_policy is one of {', '.join(PULL_POLICIES)}, not {pull_policy!r}")
        if networks and network_mode:
            raise ValueError("give networks or network_mode, not both")
        if cpus is not None and not cpus > 0:
            raise ValueError(f"cpus is a number of processors, not {cpus!r}")
        self.image = image
        self.ports = list(ports or ())
        self.host_config = dict(host_config or {})
        self.networks = list(networks or ())
        self.network_mode = network_mode
        self.volumes = list(volumes or ())
        self.extra_hosts = extra_hosts
        self.cpus = cpus
        self.mem_limit = mem_limit
        self.shm_size = shm_size
        self.gpus = gpus
        self.ulimits = dict(ulimits or {})
        self.user = str(user) if user is not None else None
        self.platform = platform
        self.entrypoint = list(entrypoint) if entrypoint is not None else None
        self.working_dir = working_dir
        self.python = python
        self.pull_policy = pull_policy
        self.container_labels = dict(container_labels or {})
        self.start_timeout_seconds = start_timeout_seconds
        self.launch_settings()

    def launch_settings(self) -> LaunchSettings:
        """Returns the settings that the agent reads."""
        given = {name: getattr(self, name) for name in _OWN}
        options = {name: value for name, value in given.items() if value not in (None, {}, ()) and value != []}
        if self.entrypoint is not None:
            options["entrypoint"] = self.entrypoint
        if self.shm_size is not None:
            options["shm_size"] = size_in_bytes(self.shm_size)
        try:
            options = json.loads(json.dumps(options))
        except TypeError as error:
            raise TypeError(f"options of a container must be JSON: {error}") from error
        return replace(
            super().launch_settings(),
            image=self.image or "",
            cpu_millis=round(self.cpus * 1000) if self.cpus else 0,
            memory_bytes=size_in_bytes(self.mem_limit) if self.mem_limit is not None else 0,
            start_timeout_seconds=self.start_timeout_seconds or 0,
            options=options,
        )


def size_in_bytes(value: str | int) -> int:
    """Reads bytes, or a text like `512m` or `2g`; units are powers of 1,024, as Docker has them.

    Raises:
        ValueError: It is neither.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool) or match is None:
        raise ValueError(f"{value!r} is no size; write 512m, 2g or a number of bytes")
    return int(float(match[1]) * _FACTORS[match[2].lower()])
