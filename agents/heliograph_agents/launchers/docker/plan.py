"""What a Docker container of a run is made of: run config and agent's options put together, without any I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import docker.types
import docker.utils

from heliograph.engine.codes import FailureCode
from heliograph.storage import LaunchSettings
from heliograph_agents.launcher import LaunchError, PlanFacts, RunSpec
from heliograph_agents.launchers.docker.options import PULL_POLICIES, DockerOptions, is_mode
from heliograph_agents.launchers.docker.volumes import Volume, parse_volume
from heliograph_agents.launchers.labels import LABEL, labels_of
from heliograph_agents.most import Most

PLACE = "/heliograph"
"""Where the attempt's volume is in the container."""

_API_VERSION = "1.41"
"""Of engine 20.10, the oldest that is used: how options are written. What is asked for is as new as the engine."""

_KNOWN = {"ports", "host_config", "networks", "network_mode", "volumes", "extra_hosts", "shm_size", "gpus", "ulimits",
          "user", "platform", "entrypoint", "working_dir", "python", "pull_policy", "container_labels"}  # fmt: skip

_ORDINARY = {
    "auto_remove", "binds", "blkio_weight", "cap_drop", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota",
    "cpu_shares", "cpuset_cpus", "cpuset_mems", "dns", "dns_opt", "dns_search", "extra_hosts",
    "group_add", "init", "isolation", "mem_limit", "mem_reservation", "mem_swappiness", "memswap_limit",
    "mounts", "nano_cpus", "network_mode", "pids_limit", "read_only", "restart_policy",
    "shm_size", "storage_opt", "tmpfs", "ulimits",
}  # fmt: skip
"""Host options that give a container no more rights than others have. All the rest need the policy's word."""

_REFUSED = {"auto_remove": "its exit would be lost", "restart_policy": "an attempt is started once"}


@dataclass(frozen=True, slots=True)
class DockerPlan:
    """One container.

    Attributes:
        spec: The attempt.
        facts: What the policy judges.
        name: Name of the container and of its volume.
        image: The image as it was asked for.
        pull_policy: When it is pulled.
        platform: Platform asked for; empty means the engine's.
        body: The container, as the Engine's API takes it; without the image, which is known by its digest later.
        more_networks: Networks that it joins before it starts.
        start_timeout_seconds: How long it may take until it is heard of; 0 means the agent's.
    """

    spec: RunSpec
    facts: PlanFacts
    name: str
    image: str
    pull_policy: str
    platform: str
    body: Mapping[str, Any]
    more_networks: tuple[str, ...]
    start_timeout_seconds: float


def name_of(run_id: str, epoch: int) -> str:
    """Returns the name of an attempt's container and volume: the same however often it is launched."""
    return f"heliograph-{run_id}-{epoch}"


def make_plan(spec: RunSpec, settings: LaunchSettings, agent: DockerOptions, identity: Mapping[str, str]) -> DockerPlan:
    """Puts the container together.

    Args:
        spec: The attempt.
        settings: What its author asks for.
        agent: What the agent's owner sets.
        identity: Labels that make it this agent's.

    Raises:
        LaunchError: It cannot be made.
    """
    try:
        return _Plan(spec, settings, agent).made(identity)
    except LaunchError:
        raise
    except Exception as error:  # the boundary to what authors write, and to the SDK that judges it
        raise _refusal(str(error)) from error


class _Plan:
    """Puts one container together."""

    def __init__(self, spec: RunSpec, settings: LaunchSettings, agent: DockerOptions) -> None:
        self._spec, self._settings, self._agent = spec, settings, agent
        self._options = dict(settings.options)
        self._host: dict[str, Any] = dict(self._options.get("host_config", {}))
        if unknown := self._options.keys() - _KNOWN:
            raise _refusal(f"Docker agents know no option {', '.join(sorted(unknown))}")
        for name, why in _REFUSED.items():
            if self._host.get(name):
                raise _refusal(f"host_config cannot set {name}: {why}")
            self._host.pop(name, None)

    def made(self, identity: Mapping[str, str]) -> DockerPlan:
        spec, options = self._spec, self._options
        image = self._settings.image or self._agent.image
        if not image:
            raise _refusal("the flow names no image, and this agent has no --image for such flows")
        name = name_of(spec.run_id, spec.epoch)
        mode, more = self._networks()
        asked = self._volumes()
        privileged = self._privileged(asked)
        own = Volume(name, PLACE, "", "volume")
        host = self._host_config(mode, [*self._agent.volumes, *asked], own)
        timeout = float(self._settings.start_timeout_seconds)
        labels = {str(key): str(value) for key, value in options.get("container_labels", {}).items()}
        if taken := [key for key in labels if key.startswith(LABEL)]:
            raise _refusal(f"labels that begin with {LABEL} are the agent's: {', '.join(taken)}")
        labels |= {**identity, **labels_of(spec, timeout), f"{LABEL}image": image}
        body: dict[str, Any] = {
            "Cmd": [options.get("python", "python"), "-m", "heliograph_agents.container", f"{PLACE}/offer", "--runs",
                    f"{PLACE}/runs"],
            "Env": [f"HELIOGRAPH_HOME={PLACE}/home", "PYTHONUNBUFFERED=1"],
            "Labels": labels,
            "StopSignal": "SIGTERM",
            "HostConfig": dict(host),
        }  # fmt: skip
        for key, value in (("User", options.get("user")), ("WorkingDir", options.get("working_dir"))):
            if value:
                body[key] = str(value)
        if "entrypoint" in options:
            body["Entrypoint"] = list(options["entrypoint"])
        if options.get("ports"):
            body["ExposedPorts"] = {_port(port): {} for port in options["ports"]}
        if more or (mode and not is_mode(mode)):
            body["NetworkingConfig"] = {"EndpointsConfig": {mode: {}}}
        policy = str(options.get("pull_policy") or self._agent.pull_policy)
        if policy and policy not in PULL_POLICIES:
            raise _refusal(f"pull_policy is one of {', '.join(PULL_POLICIES)}, not {policy!r}")
        facts = PlanFacts(
            image=image,
            env=tuple(sorted(self._settings.env)),
            mounts=tuple(volume.fact for volume in asked if volume.fact),
            cpu_millis=self._cpu_millis(host),
            memory_bytes=max(int(host.get("Memory") or 0), int(host.get("MemorySwap") or 0), 0),
            privileged=privileged,
            unlimited=("memory",) if int(host.get("MemorySwap") or 0) < 0 else (),
            options=tuple(sorted({*options} - {"host_config"} | {f"host_config.{key}" for key in self._host})),
        )
        return DockerPlan(
            spec, facts, name, image, policy or default_policy(image), str(options.get("platform", "")), body, more,
            timeout,
        )  # fmt: skip

    def _networks(self) -> tuple[str, tuple[str, ...]]:
        """Returns the network mode and the networks to join besides."""
        mode = self._options.get("network_mode") or self._host.get("network_mode")
        asked = [str(one) for one in self._options.get("networks", ())]
        networks = asked or ([str(mode)] if mode else list(self._agent.networks))
        modes = [one for one in networks if is_mode(one)]
        if modes and len(networks) > 1:
            raise _refusal(f"{modes[0]} is no network that can be joined besides others")
        return (networks[0] if networks else ""), tuple(networks[1:])

    def _volumes(self) -> list[Volume]:
        """Returns what the run config asks to mount, wherever it says so."""
        found = [parse_volume(one) for one in self._options.get("volumes", ())]
        binds = self._host.get("binds") or ()
        if isinstance(binds, Mapping):
            binds = docker.utils.convert_volume_binds(binds)
        found += [parse_volume(one) for one in binds]
        found += [parse_volume(one) for one in self._host.get("mounts") or ()]
        if taken := [one.target for one in found if one.target == PLACE or one.target.startswith(f"{PLACE}/")]:
            raise _refusal(f"{taken[0]} in the container is the agent's")
        return found

    def _privileged(self, volumes: Iterable[Volume]) -> tuple[str, ...]:
        """Names the rights that are asked for beyond those of an ordinary container."""
        words = {
            key for key, value in self._host.items() if key not in _ORDINARY and value not in (None, False, [], {})
        }
        words |= {f"cap_add {one}" for one in self._host.get("cap_add") or ()}
        words.discard("cap_add")
        if all(str(one).startswith("no-new-privileges") for one in self._host.get("security_opt") or ()):
            words.discard("security_opt")  # it takes rights away
        asked = self._options.get("network_mode") or self._host.get("network_mode") or ""
        for mode in (asked, *self._options.get("networks", ())):
            if mode == "host":
                words.add("host network")
            elif str(mode).startswith("container:"):
                words.add("network of another container")
        for key, what in (
            ("pid_mode", "processes"),
            ("ipc_mode", "memory"),
            ("userns_mode", "users"),
            ("uts_mode", "name"),
        ):
            if self._host.get(key) == "host":
                words.discard(key)
                words.add(f"host {what}")
        words |= {"npipe" for one in volumes if one.kind == "npipe"}
        if published := words & {"port_bindings", "publish_all_ports"}:
            words = (words - published) | {"host port"}
        return tuple(sorted(words))

    def _host_config(self, mode: str, volumes: Iterable[Volume], own: Volume) -> docker.types.HostConfig:
        given = {key: value for key, value in self._host.items() if key not in ("binds", "mounts", "network_mode")}
        options, settings = self._options, self._settings
        if "shm_size" in options:
            given["shm_size"] = options["shm_size"]
        if "ulimits" in options:
            given["ulimits"] = [_ulimit(name, value) for name, value in options["ulimits"].items()]
        if "gpus" in options:
            given["device_requests"] = [_gpus(options["gpus"])]
        if settings.memory_bytes or self._agent.memory_bytes:
            given.setdefault("mem_limit", settings.memory_bytes or self._agent.memory_bytes)
        cpus = settings.cpu_millis / 1000 or self._agent.cpus
        if cpus and not given.keys() & {"nano_cpus", "cpu_quota"}:
            given["nano_cpus"] = round(cpus * 1_000_000_000)
        hosts = self._extra_hosts(mode)
        given.pop("extra_hosts", None)
        if mode:
            given["network_mode"] = mode
        places = list(volumes)
        # Binds make folders of the host that are not there, as `docker run -v` does.
        binds = [one.bind() for one in places if one.kind in ("bind", "volume")]
        mounts = [own.mount(), *(one.mount() for one in places if one.kind not in ("bind", "volume"))]
        made = docker.types.HostConfig(version=_API_VERSION, binds=binds or None, **given)
        made["Mounts"] = mounts
        _hold(made, self._agent.most)
        if hosts:
            made["ExtraHosts"] = [f"{name}:{address}" for name, address in hosts.items()]
        return made

    def _extra_hosts(self, mode: str) -> dict[str, str]:
        """Returns names and addresses: the agent's, with the run config's over them."""
        if mode.startswith("container:"):
            return {}
        hosts = {} if mode in ("host", "none") else dict(self._agent.extra_hosts)
        for given in (self._host.get("extra_hosts"), self._options.get("extra_hosts")):
            hosts |= parse_hosts(given or {})
        return hosts

    @staticmethod
    def _cpu_millis(host: Mapping[str, Any]) -> int:
        if host.get("NanoCpus"):
            return int(host["NanoCpus"]) // 1_000_000
        if int(host.get("CpuQuota") or 0) > 0:
            return int(host["CpuQuota"]) * 1000 // int(host.get("CpuPeriod") or 100_000)
        return 0


def _hold(host: MutableMapping[str, Any], most: Most) -> None:
    """Makes the policy's maximum the limit where the engine would know none."""
    if most.memory_bytes:
        swap = int(host.get("MemorySwap") or 0)
        if int(host.get("Memory") or 0) <= 0:
            host["Memory"] = min(most.memory_bytes, swap) if swap > 0 else most.memory_bytes
        if not swap:
            host["MemorySwap"] = host["Memory"]  # where nothing is said, the engine gives as much again
    if most.cpu_millis and int(host.get("NanoCpus") or 0) <= 0 and int(host.get("CpuQuota") or 0) <= 0:
        host.pop("CpuQuota", None)
        if period := int(host.get("CpuPeriod") or 0):  # the engine takes it with a quota alone
            host["CpuQuota"] = most.cpu_millis * period // 1000
        else:
            host["NanoCpus"] = most.cpu_millis * 1_000_000


def parse_hosts(given: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Reads names and addresses, from a mapping or from `NAME:ADDRESS` texts.

    Raises:
        ValueError: A text has no address.
    """
    if isinstance(given, Mapping):
        return {str(name): str(address) for name, address in given.items()}
    hosts = {}
    for text in given:
        name, colon, address = text.partition(":")
        if not name or not colon or not address:
            raise ValueError(f"{text!r} is not NAME:ADDRESS")
        hosts[name] = address
    return hosts


def default_policy(image: str) -> str:
    """Returns when an image is pulled where nobody says: always, when its name may mean another one tomorrow."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _port(given: Any) -> str:
    text = str(given)
    number, _, protocol = text.partition("/")
    if not number.isdecimal() or protocol not in ("", "tcp", "udp", "sctp"):
        raise _refusal(f"{given!r} is no port")
    return f"{number}/{protocol or 'tcp'}"


def _ulimit(name: str, value: Any) -> docker.types.Ulimit:
    soft, hard = (value, value) if isinstance(value, int) else value
    return docker.types.Ulimit(name=name, soft=int(soft), hard=int(hard))


def _gpus(given: Any) -> docker.types.DeviceRequest:
    capabilities = [["gpu"]]
    if given == "all":
        return docker.types.DeviceRequest(count=-1, capabilities=capabilities)
    if isinstance(given, int) or (isinstance(given, str) and given.isdecimal()):
        return docker.types.DeviceRequest(count=int(given), capabilities=capabilities)
    ids = given.removeprefix("device=").split(",") if isinstance(given, str) else [str(one) for one in given]
    return docker.types.DeviceRequest(device_ids=ids, capabilities=capabilities)


def _refusal(message: str) -> LaunchError:
    return LaunchError(message, FailureCode.LAUNCH_SETTINGS)
