"""What a Docker container is made of, without an engine: volumes, networks, rights, images, users, verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import InvalidArgumentError
from heliograph.run_configs import DockerRun
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import BundleSpec, ExitKind, LaunchError, RunSpec
from heliograph_agents.launchers.address import address_inside
from heliograph_agents.launchers.docker.images import split
from heliograph_agents.launchers.docker.offer import Owner, owner_of
from heliograph_agents.launchers.docker.options import DockerOptions
from heliograph_agents.launchers.docker.plan import DockerPlan, default_policy, make_plan
from heliograph_agents.launchers.docker.verdict import verdict
from heliograph_agents.launchers.docker.volumes import Volume, parse_volume
from heliograph_agents.most import Most
from heliograph_agents.policy import Policy

SPEC = RunSpec(
    "projects/p/flowRuns/r1", "projects/p/flows/f/versions/1", "brave-otter", 3, 1, "{}",
    BundleSpec("local", "/x", "", "", False, "", ""), "", 0,
)  # fmt: skip


def planned(agent: DockerOptions | None = None, **asked: Any) -> DockerPlan:
    """Plans a container."""
    settings = DockerRun(**{"image": "flows:1", **asked}).launch_settings()
    return make_plan(SPEC, settings, agent or DockerOptions(), {"heliograph.io/agent": "a"})


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/data:/in", Volume("/data", "/in")),
        ("/data:/in:ro", Volume("/data", "/in", "ro")),
        ("models:/models:ro", Volume("models", "/models", "ro", "volume")),
        ("/scratch", Volume("", "/scratch", "", "volume")),
        (r"C:\data:/in", Volume(r"C:\data", "/in")),
        (r"c:/data:/in:ro,z", Volume("c:/data", "/in", "ro,z")),
        (r"C:\data:D:\in:ro", Volume(r"C:\data", r"D:\in", "ro")),
        ({"type": "bind", "source": "/a", "target": "/b", "read_only": True}, Volume("/a", "/b", "ro")),
        ({"Type": "tmpfs", "Target": "/t"}, Volume("", "/t", "", "tmpfs")),
    ],
)
def test_volumes_are_read_as_people_write_them(text: Any, volume: Volume) -> None:
    assert parse_volume(text) == volume


@pytest.mark.parametrize(
    "text",
    ["", "relative/path:/in", "/a:in", "/a:/b:ro:/c", "/a:/../b", {"type": "bind", "target": "/b"}, {"what": 1}],
)
def test_what_is_no_volume_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"volume|mount"):
        parse_volume(text)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, ()),
        ({"network_mode": "host"}, ("host network",)),
        ({"networks": ["host"]}, ("host network",)),
        ({"network_mode": "container:other"}, ("network of another container",)),
        ({"host_config": {"privileged": True}}, ("privileged",)),
        ({"host_config": {"cap_add": ["SYS_ADMIN"]}}, ("cap_add SYS_ADMIN",)),
        ({"host_config": {"pid_mode": "host", "devices": ["/dev/kvm"]}}, ("devices", "host processes")),
        ({"host_config": {"security_opt": ["seccomp=unconfined"]}}, ("security_opt",)),
        ({"host_config": {"volumes_from": ["other"]}}, ("volumes_from",)),
        ({"host_config": {"port_bindings": {"80/tcp": 8080}}}, ("host port",)),
        ({"ports": [80], "host_config": {"publish_all_ports": True}}, ("host port",)),
        ({"ports": [80]}, ()),
        ({"host_config": {"mem_limit": "1g", "cap_drop": ["ALL"], "read_only": True}}, ()),
    ],
)
def test_rights_beyond_the_ordinary_are_named_to_the_policy(asked: dict[str, Any], words: tuple[str, ...]) -> None:
    assert planned(**asked).facts.privileged == words


def test_a_mount_is_a_fact_wherever_it_is_asked_for() -> None:
    plan = planned(
        DockerOptions(volumes=(Volume("/owner", "/o"),)),
        volumes=["/a:/a:ro"],
        host_config={
            "binds": {"/b": {"bind": "/b", "mode": "rw"}},
            "mounts": [{"Type": "bind", "Source": "/c", "Target": "/c"}],
        },
    )
    assert plan.facts.mounts == ("/a:ro", "/b", "/c"), "and the owner's own is none"
    assert plan.body["HostConfig"]["Binds"] == ["/owner:/o", "/a:/a:ro", "/b:/b:rw", "/c:/c"]


def test_memory_and_processors_are_facts_wherever_they_are_asked_for() -> None:
    assert planned(mem_limit="2g", cpus=1.5).facts.memory_bytes == 2 * 2**30
    assert planned(host_config={"mem_limit": "3g"}).facts.memory_bytes == 3 * 2**30
    assert planned(cpus=1.5).facts.cpu_millis == 1500
    assert planned(host_config={"cpu_quota": 400_000}).facts.cpu_millis == 4000
    limited = DockerOptions(memory_bytes=2**20)
    assert planned(limited).body["HostConfig"]["Memory"] == 2**20


GIB = 2**30
POLICY = Policy(max_cpu_millis=2000, max_memory_bytes=4 * GIB)


@pytest.mark.parametrize(
    ("asked", "memory", "swap", "nano_cpus", "quota"),
    [
        ({}, 4 * GIB, 4 * GIB, 2_000_000_000, 0),
        ({"mem_limit": "1g", "cpus": 0.5}, GIB, GIB, 500_000_000, 0),
        ({"host_config": {"mem_limit": "1g", "memswap_limit": "2g"}}, GIB, 2 * GIB, 2_000_000_000, 0),
        ({"host_config": {"memswap_limit": "3g"}}, 3 * GIB, 3 * GIB, 2_000_000_000, 0),
        ({"host_config": {"mem_limit": -1, "nano_cpus": 0}}, 4 * GIB, 4 * GIB, 2_000_000_000, 0),
        ({"host_config": {"cpu_quota": -1}}, 4 * GIB, 4 * GIB, 2_000_000_000, 0),
        ({"host_config": {"cpu_period": 50_000}}, 4 * GIB, 4 * GIB, 0, 100_000),
        ({"host_config": {"cpu_quota": 50_000}}, 4 * GIB, 4 * GIB, 0, 50_000),
    ],
)
def test_the_policys_maximum_is_the_limit_of_who_asks_for_none(
    asked: dict[str, Any], memory: int, swap: int, nano_cpus: int, quota: int
) -> None:
    plan = planned(DockerOptions(most=POLICY.most), **asked)
    host = plan.body["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (memory, swap), "swap is no way out"
    assert (host.get("NanoCpus") or 0, host.get("CpuQuota") or 0) == (nano_cpus, quota)
    assert POLICY.refuse_plan(plan.facts) == []


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"mem_limit": "5g"}, "max_memory"),
        ({"host_config": {"mem_limit": "1g", "memswap_limit": "5g"}}, "max_memory"),
        ({"host_config": {"memswap_limit": -1}}, "max_memory"),
        ({"cpus": 3}, "max_cpu"),
        ({"host_config": {"cpu_quota": 300_000}}, "max_cpu"),
    ],
)
def test_more_than_the_maximum_is_refused_however_it_is_asked_for(asked: dict[str, Any], word: str) -> None:
    [refusal] = POLICY.refuse_plan(planned(DockerOptions(most=POLICY.most), **asked).facts)
    assert word in refusal
    assert Policy().refuse_plan(planned(**asked).facts) == []


def test_without_a_maximum_the_engine_is_told_of_no_limit() -> None:
    host = planned(DockerOptions(most=Most())).body["HostConfig"]
    assert not host.keys() & {"Memory", "MemorySwap", "NanoCpus", "CpuQuota"}


def test_what_an_author_asks_of_the_engine_is_asked_of_it() -> None:
    plan = planned(gpus="all", shm_size="1g", ulimits={"nofile": [1024, 4096], "core": 0}, platform="linux/arm64")
    host = plan.body["HostConfig"]
    assert host["DeviceRequests"] == [
        {"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert host["ShmSize"] == GIB
    assert host["Ulimits"] == [
        {"Name": "nofile", "Soft": 1024, "Hard": 4096}, {"Name": "core", "Soft": 0, "Hard": 0},
    ]  # fmt: skip
    assert plan.platform == "linux/arm64"
    assert plan.facts.privileged == ()
    assert {"gpus", "shm_size", "ulimits", "platform"} <= set(plan.facts.options)
    for asked, count, ids in ((2, 2, []), ("device=0,GPU-1", 0, ["0", "GPU-1"])):
        [request] = planned(gpus=asked).body["HostConfig"]["DeviceRequests"]
        assert (request["Count"], request["DeviceIDs"]) == (count, ids)


def test_networks_hosts_and_the_own_volume() -> None:
    plan = planned(DockerOptions(networks=("shared",)), networks=["a", "b"], extra_hosts=["db:10.0.0.1"])
    host = plan.body["HostConfig"]
    assert (host["NetworkMode"], plan.more_networks) == ("a", ("b",))
    assert host["ExtraHosts"] == ["host.docker.internal:host-gateway", "db:10.0.0.1"]
    assert host["Mounts"][0]["Source"] == plan.name == "heliograph-r1-3"
    assert planned(DockerOptions(networks=("shared",))).body["HostConfig"]["NetworkMode"] == "shared"


@pytest.mark.parametrize(
    "asked",
    [
        {"host_config": {"auto_remove": True}},
        {"host_config": {"restart_policy": {"Name": "always"}}},
        {"host_config": {"nonsense": 1}},
        {"volumes": ["/x:/heliograph/offer"]},
        {"container_labels": {"heliograph.io/agent": "another"}},
        {"networks": ["host", "a"]},
        {"image": None},
        {"ports": ["x"]},
    ],
)
def test_what_cannot_be_is_refused_before_the_engine_hears_of_it(asked: dict[str, Any]) -> None:
    with pytest.raises(LaunchError) as caught:
        planned(**asked)
    assert caught.value.failure is FailureCode.LAUNCH_SETTINGS


@pytest.mark.parametrize(
    ("image", "policy", "parts"),
    [
        ("flows", "Always", ("flows", "latest")),
        ("flows:latest", "Always", ("flows", "latest")),
        ("reg:5000/flows", "Always", ("reg:5000/flows", "latest")),
        ("reg:5000/a/flows:7", "IfNotPresent", ("reg:5000/a/flows", "7")),
        ("reg:5000/flows@sha256:ab", "IfNotPresent", ("reg:5000/flows", "sha256:ab")),
        ("reg:5000/flows:7@sha256:ab", "IfNotPresent", ("reg:5000/flows", "sha256:ab")),
    ],
)
def test_images(image: str, policy: str, parts: tuple[str, str]) -> None:
    assert default_policy(image) == policy
    assert split(image) == parts


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("", Owner(0, 0)),
        ("1000", Owner(1000, 100)),
        ("1001", Owner(1001, 0)),
        ("flow", Owner(1000, 100)),
        ("flow:staff", Owner(1000, 50)),
        ("5:6", Owner(5, 6)),
    ],
)
def test_users(user: str, owner: Owner) -> None:
    files = {"/etc/passwd": "root:x:0:0::/:\nflow:x:1000:100::/home:\nbroken\n", "/etc/group": "staff:x:50:\n"}
    assert owner_of(user, files.__getitem__) == owner


@pytest.mark.parametrize(
    ("state", "printed", "reason"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "", FailureCode.OUT_OF_MEMORY),
        ({"ExitCode": 137}, "", FailureCode.SIGNAL),
        ({"ExitCode": 1}, "python: No module named heliograph_agents", FailureCode.LAUNCH_SETTINGS),
        ({"ExitCode": 127}, "sh: python: not found", FailureCode.LAUNCH_SETTINGS),
        ({"ExitCode": 255}, "", FailureCode.HOST_RESTARTED),
        ({"ExitCode": 78}, "", FailureCode.SUPERVISOR_DIED),
        ({"ExitCode": 9}, "", FailureCode.EXIT_CODE),
    ],
)
def test_ends_without_a_word(state: dict[str, Any], printed: str, reason: FailureCode) -> None:
    found = exit_of(
        verdict(
            {"FinishedAt": "2026-01-02T03:04:05.123456789Z", **state},
            killed_by_us=False,
            stopped_by_us=False,
            printed=printed,
        )
    )
    assert (found.kind, found.reason) == (ExitKind.DIED, reason)
    assert found.time_micros == 1_767_323_045_123_456
    assert found.hint


def test_containers_must_reach_the_control_plane() -> None:
    def inside(address: str, advertised: str, tls: dict[str, Any] | None = None) -> str:
        return address_inside(address, advertised, tls or {}, what="task", advice="for example there:4480")

    assert inside("plane:4480", "") == "plane:4480"
    with pytest.raises(InvalidArgumentError, match="tasks cannot reach") as refused:
        inside("127.0.0.1:4480", "")
    assert "there:4480" in str(refused.value.hint)
    with pytest.raises(InvalidArgumentError, match="plain text"):
        inside("127.0.0.1:4480", "host.docker.internal:4480")
    assert inside("localhost:4480", "gateway:4480", {"insecure": True}) == "gateway:4480"


def test_arguments_of_prefect_1_come_first() -> None:
    run = DockerRun("flows:1", {"A": "1"}, ["gpu"], [8080], {"mem_limit": "1g"})
    settings = run.launch_settings()
    assert (settings.image, settings.labels, settings.launcher) == ("flows:1", ("gpu",), "docker")
    assert settings.options == {"ports": [8080], "host_config": {"mem_limit": "1g"}}
    with pytest.raises(TypeError, match="JSON"):
        DockerRun(host_config={"ulimits": [object()]})
