"""What a flow could ask of a platform to get more than an agent's policy gives, kind by kind of platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.integration.hostile.platforms import IMAGE

from heliograph_agents.launchers.kubernetes.names import OFFER, OFFER_VOLUME, PREFIX

OTHER = f"registry.evil/flows/a@sha256:{64 * '0'}"
UNTAGGED = "registry.test/flows/a:1"
ROLE = "arn:aws:iam::123456789012:role/admin"


@dataclass(frozen=True)
class Ask:
    """Launch settings, and what is to be said to them.

    Attributes:
        asked: Fields of the launch settings.
        rules: Keys of the policy that each refuse it; none where no policy could allow it.
        words: What the agent's log says of it.
    """

    asked: dict[str, Any]
    rules: tuple[str, ...]
    words: str


def _options(words: str, rule: str, **options: Any) -> Ask:
    return Ask({"options": options}, (rule,), words)


def _never(words: str, **options: Any) -> Ask:
    return Ask({"options": options}, (), words)


EVERYWHERE: dict[str, Ask] = {
    "an image from elsewhere": Ask({"image": OTHER}, ("images",), f"image {OTHER} is not among images"),
    "an image without a digest": Ask({"image": UNTAGGED}, ("require_image_digest",), "has no digest"),
    "a variable": Ask({"env": {"LD_PRELOAD": "/x.so"}}, ("env",), "variable LD_PRELOAD"),
    "too much memory": Ask({"memory_bytes": 2**31}, ("max_memory",), "more than max_memory"),
    "too many cores": Ask({"cpu_millis": 64_000}, ("max_cpu",), "64 cores are more than max_cpu"),
    "an option that does not exist": _never("know no option surprise", surprise=1),
}


def _host(words: str, **host: Any) -> Ask:
    return _options(words, "privileged", host_config=host)


DOCKER: dict[str, Ask] = {
    "an option": _options("option working_dir", "options", working_dir="/"),
    "the host's disk": _options("mount / is not", "mounts", volumes=["/:/host"]),
    "the host's disk, to read": _options("mount /:ro is not", "mounts", volumes=["/:/host:ro"]),
    "a folder to write that may be read": _options("mount /data/a is not", "mounts", volumes=["/data/a:/a"]),
    "a way out of a folder": _options("mount /data/../etc:ro", "mounts", volumes=["/data/../etc:/e:ro"]),
    "the engine's socket": _options(
        "mount /var/run/docker.sock", "mounts", host_config={"binds": ["/var/run/docker.sock:/s"]}
    ),
    "a mapping of binds": _options(
        "mount /etc:ro", "mounts", host_config={"binds": {"/etc": {"bind": "/e", "mode": "ro"}}}
    ),
    "a mount as a mapping": _options(
        "mount /etc is not", "mounts", host_config={"mounts": [{"type": "bind", "source": "/etc", "target": "/e"}]}
    ),
    "somebody's volume": _options("mount wages is not", "mounts", volumes=["wages:/w"]),
    "all rights": _host("privileged is not among privileged", privileged=True),
    "a capability": _host("cap_add SYS_ADMIN", cap_add=["SYS_ADMIN"]),
    "devices": _host("devices is not", devices=["/dev/sda:/dev/sda:rwm"]),
    "devices by rule": _host("device_cgroup_rules", device_cgroup_rules=["c *:* rwm"]),
    "no confinement": _host("security_opt", security_opt=["seccomp=unconfined", "no-new-privileges"]),
    "the host's processes": _host("host processes", pid_mode="host"),
    "another container's processes": _host("pid_mode", pid_mode="container:other"),
    "the host's memory": _host("host memory", ipc_mode="host"),
    "the host's users": _host("host users", userns_mode="host"),
    "the host's name": _host("host name", uts_mode="host"),
    "the host's control groups": _host("cgroupns", cgroupns="host"),
    "another control group": _host("cgroup_parent", cgroup_parent="/"),
    "settings of the kernel": _host("sysctls", sysctls={"net.ipv4.ip_forward": "1"}),
    "another container's volumes": _host("volumes_from", volumes_from=["other"]),
    "another runtime": _host("runtime", runtime="other"),
    "a port of the host": _host("host port", port_bindings={"80": 80}),
    "all ports of the host": _host("host port", publish_all_ports=True),
    "the host's network": _options("host network", "privileged", network_mode="host"),
    "the host's network as one of many": _options("host network", "privileged", networks=["host"]),
    "the host's network in the host's settings": _host("host network", network_mode="host"),
    "another container's network": _options("network of another", "privileged", network_mode="container:other"),
    "memory in the host's settings": _options("max_memory", "max_memory", host_config={"mem_limit": "2g"}),
    "memory that is swapped out": _options("max_memory", "max_memory", host_config={"memswap_limit": -1}),
    "cores in the host's settings": _options("max_cpu", "max_cpu", host_config={"nano_cpus": 64 * 10**9}),
    "cores as a quota": _options("max_cpu", "max_cpu", host_config={"cpu_quota": 6_400_000}),
    "to be started again": _never("cannot set restart_policy", host_config={"restart_policy": {"Name": "always"}}),
    "to leave no end": _never("cannot set auto_remove", host_config={"auto_remove": True}),
    "labels of the agent": _never("are the agent's", container_labels={"heliograph.io/agent": "b"}),
    "the place of the offer": _never("is the agent's", volumes=["/data/x:/heliograph/offer:ro"]),
}


_SMALL = {"resources": {"limits": {"cpu": "100m", "memory": "16Mi"}}}


def _pod(words: str, rule: str, **spec: Any) -> Ask:
    return _options(words, rule, pod_patch={"spec": spec})


def _flow(words: str, rule: str, **container: Any) -> Ask:
    return _pod(words, rule, containers=[{"name": "flow", **container}])


def _volume(words: str, **source: Any) -> Ask:
    return _options(words, "mounts", volumes=[{"name": "v", "mountPath": "/v", **source}])


_LARGE = {"limits": {"cpu": "1", "memory": "2Gi"}}
_UNCONFINED = {"container.apparmor.security.beta.kubernetes.io/flow": "unconfined"}

KUBERNETES: dict[str, Ask] = {
    "an option": _options("option gpu", "options", gpu=1),
    "another image by a patch": _flow(f"image {OTHER}", "images", image=OTHER),
    "another image by a JSON patch": _options(
        f"image {OTHER}", "images",
        json_patch=[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": OTHER}],
    ),
    "a container beside": _pod(f"image {OTHER}", "images", containers=[{"name": "side", "image": OTHER, **_SMALL}]),
    "a container before": _pod(
        f"image {OTHER}", "images", initContainers=[{"name": "first", "image": OTHER, **_SMALL}]
    ),
    "an image as a volume": _volume("mount image", image={"reference": IMAGE}),
    "a variable by a patch": _flow("variable LD_PRELOAD", "env", env=[{"name": "LD_PRELOAD", "value": "/x.so"}]),
    "the node's disk": _volume("mount / is not", hostPath={"path": "/"}),
    "the node's disk, to read": _volume("mount /:ro is not", hostPath={"path": "/"}, readOnly=True),
    "a folder to write that may be read": _volume("mount /data/a is not", hostPath={"path": "/data/a"}),
    "a way out of a folder": _volume("/data/../etc:ro is not", hostPath={"path": "/data/../etc"}, readOnly=True),
    "the node's disk in another template": _options(
        "mount / is not", "mounts",
        job_template={"spec": {"containers": [{"name": "flow", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                               "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}},
    ),
    "somebody's claim": _volume("mount pvc/wages", persistentVolumeClaim={"claimName": "wages"}),
    "a secret": _volume("mount secret/wages", secret={"secretName": "wages"}),
    "a secret among others": _volume("mount secret/wages", projected={"sources": [{"secret": {"name": "wages"}}]}),
    "a token": _volume("mount serviceAccountToken", projected={"sources": [{"serviceAccountToken": {"path": "t"}}]}),
    "a driver's volume": _volume("mount csi", csi={"driver": "any"}),
    "a secret as variables": _options("secret/wages:ro", "mounts", env_from=[{"secretRef": {"name": "wages"}}]),
    "a secret as one variable": _flow(
        "secret/wages:ro", "mounts",
        env=[{"name": "APP_X", "valueFrom": {"secretKeyRef": {"name": "wages", "key": "k"}}}],
    ),
    "all rights": _flow("privileged is not", "privileged", securityContext={"privileged": True}),
    "all rights beside": _pod(
        "privileged is not", "privileged",
        containers=[{"name": "side", "image": IMAGE, **_SMALL, "securityContext": {"privileged": True}}],
    ),
    "all rights before": _pod(
        "privileged is not", "privileged",
        initContainers=[{"name": "first", "image": IMAGE, **_SMALL, "securityContext": {"privileged": True}}],
    ),
    "a capability": _flow(
        "cap_add SYS_ADMIN", "privileged", securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}
    ),
    "the kernel's files": _flow("procMount", "privileged", securityContext={"procMount": "Unmasked"}),
    "no confinement": _pod(
        "seccompProfile Unconfined", "privileged", securityContext={"seccompProfile": {"type": "Unconfined"}}
    ),
    "no confinement by a note": _options("appArmorProfile", "privileged", pod_annotations=_UNCONFINED),
    "settings of the kernel": _pod("sysctls", "privileged", securityContext={"sysctls": [{"name": "a", "value": "1"}]}),
    "the node's network": _pod("host network", "privileged", hostNetwork=True),
    "the node's processes": _pod("host processes", "privileged", hostPID=True),
    "the node's memory": _pod("host memory", "privileged", hostIPC=True),
    "the node's users": _pod("host users", "privileged", hostUsers=True),
    "a port of the node": _flow("host port", "privileged", ports=[{"containerPort": 80, "hostPort": 80}]),
    "a service account": _options("identity admin", "identities", service_account_name="admin"),
    "a service account by its old name": _pod("identity admin", "identities", serviceAccount="admin"),
    "a service account's token": _pod("identity default", "identities", automountServiceAccountToken=True),
    "a service account by a JSON patch": _options(
        "identity default", "identities",
        json_patch=[{"op": "remove", "path": "/spec/template/spec/automountServiceAccountToken"}],
    ),
    "memory without a limit": _pod(
        "more bytes than max_memory", "max_memory",
        containers=[{"name": "side", "image": IMAGE, "resources": {"limits": {"cpu": "1"}}}],
    ),
    "memory by its limit": _options("max_memory", "max_memory", memory_limit="2Gi"),
    "memory beside": _pod(
        "max_memory", "max_memory", containers=[{"name": "side", "image": IMAGE, "resources": _LARGE}]
    ),
    "memory before": _pod(
        "max_memory", "max_memory", initContainers=[{"name": "first", "image": IMAGE, "resources": _LARGE}]
    ),
    "cores by their limit": _options("max_cpu", "max_cpu", cpu_limit="64"),
    "another namespace": _never("does not use the namespace kube-system", namespace="kube-system"),
    "the place of the offer": _never(
        "is the agent's", volumes=[{"name": "v", "emptyDir": {}, "mountPath": f"{OFFER}/../offer"}]
    ),
    "the offer for another container": _never(
        "is the agent's", pod_patch={"spec": {"containers": [
            {"name": "side", "image": IMAGE, "volumeMounts": [{"name": OFFER_VOLUME, "mountPath": "/o"}]}
        ]}},
    ),
    "another run's secret": _never(
        "of an attempt", env_from=[{"secretRef": {"name": f"{PREFIX}0123"}}]
    ),
    "labels of the agent": _never("are the agent's", pod_labels={"heliograph.io/agent": "b"}),
    "a patch of nowhere": _never(
        "cannot be made", json_patch=[{"op": "replace", "path": "/spec/../metadata/namespace", "value": "kube-system"}]
    ),
    "a Job that is none": _never("is a Job, a PodTemplate or a Pod", job_template={"kind": "DaemonSet"}),
}  # fmt: skip


def _definition(words: str, rule: str, **definition: Any) -> Ask:
    return _options(words, rule, task_definition=definition)


def _container(words: str, rule: str, **container: Any) -> Ask:
    return _definition(words, rule, containerDefinitions=[{"name": "flow", **container}])


def _run_task(words: str, rule: str, **arguments: Any) -> Ask:
    return _options(words, rule, run_task_kwargs=arguments)


_UNSEEN = ("images", "require_image_digest", "mounts", "identities", "privileged", "max_cpu", "max_memory")
_DRIVER = {"driver": "local", "driverOpts": {"type": "none", "o": "bind", "device": "/etc"}}

ECS: dict[str, Ask] = {
    "an option": _options("option container", "options", container="flow"),
    "a container beside": _definition(
        f"image {OTHER}", "images", containerDefinitions=[{"name": "flow"}, {"name": "side", "image": OTHER}]
    ),
    "a definition that is not seen": Ask(
        {"options": {"task_definition_arn": "evil:1"}}, _UNSEEN, "image task-definition:evil:1"
    ),
    "a definition from elsewhere": Ask(
        {"options": {"task_definition_path": "s3://evil/d.json"}}, _UNSEEN, "image task-definition:s3://evil/d.json"
    ),
    "a variable by an override": _run_task(
        "variable LD_PRELOAD", "env",
        overrides={"containerOverrides": [{"name": "flow", "environment": [{"name": "LD_PRELOAD", "value": "x"}]}]},
    ),
    "a variable by a definition": _container(
        "variable LD_PRELOAD", "env", environment=[{"name": "LD_PRELOAD", "value": "x"}]
    ),
    "a secret as a variable": _container(
        "variable WAGES", "env", secrets=[{"name": "WAGES", "valueFrom": "arn:aws:ssm:eu-west-1:1:parameter/wages"}]
    ),
    "the host's disk": _definition("mount / is not", "mounts", volumes=[{"name": "v", "host": {"sourcePath": "/"}}]),
    "a file system": _definition(
        "mount efs:fs-1", "mounts", volumes=[{"name": "v", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}]
    ),
    "somebody's volume": _definition(
        "mount volume:wages", "mounts", volumes=[{"name": "wages", "dockerVolumeConfiguration": {"scope": "shared"}}]
    ),
    "a driver's way to the host": _definition(
        "mount /etc is not", "mounts", volumes=[{"name": "v", "dockerVolumeConfiguration": _DRIVER}]
    ),
    "somebody's disk": _run_task(
        "mount ebs:snap-1", "mounts",
        volumeConfigurations=[{"name": "v", "managedEBSVolume": {"snapshotId": "snap-1", "roleArn": "flows-ebs"}}],
    ),
    "all rights": _container("privileged is not", "privileged", privileged=True),
    "a capability": _container(
        "cap_add SYS_ADMIN", "privileged", linuxParameters={"capabilities": {"add": ["SYS_ADMIN"]}}
    ),
    "devices": _container("devices is not", "privileged", linuxParameters={"devices": [{"hostPath": "/dev/sda"}]}),
    "no confinement": _container("security_opt", "privileged", dockerSecurityOptions=["apparmor:unconfined"]),
    "all rights beside": _definition(
        "privileged is not", "privileged",
        containerDefinitions=[{"name": "flow"}, {"name": "side", "image": IMAGE, "privileged": True}],
    ),
    "the host's network": _definition("host network", "privileged", networkMode="host"),
    "the host's processes": _definition("host processes", "privileged", pidMode="host"),
    "the host's memory": _definition("host memory", "privileged", ipcMode="host"),
    "a port of the host": _container("host port", "privileged", portMappings=[{"containerPort": 80, "hostPort": 80}]),
    "any port of the host": _container("host port", "privileged", portMappings=[{"containerPort": 80}]),
    "a task role": _options(f"identity {ROLE}", "identities", task_role_arn=ROLE),
    "an execution role": _options(f"identity {ROLE}", "identities", execution_role_arn=ROLE),
    "a role by a definition": _definition(f"identity {ROLE}", "identities", taskRoleArn=ROLE),
    "a role by an override": _run_task(f"identity {ROLE}", "identities", overrides={"executionRoleArn": ROLE}),
    "a role for a disk": _run_task(
        f"identity {ROLE}", "identities",
        volumeConfigurations=[{"name": "v", "managedEBSVolume": {"sizeInGiB": 1, "roleArn": ROLE}}],
    ),
    "memory by an override": _run_task("max_memory", "max_memory", overrides={"memory": "4096"}),
    "memory of a container": _container("max_memory", "max_memory", memory=4096),
    "memory of a container by an override": _run_task(
        "max_memory", "max_memory", overrides={"containerOverrides": [{"name": "flow", "memory": 4096}]}
    ),
    "cores by a definition": _definition("max_cpu", "max_cpu", cpu="65536"),
    "another cluster": _never("their agent's cluster", run_task_kwargs={"cluster": "other"}),
    "to be started again": _never(
        "cannot have a restartPolicy",
        task_definition={"containerDefinitions": [{"name": "flow", "restartPolicy": {"enabled": True}}]},
    ),
    "tags of the agent": _never("are the agent's", tags={"heliograph.io/agent": "b"}),
}  # fmt: skip

ASKED: dict[str, dict[str, Ask]] = {
    "docker": {**EVERYWHERE, **DOCKER},
    "kubernetes": {**EVERYWHERE, **KUBERNETES},
    "ecs": {**EVERYWHERE, **ECS},
}
