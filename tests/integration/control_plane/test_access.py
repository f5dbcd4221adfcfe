"""Who gets in: every method denies without a token; roles, projects, expiry and revocation decide with one."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.support.scene import Scene, graph, request_id, unique

from heliograph.api.v1 import (
    admin_service_pb2 as admin_pb,
)
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
    log_service_pb2 as logs_pb,
)
from heliograph.api.v1 import (
    options_pb2,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)
from heliograph.api.v1 import (
    token_service_pb2 as tokens_pb,
)


def test_a_token_for_one_project_does_not_see_another(scene: Scene) -> None:
    own, other = scene.project(), scene.project()
    foreign_flow, foreign_run = scene.flow(other), scene.run(scene.flow(other).name)
    api = scene.api_as("operator", "author", projects=(own,))
    mine = scene.flow(own)
    missing = unique("project")
    answers = set()
    for request, method in [
        (projects_pb.GetProjectRequest(name=other), api.projects.GetProject),
        (projects_pb.GetProjectRequest(name=f"projects/{missing}"), api.projects.GetProject),
        (flows_pb.ListFlowsRequest(parent=other), api.flows.ListFlows),
        (flows_pb.GetFlowRequest(name=foreign_flow.name.rpartition("/versions")[0]), api.flows.GetFlow),
        (runs_pb.CreateFlowRunRequest(parent=other, flow=foreign_flow.name, request_id="r"), api.runs.CreateFlowRun),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            method(request)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        answers.add(caught.value.details())
    assert answers == {"no such project"}
    gone = foreign_run.name[:-4] + "0000"
    for name in (foreign_run.name, gone, f"{own}/flowRuns/{foreign_run.name.rpartition('/')[2]}"):
        for method, request in [
            (api.runs.GetFlowRun, runs_pb.GetFlowRunRequest(name=name)),
            (api.runs.CancelFlowRun, runs_pb.CancelFlowRunRequest(name=name)),
            (api.logs.ListLogEntries, logs_pb.ListLogEntriesRequest(parent=name)),
        ]:
            with pytest.raises(grpc.RpcError) as caught:
                method(request)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such flow run")
    assert [f.name for f in api.flows.ListFlows(flows_pb.ListFlowsRequest(parent="projects/-")).flows] == [
        mine.name.rpartition("/versions")[0]
    ]
    assert [p.name for p in api.projects.ListProjects(projects_pb.ListProjectsRequest()).projects] == [own]


def test_an_agent_for_one_project_leases_nothing_of_another(scene: Scene) -> None:
    own, other = scene.project(), scene.project()
    label = unique("label")
    launch = flows_pb.LaunchSummary(labels=[label])
    foreign = scene.run(scene.flow(other, launch=launch).name)
    api = scene.api_as("agent", projects=(own,))
    agent = scene.agent(label, api=api)
    assert scene.lease(agent.name, api=api) == []
    mine = scene.run(scene.flow(own, launch=launch).name)
    assert [lease.flow_run.name for lease in scene.lease(agent.name, api=api)] == [mine.name]
    with pytest.raises(grpc.RpcError) as caught:
        api.agents.AcceptFlowRun(agents_pb.AcceptFlowRunRequest(agent=agent.name, flow_run=foreign.name, epoch=1))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_whoami_tells_principal_roles_and_projects(scene: Scene) -> None:
    project = scene.project()
    token = scene.token("viewer", "operator", projects=(project,), lifetime=Duration(seconds=60))
    me = scene.api(token.secret).admin.WhoAmI(admin_pb.WhoAmIRequest())
    assert me.principal == token.token.principal
    assert list(me.roles) == [options_pb2.ROLE_OPERATOR, options_pb2.ROLE_VIEWER]
    assert list(me.projects) == [project]
    assert me.expire_time == token.token.expire_time


def test_secrets_are_shown_once_and_run_roles_are_not_given_away(scene: Scene) -> None:
    made = scene.token("viewer")
    listed = scene.admin.tokens.ListTokens(tokens_pb.ListTokensRequest(page_size=1000)).tokens
    assert made.token.name in {token.name for token in listed}
    assert made.secret.rpartition("_")[2] not in str(listed)
    for fields in ({"roles": [options_pb2.ROLE_RUN]}, {"roles": []}, {"principal": "ann"}, {"request_id": ""}):
        request: Any = {
            "request_id": request_id(),
            "principal": "users/a",
            "roles": [options_pb2.ROLE_VIEWER],
            **fields,
        }
        with pytest.raises(grpc.RpcError) as caught:
            scene.admin.tokens.CreateToken(tokens_pb.CreateTokenRequest(**request))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_repeating_the_creation_of_a_token_replaces_its_secret(scene: Scene) -> None:
    request = tokens_pb.CreateTokenRequest(
        request_id=request_id(), principal="services/ci", roles=[options_pb2.ROLE_VIEWER]
    )
    first = scene.admin.tokens.CreateToken(request)
    assert scene.admin.tokens.CreateToken(request) == first
    # Not with the very same token, as a network repeats a call: nobody gets the secret that another one was told.
    second = scene.api_as("admin", principal="users/admin").tokens.CreateToken(request)
    assert first.token.name == second.token.name
    with pytest.raises(grpc.RpcError) as caught:
        scene.api(first.secret).admin.WhoAmI(admin_pb.WhoAmIRequest())
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert scene.api(second.secret).admin.WhoAmI(admin_pb.WhoAmIRequest()).principal == "services/ci"


def test_an_expired_token_is_worth_nothing_even_when_it_was_used_before(scene: Scene) -> None:
    api = scene.api(scene.token("viewer", lifetime=Duration(nanos=400_000_000)).secret)
    assert api.admin.WhoAmI(admin_pb.WhoAmIRequest()).principal

    def until_refused() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            api.admin.WhoAmI(admin_pb.WhoAmIRequest())

    with pytest.raises(grpc.RpcError) as caught:
        until_refused()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_revocation_counts_at_once_also_for_streams_and_polls_in_progress(scene: Scene) -> None:
    # Limited to a project without runs, so that there is nothing to lease and nothing to see.
    token = scene.token("viewer", "agent", projects=(scene.project(),))
    api = scene.api(token.secret)
    agent = scene.agent(unique("label"), api=api)
    watching = api.runs.WatchFlowRuns(runs_pb.WatchFlowRunsRequest(parent="projects/-"), timeout=30)
    ended: list[grpc.RpcError] = []

    def poll() -> None:
        try:
            scene.lease(agent.name, 25, api=api)
        except grpc.RpcError as error:
            ended.append(error)

    polling = threading.Thread(target=poll)
    polling.start()
    while scene.plane.plane.metrics.active["/heliograph.api.v1.AgentService/LeaseFlowRuns"] < 1:
        time.sleep(0.005)
    for _ in range(2):
        assert scene.admin.tokens.RevokeToken(tokens_pb.RevokeTokenRequest(name=token.token.name)).HasField(
            "revoke_time"
        )
    with pytest.raises(grpc.RpcError) as caught:
        api.admin.WhoAmI(admin_pb.WhoAmIRequest())
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as caught:
        next(watching)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    polling.join(60)
    assert [error.code() for error in ended] == [grpc.StatusCode.UNAUTHENTICATED]


def test_the_expiry_of_a_token_ends_its_streams(scene: Scene) -> None:
    api = scene.api(scene.token("viewer", lifetime=Duration(nanos=500_000_000)).secret)
    with pytest.raises(grpc.RpcError) as caught:
        next(api.runs.WatchFlowRuns(runs_pb.WatchFlowRunsRequest(parent="projects/-"), timeout=20))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_run_token_reports_its_own_run_and_sees_its_children_only(scene: Scene) -> None:
    one, two = scene.running(), scene.running()
    with pytest.raises(grpc.RpcError) as caught:
        two.api.reporting.ReportRunEvents(one.batch(1))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        one.api.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=two.name))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    flow = one.now().flow_version
    child = one.api.runs.CreateFlowRun(
        runs_pb.CreateFlowRunRequest(parent=flow.partition("/flows")[0], flow=flow, request_id=request_id())
    )
    assert child.created_by == one.name
    assert one.api.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=child.name)).name == child.name
    sibling = scene.run(flow)
    with pytest.raises(grpc.RpcError) as caught:
        one.api.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=sibling.name))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_token_limited_to_projects_cannot_make_one_that_reaches_further(scene: Scene) -> None:
    project = scene.project()
    api = scene.api_as("admin", projects=(project,))
    for projects in ((), (scene.project(),)):
        request = tokens_pb.CreateTokenRequest(
            request_id=request_id(), principal="users/a", roles=[options_pb2.ROLE_ADMIN], projects=projects
        )
        with pytest.raises(grpc.RpcError) as caught:
            api.tokens.CreateToken(request)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_health_says_serving_to_those_who_may_ask(scene: Scene) -> None:
    health = health_pb2_grpc.HealthStub(scene.admin.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    named = health_pb2.HealthCheckRequest(service="heliograph.api.v1.FlowService")
    assert health.Check(named).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_first_token_is_in_a_file_for_the_owner_alone(scene: Scene) -> None:
    path = scene.plane.plane.admin_token_file
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert scene.admin.admin.WhoAmI(admin_pb.WhoAmIRequest()).principal == "users/admin"
    assert graph()


def test_the_name_of_an_agent_is_not_taken_by_another_projects_token(scene: Scene) -> None:
    """It could take its labels and projects from it, say that it drains, and so keep its runs from it."""
    ours, theirs = scene.project(), scene.project()
    one = unique("services/agents")
    us, them = (scene.api_as("agent", projects=(project,), principal=one) for project in (ours, theirs))
    both = scene.api_as("agent", projects=(ours, theirs), principal=one)
    everywhere = scene.api_as("agent", principal=one)
    wide, narrow = scene.agent("a", api=everywhere), scene.agent("a", api=us)
    for agent, api, code in (
        (narrow, them, "NOT_FOUND"),
        (wide, us, "PERMISSION_DENIED"),
        (scene.agent("a", api=both), us, "PERMISSION_DENIED"),
    ):
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            api.agents.RegisterAgent(
                agents_pb.RegisterAgentRequest(agent_id=agent.name.removeprefix("agents/"), launcher="local")
            )
        with pytest.raises(grpc.RpcError, match=code):
            api.agents.HeartbeatAgent(agents_pb.HeartbeatAgentRequest(agent=agent.name, draining=True))
        with pytest.raises(grpc.RpcError, match=code):
            scene.lease(agent.name, api=api)
        got = scene.admin.agents.GetAgent(agents_pb.GetAgentRequest(name=agent.name))
        assert (list(got.labels), got.draining) == (["a"], False)
    for api in (us, both, everywhere):
        api.agents.HeartbeatAgent(agents_pb.HeartbeatAgentRequest(agent=narrow.name))


def test_request_ids_of_others_tell_nothing(scene: Scene) -> None:
    own, other = scene.project(), scene.project()
    foreign = scene.flow(other).name.rpartition("/versions")[0]
    mine = scene.flow(own).name.rpartition("/versions")[0]
    known = request_id()
    theirs = scene.run(foreign, request_id=known)
    api = scene.api_as("operator", projects=(own,))
    made = api.runs.CreateFlowRun(runs_pb.CreateFlowRunRequest(parent=own, flow=mine, request_id=known))
    assert made.name != theirs.name
    assert made.name.startswith(own)
    again = api.runs.CreateFlowRun(runs_pb.CreateFlowRunRequest(parent=own, flow=mine, request_id=known))
    assert again.name == made.name


def test_page_tokens_of_others_reach_no_further(scene: Scene) -> None:
    """A token says where a list goes on, not what is in it: with another caller's one sees one's own things only."""
    own, other = scene.project(), scene.project()
    for project in (own, other):
        flow = scene.flow(project).name
        for _ in range(3):
            scene.run(flow)
    api = scene.api_as("viewer", projects=(own,))
    token = scene.admin.runs.ListFlowRuns(runs_pb.ListFlowRunsRequest(parent=other, page_size=1)).next_page_token
    assert token
    page = api.runs.ListFlowRuns(runs_pb.ListFlowRunsRequest(parent="projects/-", page_token=token))
    assert {run.name.partition("/flowRuns")[0] for run in page.flow_runs} <= {own}
