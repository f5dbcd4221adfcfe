"""Rows whose content only the services read: one that is damaged keeps nobody from the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from sqlalchemy import select, update
from tests.support.control_plane import control_plane
from tests.support.scene import Scene

from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.api.v1 import flow_service_pb2 as flows_pb
from heliograph.api.v1 import schedule_service_pb2 as schedules_pb
from heliograph.api.v1 import states_pb2
from heliograph_control_plane import damage
from heliograph_control_plane.services import agents, backend
from heliograph_control_plane.store import schema

NO_MESSAGE = b"\xff\xff"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A control plane of its own: rows of it are damaged."""
    damage._told.clear()
    with control_plane(tmp_path) as plane, ExitStack() as stack:
        yield Scene(stack, plane)
    damage._told.clear()


def spoil(scene: Scene, flow: str, column: str) -> None:
    """Damages the version of a flow."""
    name = flow.split("/")[3]
    of_flow = select(schema.flows.c.id).where(schema.flows.c.name == name).scalar_subquery()
    change = update(schema.flow_versions).where(schema.flow_versions.c.flow_id == of_flow)
    store = scene.plane.plane.store
    assert store._write(lambda tx: tx.connection.execute(change.values({column: NO_MESSAGE})).rowcount).result() == 1


def leased_past_a_bad_one(scene: Scene) -> None:
    """Has an agent lease a run that nobody can have, and one that it can."""
    parent = scene.project()
    bad, good = scene.flow(parent).name, scene.flow(parent).name
    agent = scene.agent()
    first, second = scene.run(bad), scene.run(good)
    spoil(scene, bad, "bundle")
    assert [lease.flow_run.name for lease in scene.lease(agent.name, 5, max_runs=10)] == [second.name]
    ended = scene.admin.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=first.name))
    assert ended.state == states_pb2.STATE_CRASHED, "it is not leased for ever"
    third = scene.run(good)
    assert [lease.flow_run.name for lease in scene.lease(agent.name, 5, max_runs=10)] == [third.name]
    accept = agents_pb.AcceptFlowRunRequest(agent=agent.name, flow_run=third.name, epoch=1)
    assert scene.admin.agents.AcceptFlowRun(accept).run_token


def listed_past_a_bad_one(scene: Scene) -> None:
    """Lists versions and schedules beside a bad one."""
    parent = scene.project()
    spec = schedules_pb.ScheduleSpec(clocks=[schedules_pb.Clock(cron=schedules_pb.CronClock(cron="0 0 1 1 *"))])
    bad, good = scene.flow(parent, schedule=spec).name, scene.flow(parent, schedule=spec).name
    spoil(scene, bad, "bundle")
    store = scene.plane.plane.store
    flow = select(schema.flows.c.id).where(schema.flows.c.name == bad.split("/")[3]).scalar_subquery()
    change = update(schema.schedules).where(schema.schedules.c.flow_id == flow).values(spec=NO_MESSAGE)
    assert store._write(lambda tx: tx.connection.execute(change).rowcount).result() == 1
    versions = scene.admin.flows.ListFlowVersions(flows_pb.ListFlowVersionsRequest(parent=good.rpartition("/v")[0]))
    assert [one.name for one in versions.flow_versions] == [good]
    empty = scene.admin.flows.ListFlowVersions(flows_pb.ListFlowVersionsRequest(parent=bad.rpartition("/v")[0]))
    assert not empty.flow_versions
    listed = scene.admin.schedules.ListSchedules(schedules_pb.ListSchedulesRequest(parent=parent)).schedules
    assert [one.name for one in listed] == [f"{good.rpartition('/versions')[0]}/schedule"]


def test_a_run_whose_version_cannot_be_read_keeps_no_other_from_an_agent(scene: Scene) -> None:
    leased_past_a_bad_one(scene)


def test_what_cannot_be_read_is_left_out_of_lists(scene: Scene) -> None:
    listed_past_a_bad_one(scene)


def test_services_that_trust_every_row_are_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin."""
    for module in (agents, backend):
        monkeypatch.setattr(module, "DAMAGE", ())
    for work in (leased_past_a_bad_one, listed_past_a_bad_one):
        with pytest.raises(grpc.RpcError, match="INTERNAL"):
            work(scene)
