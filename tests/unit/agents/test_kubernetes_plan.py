"""What a Job is made of, without a cluster: layers, patches, what cannot be patched away, what a policy judges."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliograph.engine.codes import FailureCode
from heliograph.run_configs import KubernetesRun
from heliograph.storage import LaunchSettings
from heliograph.utilities.merging import PatchError, apply_json_patch, merge
from heliograph.utilities.quantities import parse_quantity
from heliograph_agents.container import EXIT_STARTED_BEFORE, EXIT_WITHDRAWN, POD_VARIABLE, main
from heliograph_agents.launcher import BundleSpec, LaunchError, RunSpec
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.manifest import Owner
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.plan import KubernetesPlan, make_plan
from heliograph_agents.policy import Policy

RUN = "01a20569-cb68-7138-8d91-bcef2f1ca446"
SPEC = RunSpec(
    f"projects/p/flowRuns/{RUN}", "projects/p/flows/Daily Load!/versions/1", "brave-otter", 3, 1, "{}",
    BundleSpec("local", "/x", "", "", False, "", ""), "", 0,
)  # fmt: skip
OWNER = Owner("agent", "pool", 25.0)


def planned(agent: KubernetesOptions | None = None, **asked: Any) -> KubernetesPlan:
    """Plans a Job as a flow asks for it."""
    return plan_of(KubernetesRun(**{"image": "flows:1", **asked}).launch_settings(), agent)


def plan_of(settings: LaunchSettings, agent: KubernetesOptions | None = None) -> KubernetesPlan:
    """Plans a Job."""
    return make_plan(SPEC, settings, agent or KubernetesOptions(), OWNER, ("flows", "more"))


def pod_of(plan: KubernetesPlan) -> dict[str, Any]:
    """Returns the pod's spec."""
    found: dict[str, Any] = plan.job["spec"]["template"]["spec"]
    return found


def flow_of(plan: KubernetesPlan) -> dict[str, Any]:
    """Returns the container of the flow."""
    return next(one for one in pod_of(plan)["containers"] if one["name"] == "flow")


def assert_ours(job: Any) -> None:
    """Looks at all that makes an attempt one."""
    body, template = job["spec"], job["spec"]["template"]
    pod = template["spec"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["metadata"]["name"] == names.job_name(SPEC)
    assert job["metadata"]["namespace"] == "flows"
    for meta in (job["metadata"], template["metadata"]):
        assert names.labels_of(SPEC, "pool").items() <= meta["labels"].items()
        assert meta["annotations"]["heliograph.io/flow-run"] == SPEC.flow_run
        assert meta["annotations"]["heliograph.io/epoch"] == "3"
    assert (body["backoffLimit"], body["parallelism"], body["completions"]) == (0, 1, 1)
    assert not body.keys() & {"suspend", "podFailurePolicy", "selector", "managedBy", "backoffLimitPerIndex"}
    assert body["ttlSecondsAfterFinished"] == 86400
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 25
    flows = [one for one in pod["containers"] if one["name"] == "flow"]
    assert len(flows) == 1
    [flow] = flows
    assert flow["command"][1:] == ["-m", "heliograph_agents.container", "/heliograph/offer", "--runs",
                                   "/heliograph/work/runs", "--termination-log", "/dev/termination-log"]  # fmt: skip
    assert "args" not in flow
    assert flow["terminationMessagePath"] == "/dev/termination-log"
    [offer] = [one for one in pod["volumes"] if one["name"] == "heliograph-offer"]
    assert offer["secret"]["secretName"] == job["metadata"]["name"]
    mounts = [(one["name"], mount) for one in [*pod["containers"], *(pod.get("initContainers") or [])]
              for mount in one.get("volumeMounts") or [] if mount["name"] == "heliograph-offer"]  # fmt: skip
    expected = {"name": "heliograph-offer", "mountPath": "/heliograph/offer", "readOnly": True}
    assert mounts == [("flow", expected)]
    [pod_uid] = [one for one in flow["env"] if one["name"] == POD_VARIABLE]
    assert pod_uid["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"


PATHS = st.sampled_from([
    "/metadata/name", "/metadata/namespace", "/metadata/labels", "/metadata/annotations", "/metadata", "/kind",
    "/apiVersion", "/spec/backoffLimit", "/spec/parallelism", "/spec/completions", "/spec/suspend", "/spec/selector",
    "/spec/ttlSecondsAfterFinished", "/spec/podFailurePolicy", "/spec/template/metadata/labels", "/spec/template",
    "/spec/template/spec/restartPolicy", "/spec/template/spec/terminationGracePeriodSeconds",
    "/spec/template/spec/containers", "/spec/template/spec/containers/0", "/spec/template/spec/containers/0/name",
    "/spec/template/spec/containers/0/command", "/spec/template/spec/containers/0/args",
    "/spec/template/spec/containers/0/env", "/spec/template/spec/containers/0/volumeMounts",
    "/spec/template/spec/containers/-", "/spec/template/spec/volumes", "/spec/template/spec/initContainers",
    "/spec/template/spec", "/spec", "",
])  # fmt: skip
MOUNT = st.fixed_dictionaries({
    "name": st.sampled_from(["heliograph-offer", "heliograph-work", "data"]),
    "mountPath": st.sampled_from(["/heliograph", "/heliograph/offer", "/heliograph/./offer/", "/data", "//heliograph"]),
})  # fmt: skip
CONTAINER = st.fixed_dictionaries(
    {"name": st.sampled_from(["flow", "other"]), "image": st.just("x:1")},
    optional={
        "command": st.just(["sh"]), "args": st.just(["-c", "true"]), "volumeMounts": st.lists(MOUNT, max_size=2),
        "env": st.just([{"name": POD_VARIABLE, "value": "me"}]), "terminationMessagePath": st.just("/tmp/x"),
    },
)  # fmt: skip
VOLUME = st.sampled_from([
    {"name": "heliograph-offer", "secret": {"secretName": "mine"}}, {"name": "data", "emptyDir": {}},
    {"name": "data", "secret": {"secretName": "helio-somebody-elses-1"}},
    {"name": "data", "projected": {"sources": [{"secret": {"name": "helio-somebody-elses-1"}}]}},
])  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 99),
    st.sampled_from(["Never", "OnFailure", "Always", "x", "helio-x"]),
    CONTAINER,
    st.lists(CONTAINER, max_size=2),
    st.lists(VOLUME, max_size=2),
    st.lists(MOUNT, max_size=2),
    st.just({"heliograph.io/agent": "other", "app": "x"}),
    st.just({"app": "x"}),
    st.just({}),
    st.just([]),
    st.fixed_dictionaries({"containers": st.lists(CONTAINER, max_size=2)}, optional={"volumes": st.lists(VOLUME)}),
)
OPERATION = st.fixed_dictionaries({"op": st.sampled_from(["add", "replace", "remove"]), "path": PATHS, "value": VALUES})
POD_PATCH = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.sampled_from([{"labels": {"app": "x"}}, {"labels": {"heliograph.io/agent": "x"}}, None]),
        "spec": st.fixed_dictionaries({}, optional={
            "restartPolicy": st.just("Always"), "containers": st.lists(CONTAINER, max_size=2),
            "initContainers": st.lists(CONTAINER, max_size=2), "volumes": st.lists(VOLUME, max_size=2),
            "terminationGracePeriodSeconds": st.integers(0, 9),
        }),
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(operations=st.lists(OPERATION, max_size=4), patch=POD_PATCH)
@example(operations=[{"op": "add", "path": "/spec/template/spec/initContainers", "value": None}], patch={})
def test_no_patch_takes_away_what_makes_an_attempt_one(operations: list[dict[str, Any]], patch: dict[str, Any]) -> None:
    given_settings = KubernetesRun(image="flows:1").launch_settings()
    options = {"json_patch": operations, "pod_patch": patch}
    asked = LaunchSettings(image=given_settings.image, options={key: value for key, value in options.items() if value})
    try:
        plan = plan_of(asked)
    except LaunchError:
        return
    assert_ours(plan.job)
    assert "helio-somebody" not in str(pod_of(plan))


def test_what_would_break_it_would_be_seen() -> None:
    """The planted twin: each of these, let through, is found by the same look."""
    job = copy.deepcopy(dict(planned().job))
    assert_ours(job)
    for path, value in (("/spec/backoffLimit", 3), ("/spec/template/spec/restartPolicy", "OnFailure"),
                        ("/metadata/name", "x"), ("/spec/template/spec/containers/0/command", ["sh"])):  # fmt: skip
        with pytest.raises(AssertionError):
            assert_ours(apply_json_patch(job, [{"op": "replace", "path": path, "value": value}]))


def test_layers_come_in_their_order() -> None:
    template = {"spec": {"template": {"spec": {"serviceAccountName": "of-template", "containers": [
        {"name": "side", "image": "side:1"}, {"name": "flow", "image": "of-template:1"}]}}}}  # fmt: skip
    agent = KubernetesOptions(template=template, image="of-agent:1", service_account="of-agent", cpu="1", memory="1Gi")
    plan = plan_of(LaunchSettings(), agent)
    assert (flow_of(plan)["image"], pod_of(plan)["serviceAccountName"]) == ("of-template:1", "of-template")
    assert flow_of(plan)["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    plan = planned(agent, service_account_name="of-run", cpu_limit="2", pod_patch={"spec": {"hostname": "patched"}})
    assert (flow_of(plan)["image"], pod_of(plan)["serviceAccountName"]) == ("flows:1", "of-run")
    assert flow_of(plan)["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert [one["name"] for one in pod_of(plan)["containers"]] == ["side", "flow"]
    own = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "main", "image": "own:1"}]}}
    plan = planned(agent, job_template=own, image=None,
                   json_patch=[{"op": "add", "path": "/metadata/labels", "value": {"team": "a"}}])  # fmt: skip
    assert [one["name"] for one in pod_of(plan)["containers"]] == ["flow"], "the first one is it"
    assert (flow_of(plan)["image"], pod_of(plan)["serviceAccountName"]) == ("own:1", "of-agent")
    assert plan.job["metadata"]["labels"]["team"] == "a"


def test_plain_fields_are_written_where_kubernetes_has_them() -> None:
    plan = planned(
        namespace="more", image_pull_policy="Always", image_pull_secrets=["r"], node_selector={"a": "b"},
        tolerations=[{"operator": "Exists"}], affinity={"nodeAffinity": {}}, env_from=[{"configMapRef": {"name": "c"}}],
        volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "d"}, "mountPath": "/d", "readOnly": True}],
        priority_class="high", runtime_class="gvisor", gpu=1, cpu_request=0.5, memory_limit="1Gi",
        ephemeral_storage="1Gi", pod_labels={"team": "a"}, pod_annotations={names.SAFE_TO_EVICT: "true"},
    )  # fmt: skip
    pod, flow = pod_of(plan), flow_of(plan)
    assert plan.job["metadata"]["namespace"] == "more"
    assert plan.handle.infrastructure == f"more/{names.job_name(SPEC)}"
    assert (pod["nodeSelector"], pod["priorityClassName"], pod["runtimeClassName"]) == ({"a": "b"}, "high", "gvisor")
    assert (pod["imagePullSecrets"], flow["imagePullPolicy"]) == ([{"name": "r"}], "Always")
    assert flow["resources"]["limits"] == {"memory": "1Gi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": 1}
    assert flow["resources"]["requests"] == {"cpu": 0.5, "ephemeral-storage": "1Gi"}
    assert {"name": "d", "mountPath": "/d", "readOnly": True} in flow["volumeMounts"]
    assert plan.job["spec"]["template"]["metadata"]["annotations"][names.SAFE_TO_EVICT] == "true"
    assert pod["automountServiceAccountToken"] is False
    facts = plan.facts
    assert facts.mounts == ("configmap/c:ro", "pvc/d:ro")
    assert (facts.cpu_millis, facts.memory_bytes) == (500, 2**30)
    assert planned().facts.identities == ()


@pytest.mark.parametrize(
    "asked",
    [
        {"image": None},
        {"namespace": "other"},
        {"pod_patch": {"spec": {"containers": [{"name": "flow", "env": [{"name": "N", "value": 1}]}]}}},
        {"pod_patch": {"spec": {"containers": [{"name": "Not_A_Name", "image": "x"}]}}},
        {
            "pod_patch": {
                "spec": {"containers": [{"name": "flow", "volumeMounts": [{"name": "no", "mountPath": "/x"}]}]}
            }
        },
        {"pod_patch": {"spec": {"containers": [{"name": "flow", "resources": {"limits": {"cpu": "many"}}}]}}},
        {"pod_labels": {"heliograph.io/run-id": "x"}},
        {"env_from": [{"secretRef": {"name": "helio-load-x-1"}}]},
        {"json_patch": [{"op": "test", "path": "/kind", "value": "Pod"}]},
        {"json_patch": [{"op": "remove", "path": "/spec/nothing"}]},
        {"job_template": {"kind": "Deployment"}},
    ],
)
def test_what_cannot_be_is_refused_before_the_cluster_hears_of_it(asked: dict[str, Any]) -> None:
    with pytest.raises(LaunchError) as caught:
        planned(**asked)
    assert caught.value.failure is FailureCode.LAUNCH_SETTINGS


def test_a_policy_judges_what_the_run_brings_and_not_what_the_owner_has_put_there() -> None:
    side = {"name": "side", "image": "side:1", "securityContext": {"privileged": True}}
    host = {"name": "data", "hostPath": {"path": "/data"}}
    own = {"name": "flow", "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}]}
    agent = KubernetesOptions(template={"spec": {"containers": [own, side], "volumes": [host]}})
    facts = planned(agent).facts
    assert (facts.mounts, facts.privileged, facts.more_images) == ((), (), ())
    patch = {"spec": {"hostNetwork": True, "serviceAccountName": "admin", "containers": [
        {"name": "flow", "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}},
         "volumeMounts": [{"mountPath": "/data", "name": "data", "readOnly": False}],
         "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"name": "more", "image": "evil:1"}]}}  # fmt: skip
    facts = planned(agent, pod_patch=patch).facts
    assert facts.mounts == ("/data", "secret/s:ro")
    assert facts.privileged == ("cap_add SYS_ADMIN", "host network", "privileged")
    assert facts.more_images == ("evil:1",)
    assert facts.identities == ("admin",)
    assert "A" in facts.env


GIB = 2**30
POLICY = Policy(max_cpu_millis=2000, max_memory_bytes=4 * GIB)


def _with(**resources: Any) -> dict[str, Any]:
    """Returns resources whose limits are these."""
    return {"resources": {"limits": resources}}


def _patch(*containers: Any, before: tuple[Any, ...] = ()) -> dict[str, Any]:
    return {"pod_patch": {"spec": {"containers": list(containers), "initContainers": list(before)}}}


SIDE = {"name": "side", "image": "side:1", **_with(cpu="500m", memory="1Gi")}
FIRST = {"name": "first", "image": "first:1", **_with(cpu="2", memory="4Gi")}


@pytest.mark.parametrize(
    ("asked", "cpu", "memory"),
    [
        ({}, "2000m", str(4 * GIB)),
        ({"memory_limit": "1Gi"}, "2000m", "1Gi"),
        ({"memory_request": "1Gi", "cpu_request": "1"}, "2000m", str(4 * GIB)),
        ({"json_patch": [{"op": "add", "path": "/spec/template/spec/containers/0/resources", "value":
                          {"limits": {"cpu": "0"}}}]}, "2000m", str(4 * GIB)),
        ({"json_patch": [{"op": "add", "path": "/spec/template/spec/containers/0/resources", "value": None}]},
         "2000m", str(4 * GIB)),
        (_patch(SIDE), "1500m", str(3 * GIB)),
        (_patch(SIDE, before=(FIRST,)), "1500m", str(3 * GIB)),
        (_patch(before=({**SIDE, "restartPolicy": "Always"},)), "1500m", str(3 * GIB)),
    ],
)  # fmt: skip
def test_the_policys_maximum_is_the_limit_of_who_asks_for_none(asked: dict[str, Any], cpu: str, memory: str) -> None:
    plan = planned(KubernetesOptions(most=POLICY.most), **asked)
    found = flow_of(plan)["resources"]
    assert (found["limits"]["cpu"], found["limits"]["memory"]) == (cpu, memory)
    assert POLICY.refuse_plan(plan.facts) == []
    if not asked:
        assert found["requests"] == {"cpu": "0", "memory": "0"}, "a maximum reserves nothing"
    if "memory_request" in asked:
        assert found["requests"] == {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"memory_limit": "5Gi"}, ["max_memory"]),
        ({"cpu_request": "3"}, ["max_cpu"]),
        (_patch({"name": "side", "image": "side:1", **_with(cpu="1")}), ["max_memory"]),
        (_patch({"name": "side", "image": "side:1"}), ["max_cpu", "max_memory"]),
        (_patch({"name": "side", "image": "side:1", **_with(cpu="1", memory="4Gi")}), ["max_memory"]),
        (_patch(before=({"name": "first", "image": "first:1", **_with(cpu="3", memory="5Gi")},)),
         ["max_cpu", "max_memory"]),
        (_patch(before=({**SIDE, "restartPolicy": "Always"}, FIRST)), ["max_cpu", "max_memory"]),
        ({"job_template": {"spec": {"containers": [{"name": "flow"}], "initContainers": [
            {"name": "first", "image": "first:1"}]}}}, ["max_cpu", "max_memory"]),
    ],
)  # fmt: skip
def test_more_than_the_maximum_is_refused_whichever_container_takes_it(asked: dict[str, Any], words: list[str]) -> None:
    refusals = POLICY.refuse_plan(planned(KubernetesOptions(most=POLICY.most), **asked).facts)
    assert [next(word for word in ("max_cpu", "max_memory") if word in one) for one in refusals] == words
    assert Policy().refuse_plan(planned(**asked).facts) == []


def test_containers_of_the_owners_template_may_have_no_limit_as_long_as_they_are_the_owners() -> None:
    mesh = {"name": "mesh", "image": "mesh:1"}
    agent = KubernetesOptions(template={"spec": {"containers": [{"name": "flow"}, mesh]}}, most=POLICY.most)
    assert POLICY.refuse_plan(planned(agent).facts) == []
    assert POLICY.refuse_plan(planned(agent, **_patch({"name": "mesh", "command": ["evil"]})).facts)


def test_without_a_maximum_a_job_has_no_limit() -> None:
    assert "resources" not in flow_of(planned())


def test_names_are_made_of_run_and_epoch_and_fit() -> None:
    assert names.job_name(SPEC) == f"helio-daily-load-{RUN}-3"
    assert len(names.job_name(SPEC)) <= 63
    assert names.pool_label("a", "one") != names.pool_label("a", "other")


@pytest.mark.parametrize(
    "asked",
    [
        {"cpu_limit": "many"}, {"memory_limit": 0}, {"cpu_request": 2, "cpu_limit": 1}, {"namespace": "Not A Name"},
        {"image_pull_policy": "Sometimes"}, {"image_pull_secrets": "one"}, {"tolerations": ["all"]},
        {"volumes": [{"emptyDir": {}}]}, {"json_patch": [{"op": "drop", "path": "/"}]}, {"pod_patch": {"kind": "Pod"}},
        {"json_patch": [{"op": "add", "path": "spec", "value": 1}]}, {"job_template": "- a list"},
        {"job_template_path": "s3://x/y"}, {"pod_patch": {"spec": {"containers": [{"image": "unnamed"}]}}},
        {"affinity": {"when": {1, 2}}},
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_refused_at_registration(asked: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        KubernetesRun(**asked)


def test_a_template_is_yaml_or_a_mapping_or_a_file(tmp_path: Any) -> None:
    text = "spec:\n  template:\n    spec:\n      hostname: here\n"
    (tmp_path / "job.yaml").write_text(text)
    one, other = KubernetesRun(job_template=text), KubernetesRun(job_template_path=str(tmp_path / "job.yaml"))
    assert one.job_template == other.job_template == {"spec": {"template": {"spec": {"hostname": "here"}}}}
    settings = KubernetesRun(cpu_limit="1500m", memory_request="1Gi", env={"KEY": "secret"}).launch_settings()
    assert (settings.launcher, settings.cpu_millis, settings.memory_bytes) == ("kubernetes", 1500, 2**30)
    assert "secret" not in str(settings.options)


def test_patches_are_merged_by_name_and_by_rfc_6902() -> None:
    base = {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}], "keep": 1, "drop": 2}
    patch = {"drop": None, "containers": [{"name": "b", "$patch": "delete"}, {"name": "a", "env": [{"name": "Y"}]}]}
    made = merge(base, patch)
    assert made == {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}], "keep": 1}
    assert base["drop"] == 2, "what is patched stays as it was"
    assert merge(base, {"containers": [{"$patch": "replace"}]})["containers"] == []
    document = {"a/b": [1, 2], "m~n": {"x": True}}
    moved = apply_json_patch(document, [{"op": "move", "from": "/a~1b/0", "path": "/m~0n/y"}, {"op": "add", "path": "/a~1b/-", "value": 3}])  # fmt: skip # noqa: E501
    assert moved == {"a/b": [2, 3], "m~n": {"x": True, "y": 1}}
    for wrong in ({"op": "test", "path": "/m~0n/x", "value": 1}, {"op": "replace", "path": "/a~1b/01", "value": 0},
                  {"op": "add", "path": "/a~1b/3", "value": 0}, {"op": "remove", "path": "/none"}):  # fmt: skip
        with pytest.raises(PatchError):
            apply_json_patch(document, [wrong])


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), ("2", "2"), (1.5, "1.5"), ("1Ki", "1024"), ("1e3", "1000"), ("1E", "1e18")]
)
def test_quantities(text: Any, value: str) -> None:
    assert parse_quantity(text) == parse_quantity(value)
    for wrong in ("", "1 Gi", "Gi", True, None, "0x1"):
        with pytest.raises(ValueError, match="no quantity"):
            parse_quantity(wrong)


@pytest.mark.parametrize(
    ("files", "code"),
    [({"withdrawn": ""}, EXIT_WITHDRAWN), ({"holder": "another-pod", "launch.json": "{}"}, EXIT_STARTED_BEFORE)],
)
def test_a_pod_that_is_not_meant_leaves_before_it_looks_at_anything(
    tmp_path: Any, files: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POD_VARIABLE, "this-pod")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main([str(tmp_path), "--runs", str(tmp_path / "runs")]) == code
    assert not (tmp_path / "runs").exists()
