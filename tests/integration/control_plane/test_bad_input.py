"""Bad input: every request that is wrong gets a typed answer that says what is wrong, and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from tests.support.control_plane import channel
from tests.support.scene import Api, Scene, bundle, flow_event, graph, request_id, task_event, unique

from heliograph.api import contract
from heliograph.api.v1 import (
    agent_service_pb2 as agents_pb,
)
from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)
from heliograph.api.v1 import (
    run_reporting_service_pb2 as reporting_pb,
)
from heliograph.api.v1 import (
    schedule_service_pb2 as schedules_pb,
)
from heliograph.client.errors import to_error

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def refusal(method: Any, request: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        method(request, **options)
    return caught.value


def violations(error: grpc.RpcError) -> dict[str, str]:
    details = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details
    bad = error_details_pb2.BadRequest()
    assert details[1].Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


# --- flows ----------------------------------------------------------------------------------------------------------


def cyclic() -> flows_pb.Graph:
    return graph("a", "b", "c", edges=[(0, 1), (1, 2), (2, 0)])


def keyed_twice() -> flows_pb.Graph:
    made = graph("a", "b", "c", edges=[(0, 2), (1, 2)])
    for edge in made.edges:
        edge.key = "x"
    return made


def clocks(*made: schedules_pb.Clock) -> schedules_pb.ScheduleSpec:
    return schedules_pb.ScheduleSpec(clocks=made)


def cron(text: str, **fields: Any) -> schedules_pb.Clock:
    timezone = fields.pop("timezone", "")
    return schedules_pb.Clock(cron=schedules_pb.CronClock(cron=text, timezone=timezone), **fields)


def interval(micros: int) -> schedules_pb.Clock:
    return schedules_pb.Clock(interval=schedules_pb.IntervalClock(interval_micros=micros))


BAD_FLOWS: dict[str, tuple[dict[str, Any], str]] = {
    "cycle": ({"graph": cyclic()}, "CYCLE"),
    "self edge": ({"graph": graph("a", edges=[(0, 0)])}, "CYCLE"),
    "duplicate slug": ({"graph": graph("a", "a")}, "DUPLICATE_SLUG"),
    "no tasks": ({"graph": flows_pb.Graph()}, "INVALID_ARGUMENT"),
    "edge out of range": ({"graph": graph("a", edges=[(0, 7)])}, "INVALID_ARGUMENT"),
    "argument twice": ({"graph": keyed_twice()}, "INVALID_ARGUMENT"),
    "reference out of range": (
        {"graph": flows_pb.Graph(tasks=graph("a").tasks, reference_tasks=[1])},
        "INVALID_ARGUMENT",
    ),
    "parameter twice": (
        {"graph": graph("a", parameters=(flows_pb.ParameterSpec(name="x"), flows_pb.ParameterSpec(name="x")))},
        "INVALID_ARGUMENT",
    ),
    "too many tasks": ({"graph": graph(*(f"t{n}" for n in range(10_001)))}, "INVALID_ARGUMENT"),
    "empty slug": ({"graph": graph("a", "")}, "INVALID_ARGUMENT"),
    "no bundle": ({"bundle": flows_pb.BundleReference()}, "INVALID_ARGUMENT"),
    "bad digest": ({"bundle": bundle(digest="sha256:zz")}, "INVALID_ARGUMENT"),
    "credentials": ({"bundle": bundle(location="https://user:secret@host/x")}, "INVALID_ARGUMENT"),
    "query": ({"bundle": bundle(location="https://host/x?token=1")}, "INVALID_ARGUMENT"),
    "slash in name": ({"flow_id": "a/b"}, "INVALID_ARGUMENT"),
    "no name": ({"flow_id": ""}, "INVALID_ARGUMENT"),
    "tag in name": ({"flow_id": "<script>"}, "INVALID_ARGUMENT"),
    "no such project": ({"parent": "projects/none"}, "NOT_FOUND"),
    "no project": ({"parent": "nonsense"}, "INVALID_ARGUMENT"),
    "wildcard": ({"parent": "projects/-"}, "INVALID_ARGUMENT"),
    "bad cron": ({"schedule": clocks(cron("61 * * * *"))}, "INVALID_ARGUMENT"),
    "cron that never comes": ({"schedule": clocks(cron("0 0 31 2 *"))}, "INVALID_ARGUMENT"),
    "bad zone": ({"schedule": clocks(cron("0 * * * *", timezone="Mars/Olympus"))}, "INVALID_ARGUMENT"),
    "quick interval": ({"schedule": clocks(interval(999_999))}, "INVALID_ARGUMENT"),
    "endless interval": ({"schedule": clocks(interval(2**63 - 1))}, "INVALID_ARGUMENT"),
    "clock without kind": ({"schedule": clocks(schedules_pb.Clock())}, "INVALID_ARGUMENT"),
    "no dates": ({"schedule": clocks(schedules_pb.Clock(dates=schedules_pb.DatesClock()))}, "INVALID_ARGUMENT"),
    "ends before it starts": (
        {"schedule": clocks(cron("0 * * * *", start_time=Timestamp(seconds=9), end_time=Timestamp(seconds=8)))},
        "INVALID_ARGUMENT",
    ),
    "too many clocks": ({"schedule": clocks(*[cron("0 * * * *")] * 101)}, "INVALID_ARGUMENT"),
    "clock with unknown parameter": (
        {"schedule": clocks(cron("0 * * * *", parameter_defaults_json='{"x": 1}'))},
        "UNKNOWN_PARAMETER",
    ),
    "clock without required parameter": (
        {
            "schedule": clocks(cron("0 * * * *")),
            "graph": graph("a", parameters=(flows_pb.ParameterSpec(name="x", required=True),)),
        },
        "MISSING_PARAMETER",
    ),
}


@pytest.mark.parametrize("name", BAD_FLOWS)
def test_a_bad_flow_is_refused_and_leaves_nothing(scene: Scene, name: str) -> None:
    fields, reason = BAD_FLOWS[name]
    parent = scene.project()
    request = flows_pb.RegisterFlowVersionRequest(
        **{"parent": parent, "flow_id": unique("flow"), "graph": graph(), "bundle": bundle(), **fields}
    )
    error = refusal(scene.admin.flows.RegisterFlowVersion, request)
    assert to_error(error).reason == reason
    assert not scene.admin.flows.ListFlows(flows_pb.ListFlowsRequest(parent=parent)).flows


def test_the_largest_graph_that_is_allowed_is_accepted_and_read_back(scene: Scene) -> None:
    large = graph(*(f"task-number-{n}" for n in range(10_000)), edges=[(n, n + 1) for n in range(9_999)])
    version = scene.flow(scene.project(), graph=large)
    assert len(version.graph.tasks) == 10_000
    run = scene.run(version.name)
    assert run.flow_version == version.name


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[]", "null", "{", '{"x": NaN}', '{"x": Infinity}', '{"x": 1e999}', '{"x": 1, "x": 2}', '{"x": "\\u0000"',
        '{"x": ' + "[" * 40 + "]" * 40 + "}", "[" * 30_000, json.dumps({"x": {str(n): n for n in range(1_001)}}),
        '{"x": ' + "9" * 5_000 + "}", '{"x": "' + "y" * 66_000 + '"}', "{'x': 1}", '{"x": 1} {"x": 1}',
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_without_being_quoted(scene: Scene, text: str) -> None:
    flow = scene.flow(scene.project(), graph=graph(parameters=(flows_pb.ParameterSpec(name="x"),)))
    request = runs_pb.CreateFlowRunRequest(
        parent=flow.name.partition("/flows")[0], flow=flow.name, request_id=request_id(), parameters_json=text
    )
    error = refusal(scene.admin.runs.CreateFlowRun, request)
    assert error.code() == INVALID
    assert "parameters_json" in violations(error)
    assert len(str(error.details())) < 300


@pytest.mark.parametrize(
    "text", ["", "{}", '{"x": null}', '{"x": [1, {"y": "ä\\u0000"}]}', '{"x": ' + "[" * 31 + "]" * 31 + "}"]
)
def test_good_parameters_are_kept_as_they_were_written(scene: Scene, text: str) -> None:
    flow = scene.flow(scene.project(), graph=graph(parameters=(flows_pb.ParameterSpec(name="x"),)))
    run = scene.run(flow.name, parameters_json=text)
    assert run.parameters_json == (text or "{}")


def test_all_violations_of_a_request_come_at_once(scene: Scene) -> None:
    request = runs_pb.CreateFlowRunRequest(
        parent="projects/<>", flow="\x00", request_id="not an id", labels=["ok", "\u202e"], run_name="n" * 201
    )
    error = refusal(scene.admin.runs.CreateFlowRun, request)
    assert set(violations(error)) == {"parent", "flow", "request_id", "labels[1]", "run_name"}


def test_a_thousand_violations_fit_into_an_answer(scene: Scene) -> None:
    request = flows_pb.RegisterFlowVersionRequest(
        parent="projects/p", flow_id="f", graph=graph(*["<" * 150] * 1_000), bundle=bundle()
    )
    error = refusal(scene.admin.flows.RegisterFlowVersion, request)
    assert error.code() == INVALID
    assert 5 < len(violations(error)) < 1_000


BAD_CALLS: dict[str, tuple[str, str, Any, grpc.StatusCode]] = {
    "run without request id": (
        "runs", "CreateFlowRun", runs_pb.CreateFlowRunRequest(parent="projects/p", flow="projects/p/flows/f"), INVALID,
    ),
    "run of another project": (
        "runs", "CreateFlowRun",
        runs_pb.CreateFlowRunRequest(parent="projects/p", flow="projects/q/flows/f", request_id="r"), INVALID,
    ),
    "no runs in a batch": (
        "runs", "BatchCreateFlowRuns", runs_pb.BatchCreateFlowRunsRequest(parent="projects/p"), INVALID,
    ),
    "too many runs in a batch": (
        "runs", "BatchCreateFlowRuns",
        runs_pb.BatchCreateFlowRunsRequest(
            parent="projects/p",
            requests=[runs_pb.CreateFlowRunRequest(flow="projects/p/flows/f", request_id="r")] * 501,
        ), INVALID,
    ),
    "a batch for two projects": (
        "runs", "BatchCreateFlowRuns",
        runs_pb.BatchCreateFlowRunsRequest(
            parent="projects/p",
            requests=[runs_pb.CreateFlowRunRequest(parent="projects/q", flow="projects/q/flows/f", request_id="r")],
        ), INVALID,
    ),
    "unknown state": ("runs", "ListFlowRuns", runs_pb.ListFlowRunsRequest(parent="projects/-", states=[77]), INVALID),
    "bad page token": (
        "runs", "ListFlowRuns", runs_pb.ListFlowRunsRequest(parent="projects/-", page_token="abc"), INVALID,
    ),
    "odd run id": ("runs", "GetFlowRun", runs_pb.GetFlowRunRequest(name="projects/p/flowRuns/x"), NOT_FOUND),
    "bad run name": ("runs", "GetFlowRun", runs_pb.GetFlowRunRequest(name="flowRuns/x"), INVALID),
    "empty name": ("projects", "GetProject", projects_pb.GetProjectRequest(), INVALID),
    "project with a slash": ("projects", "CreateProject", projects_pb.CreateProjectRequest(project_id="a/b"), INVALID),
    "project named dash": ("projects", "CreateProject", projects_pb.CreateProjectRequest(project_id="-"), INVALID),
    "lease of nothing": (
        "agents", "LeaseFlowRuns", agents_pb.LeaseFlowRunsRequest(agent="agents/a", request_id="r"), INVALID,
    ),
    "endless wait": (
        "agents", "LeaseFlowRuns",
        agents_pb.LeaseFlowRunsRequest(agent="agents/a", request_id="r", max_runs=1, wait=Duration(seconds=61)),
        INVALID,
    ),
    "lease by nobody": (
        "agents", "LeaseFlowRuns",
        agents_pb.LeaseFlowRunsRequest(agent="agents/nobody", request_id="r", max_runs=1), NOT_FOUND,
    ),
    "agent without launcher": ("agents", "RegisterAgent", agents_pb.RegisterAgentRequest(agent_id="a"), INVALID),
    "schedule of nothing": (
        "schedules", "GetSchedule", schedules_pb.GetScheduleRequest(name="projects/p/flows/f/schedule"), NOT_FOUND,
    ),
    "version zero": (
        "flows", "GetFlowVersion", flows_pb.GetFlowVersionRequest(name="projects/p/flows/f/versions/0"), INVALID,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_gets_its_code(scene: Scene, name: str) -> None:
    service, method, request, code = BAD_CALLS[name]
    assert refusal(getattr(getattr(scene.admin, service), method), request).code() == code


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "fields", "code"),
    [
        ([task_event(0, "RUNNING")] * 1_001, {}, EXHAUSTED),
        ([reporting_pb.RunEvent()], {}, INVALID),
        ([task_event(0, "UNSPECIFIED")], {}, INVALID),
        ([task_event(0, "RUNNING", time_unix_micros=0)], {}, INVALID),
        ([flow_event("RUNNING", time_unix_micros=2**62)], {}, INVALID),
        ([flow_event("RUNNING")], {"first_sequence": 0}, INVALID),
        ([flow_event("RUNNING")], {"epoch": 0}, INVALID),
        ([], {"flow_run": "nonsense"}, INVALID),
    ],
    ids=["number", "kind", "state", "no time", "far time", "sequence", "epoch", "name"],
)
def test_a_bad_batch_is_refused_whole(
    scene: Scene, events: list[Any], fields: dict[str, Any], code: grpc.StatusCode
) -> None:
    run = scene.running()
    batch = run.batch(1, flow_event("RUNNING"), *events, **fields)
    assert refusal(run.api.reporting.ReportRunEvents, batch).code() == code
    with pytest.raises(grpc.RpcError) as caught:
        list(run.api.reporting.StreamRunEvents(iter([batch])))
    assert caught.value.code() == code
    assert run.now().last_sequence == 0


# --- the wire -------------------------------------------------------------------------------------------------------


def test_a_change_needs_a_deadline_within_limits(scene: Scene) -> None:
    metadata = (("authorization", f"Bearer {scene.plane.token}"),)
    with grpc.insecure_channel(scene.plane.address) as plain:
        create = plain.unary_unary(
            "/heliograph.api.v1.ProjectService/CreateProject",
            request_serializer=projects_pb.CreateProjectRequest.SerializeToString,
            response_deserializer=projects_pb.Project.FromString,
        )
        request = projects_pb.CreateProjectRequest(project_id=unique("project"))
        for timeout in (None, 3_600):
            error = refusal(create, request, metadata=metadata, timeout=timeout)
            assert to_error(error).reason == "DEADLINE_REQUIRED"
        assert create(request, metadata=metadata, timeout=60).name == f"projects/{request.project_id}"


def may_call(scene: Scene, method: str) -> Api:
    """Whoever may call it."""
    if not method.endswith("/ExchangeStartCode"):
        return scene.api_as("agent", "admin")
    run = scene.run(scene.flow(scene.project()).name, labels=[label := unique("label")], override_labels=True)
    agent = scene.agent(label).name
    (lease,) = [lease for lease in scene.lease(agent, max_runs=100) if lease.flow_run.name == run.name]
    held = {"agent": agent, "flow_run": run.name, "epoch": lease.epoch}
    scene.admin.agents.AcceptFlowRun(agents_pb.AcceptFlowRunRequest(**held))
    return scene.api(scene.admin.agents.CreateStartCode(agents_pb.CreateStartCodeRequest(**held)).start_code)


@pytest.mark.parametrize("method", [f"/{m.containing_service.full_name}/{m.name}" for m in contract.methods()])
def test_bytes_that_are_no_message_never_reach_a_service(scene: Scene, method: str) -> None:
    call = may_call(scene, method).channel.stream_stream(method)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([b"\xff\xff\xff"]), timeout=60))
    assert caught.value.code() == INVALID


def test_requests_that_are_too_large_are_refused(scene: Scene) -> None:
    call = scene.admin.channel.unary_unary("/heliograph.api.v1.ProjectService/CreateProject")
    assert refusal(call, b"\x12" + b"\x00" * (1_200_000), timeout=60).code() == EXHAUSTED
    assert refusal(call, b"\x00" * (6 * 1024 * 1024), timeout=60).code() == EXHAUSTED


def test_a_gzip_bomb_is_not_inflated(scene: Scene) -> None:
    call = scene.admin.channel.unary_unary("/heliograph.api.v1.ProjectService/CreateProject")
    bomb = b"\x00" * (64 * 1024 * 1024)
    assert refusal(call, bomb, timeout=20, compression=grpc.Compression.Gzip).code() == EXHAUSTED


def test_large_metadata_is_refused_and_the_server_lives(scene: Scene) -> None:
    token = scene.plane.token
    with channel(scene.plane.address, token) as made:
        call = made.unary_unary("/heliograph.api.v1.AdminService/WhoAmI")
        error = refusal(call, b"", metadata=(("x-large", "x" * 60_000),), timeout=60)
        assert error.code() in {EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        assert call(b"", timeout=60)


def test_fields_that_the_contract_does_not_name_are_dropped(scene: Scene) -> None:
    name = unique("project")
    data = projects_pb.CreateProjectRequest(project_id=name).SerializeToString()
    unknown = b"\xfa\x3f\x06SECRET"
    answer = scene.admin.channel.unary_unary("/heliograph.api.v1.ProjectService/CreateProject")(
        data + unknown, timeout=60
    )
    assert b"SECRET" not in answer


def test_every_answer_carries_a_request_id_and_a_given_one_is_kept(scene: Scene) -> None:
    call = scene.admin.channel.unary_unary("/heliograph.api.v1.AdminService/WhoAmI")
    _, done = call.with_call(b"", metadata=(("x-request-id", "abc-1"),), timeout=60)
    assert dict(done.trailing_metadata())["x-request-id"] == "abc-1"
    _, done = call.with_call(b"", metadata=(("x-request-id", "not an id"),), timeout=60)
    assert len(dict(done.trailing_metadata())["x-request-id"]) == 32
    error = refusal(scene.admin.projects.GetProject, projects_pb.GetProjectRequest())
    assert "x-request-id" in dict(error.trailing_metadata())


def test_a_fault_of_the_server_says_nothing_of_its_cause(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("SECRET-TEXT-OF-A-USER")

    monkeypatch.setattr(scene.plane.plane.store, "get_project", fail)
    error = refusal(scene.admin.projects.GetProject, projects_pb.GetProjectRequest(name="projects/x"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert dict(error.trailing_metadata())["x-request-id"] in str(error.details())
    assert "SECRET" not in repr(error)
    logged = capsys.readouterr()
    assert "RuntimeError" in logged.out + logged.err
    assert "SECRET" not in logged.out + logged.err
