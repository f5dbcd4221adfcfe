"""Two control planes, real processes, on one PostgreSQL: both serve, either may be killed at any moment."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.control_plane import ControlPlaneProcess, control_plane
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.hints import brisk_slow_poll, no_slow_poll
from tests.support.postgres import PostgresCluster, postgres
from tests.support.scene import Api, Scene
from tests.support.stack import wait_until

from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.api.v1 import run_reporting_service_pb2 as reporting_pb
from heliograph.api.v1 import schedule_service_pb2 as schedules_pb
from heliograph.api.v1 import states_pb2
from heliograph_control_plane.store.notices import Notices

__all__ = ["postgres"]

PATIENCE_SECONDS = 120.0
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""What a call gets that nobody may have looked at; gRPC cancels what comes to a server while it stops."""
"""How long is waited, on a machine that has other things to do, for what comes by itself."""


class Pair:
    """Two control planes over one database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.planes = [ControlPlaneProcess(folder / name, "--database", url) for name in ("one", "two")]
        for plane in self.planes:
            plane.data_dir = folder / "shared"  # where the first token is
            plane.start()

    def scenes(self, stack: ExitStack) -> list[Scene]:
        """What makes things by the API of each."""
        return [Scene(stack, plane) for plane in self.planes]  # type: ignore[arg-type]

    def leader(self) -> str:
        """Who holds the loops, by the database."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT holder FROM leaders WHERE name = 'loops' AND expire_micros > 0").fetchone()
        return str(row[0]) if row else ""


def server(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the control plane."""
    command = [sys.executable, "-m", "heliograph_control_plane", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresCluster) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), postgres.store_database())
    yield made
    for plane in made.planes:
        plane.terminate()


def test_a_database_without_the_schema_is_refused_until_it_is_migrated(
    tmp_path: Path, postgres: PostgresCluster
) -> None:
    url = postgres.empty_database()
    start = ("start", "--port", "0", "--data-dir", str(tmp_path), "--database", url)
    refused = server(*start)
    assert refused.returncode != 0
    assert "schema none" in refused.stderr
    assert "heliograph server migrate" in refused.stderr
    assert "Traceback" not in refused.stderr
    migrated = server("migrate", "--data-dir", str(tmp_path), "--database", url)
    assert migrated.returncode == 0, migrated.stderr
    plane = ControlPlaneProcess(tmp_path / "plane", "--database", url)
    plane.start()
    assert plane.terminate() == 0
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE schema_version SET version_num = '9999'")
    assert "9999" in server(*start).stderr
    assert "9999" in server("migrate", "--data-dir", str(tmp_path), "--database", url).stderr


@contextmanager
def told_alone(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Scene, Scene]]:
    """Two control planes that see each other's changes by notices alone, and listen for them."""
    with (
        control_plane(folder, database=url) as here,
        control_plane(folder, database=url) as there,
        ExitStack() as stack,
    ):
        no_slow_poll(monkeypatch, here, there)
        yield Scene(stack, here), Scene(stack, there)


def changes_are_shown(one: Scene, two: Scene, wait_seconds: int) -> None:
    """Has a poll and a watcher wait at one control plane for what is done at the other."""
    with ExitStack() as stack:
        flow = one.flow(one.project()).name
        agent = two.agent()
        answers: list[Any] = []
        polling = threading.Thread(
            target=lambda: answers.extend(two.lease(agent.name, wait_seconds=wait_seconds)), name="parked at two"
        )
        polling.start()
        watching = two.admin.runs.WatchFlowRuns(runs_pb.WatchFlowRunsRequest(parent="projects/-"), timeout=90)
        stack.callback(watching.cancel)
        wakeups = two.plane.plane.wakeups
        wait_until(lambda: wakeups._waiters and wakeups._everything, "the poll is parked and the watcher listens")
        run = one.run(flow)
        polling.join(PATIENCE_SECONDS)
        assert [lease.flow_run.name for lease in answers] == [run.name]
        assert next(watching).flow_run.name == run.name
        accept = agents_pb.AcceptFlowRunRequest(agent=agent.name, flow_run=run.name, epoch=answers[0].epoch)
        token = two.admin.agents.AcceptFlowRun(accept).run_token
        assert one.admin.agents.AcceptFlowRun(accept).run_token == token, "a repeated acceptance has one answer"
        one.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=run.name))
        assert any(change.flow_run.cancel_requested for change in watching)


def test_what_one_changes_the_other_shows_at_once(
    tmp_path: Path, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither looks for it by itself."""
    with told_alone(tmp_path, postgres.store_database(), monkeypatch) as (one, two):
        notices = two.plane.plane.store._notices
        assert notices is not None
        wait_until(notices.listening.is_set, "it listens")
        changes_are_shown(one, two, wait_seconds=25)


def test_a_control_plane_that_hears_nothing_is_found(
    tmp_path: Path, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin: nobody listens."""
    monkeypatch.setattr(Notices, "_listen_always", lambda _self: None)
    with (
        told_alone(tmp_path, postgres.store_database(), monkeypatch) as (one, two),
        pytest.raises(AssertionError, match=r"assert \[\] =="),
    ):
        changes_are_shown(one, two, wait_seconds=2)


def test_behind_a_pooler_that_swallows_listen_the_slow_poll_finds_the_run(
    tmp_path: Path, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    brisk_slow_poll(monkeypatch)
    monkeypatch.setattr(Notices, "_listen_always", lambda _self: None)
    url = postgres.store_database()
    with (
        control_plane(tmp_path, database=url) as one,
        control_plane(tmp_path, database=url) as two,
        ExitStack() as stack,
    ):
        here, there = Scene(stack, one), Scene(stack, two)
        flow = here.flow(here.project()).name
        agent = there.agent()
        run = here.run(flow, scheduled_time=Timestamp(seconds=int(time.time()) + 1))  # the poll parks before
        leases = there.lease(agent.name, wait_seconds=25)
        assert [lease.flow_run.name for lease in leases] == [run.name]
        finished = there.admin.runs.WatchFlowRuns(
            runs_pb.WatchFlowRunsRequest(parent="projects/-", flow_runs=[run.name])
        )
        stack.callback(finished.cancel)
        assert not next(finished).flow_run.cancel_requested
        here.admin.agents.AcceptFlowRun(
            agents_pb.AcceptFlowRunRequest(agent=agent.name, flow_run=run.name, epoch=leases[0].epoch)
        )
        here.admin.runs.CancelFlowRun(runs_pb.CancelFlowRunRequest(name=run.name))
        assert any(change.flow_run.cancel_requested for change in finished)


class Workers:
    """Clients that go on whatever happens: each call is repeated, at the other control plane, until it is answered."""

    def __init__(self, pair: Pair, scenes: list[Scene]) -> None:
        self._apis: list[Api] = [scene.admin for scene in scenes]
        self._turns = itertools.count()
        self.failures = 0
        self.created: list[str] = []
        self.accepted: Counter[str] = Counter()
        self.acked: dict[str, int] = {}
        self.errors: list[BaseException] = []

    def insist(self, call: Callable[[Api], Any]) -> Any:
        """Repeats a call until it is answered."""
        while True:
            api = self._apis[next(self._turns) % 2]
            try:
                return call(api)
            except grpc.RpcError as error:
                if error.code() not in RETRIED:
                    raise
                self.failures += 1
                time.sleep(0.02)

    def create(self, flow: str, count: int) -> None:
        parent = "/".join(flow.split("/")[:2])
        for _ in range(count):
            request = runs_pb.CreateFlowRunRequest(parent=parent, flow=flow, request_id=uuid.uuid4().hex)
            self.created.append(self.insist(lambda api, r=request: api.runs.CreateFlowRun(r, timeout=20)).name)

    def work(self, agent: str, finished: threading.Event) -> None:
        while not finished.is_set():
            request = agents_pb.LeaseFlowRunsRequest(
                agent=agent, request_id=uuid.uuid4().hex, max_runs=3, wait=Duration(nanos=200_000_000)
            )
            for lease in self.insist(lambda api, r=request: api.agents.LeaseFlowRuns(r, timeout=20)).leases:
                self.run(agent, lease.flow_run.name, lease.epoch)

    def run(self, agent: str, name: str, epoch: int) -> None:
        accept = agents_pb.AcceptFlowRunRequest(agent=agent, flow_run=name, epoch=epoch)
        self.insist(lambda api: api.agents.AcceptFlowRun(accept, timeout=20))
        self.accepted[name] += 1
        for first in (1, 5):
            last = first == 5
            events = [
                reporting_pb.RunEvent(
                    task_run=reporting_pb.TaskRunEvent(
                        task=n % 2, state=states_pb2.STATE_SUCCESS, time_unix_micros=first + n, run_count=1
                    )
                )
                for n in range(3)
            ]
            state = states_pb2.STATE_SUCCESS if last else states_pb2.STATE_RUNNING
            events.append(
                reporting_pb.RunEvent(flow_run=reporting_pb.FlowRunEvent(state=state, time_unix_micros=first + 3))
            )
            batch = reporting_pb.RunEventBatch(flow_run=name, epoch=epoch, first_sequence=first, events=events)
            ack = self.insist(lambda api, b=batch: api.reporting.ReportRunEvents(b, timeout=20))
            assert ack.acked_sequence == first + 3
        self.acked[name] = ack.acked_sequence

    def guard(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        """Runs work on a thread; its failure is the test's."""

        def body() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # noqa: BLE001 - told to the test's own thread
                self.errors.append(error)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        return thread


@forms("kills", quick=3, full=30, quick_seconds=600)
def test_ending_either_at_any_moment_loses_nothing_and_starts_nothing_twice(
    pair: Pair, figure: Figure, kills: int
) -> None:
    """Every third end is a restart, as of a rolling upgrade; the others are kills."""
    chance = random.Random(kills)
    with ExitStack() as stack:
        scenes = pair.scenes(stack)
        project = scenes[0].project()
        flow = scenes[0].flow(project).name.rpartition("/versions/")[0]
        agents = [scenes[0].agent().name for _ in range(3)]
        workers = Workers(pair, scenes)
        finished = threading.Event()
        creating = [workers.guard(workers.create, flow, 40 * kills) for _ in range(2)]
        working = [workers.guard(workers.work, agent, finished) for agent in agents]
        for kill in range(kills):
            time.sleep(chance.uniform(0.1, 0.6))
            plane = pair.planes[kill % 2]
            (plane.terminate if kill % 3 == 2 else plane.kill)()
            time.sleep(chance.uniform(0.0, 0.3))
            plane.start()
        for thread in creating:
            thread.join(PATIENCE_SECONDS)
        wait_until(
            lambda: len(workers.acked) == 80 * kills or workers.errors, "every run is finished", PATIENCE_SECONDS
        )
        finished.set()
        for thread in working:
            thread.join(PATIENCE_SECONDS)
        assert not workers.errors, workers.errors
        assert workers.failures > 0
        assert len(workers.created) == 80 * kills
        assert set(workers.accepted) == set(workers.created)
        assert set(workers.accepted.values()) == {1}
        for name in workers.created:
            run = workers.insist(lambda api, n=name: api.runs.GetFlowRun(runs_pb.GetFlowRunRequest(name=n)))
            assert (run.state, run.attempt, run.epoch) == (states_pb2.STATE_SUCCESS, 1, 1)
            assert run.last_sequence == workers.acked[name] == 8
        with psycopg.connect(pair.url) as connection:
            total = connection.execute(
                "SELECT count(*) FROM flow_runs r JOIN projects p ON p.id = r.project_id WHERE p.name = %s",
                (project.removeprefix("projects/"),),
            ).fetchone()
        assert total == (80 * kills,), "a repeated call made another run"
    figure(
        f"two control planes, {80 * kills} runs, {kills - kills // 3} kills, {kills // 3} restarts, "
        f"{workers.failures} calls repeated: 0 lost, 0 doubled"
    )


@pytest.mark.timeout(300)
def test_the_loops_go_on_where_the_leader_was_killed(pair: Pair) -> None:
    first, second = pair.planes
    second.terminate()  # gives the leadership up, when it has it
    wait_until(lambda: pair.leader() != "", "there is a leader", PATIENCE_SECONDS)
    leader = pair.leader()
    second.start()
    first.kill()
    try:
        wait_until(lambda: pair.leader() not in ("", leader), "the other one leads", PATIENCE_SECONDS)
        with ExitStack() as stack:
            scene = pair.scenes(stack)[1]
            parent = scene.project()
            clock = schedules_pb.Clock(interval=schedules_pb.IntervalClock(interval_micros=60_000_000))
            scene.flow(parent, schedule=schedules_pb.ScheduleSpec(clocks=[clock]))
            asked = runs_pb.ListFlowRunsRequest(parent=parent)
            runs = scene.admin.runs
            wait_until(lambda: runs.ListFlowRuns(asked).flow_runs, "the clock makes runs", PATIENCE_SECONDS)
    finally:
        first.start()
