"""`Client` against a control plane: what Prefect 1 users call, with their expectations."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from tests.support import ends
from tests.support.control_plane import InProcessControlPlane

from heliograph import Client, Flow
from heliograph.client.channel import open_channel
from heliograph.client.registration import register
from heliograph.engine.codes import StateCode
from heliograph.exceptions import (
    ConfigurationError,
    DeadlineExceededError,
    IllegalTransitionError,
    InvalidArgumentError,
    MissingParameterError,
    NotFoundError,
    RequestIdReusedError,
    UnavailableError,
    UnknownParameterError,
)
from heliograph.storage.load import load_flows

pytestmark = pytest.mark.xdist_group("e2e-client")

SOURCE = """
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from heliograph import Flow, Parameter, task, unmapped
from heliograph.run_configs import LocalRun
from heliograph.schedules import Schedule
from heliograph.schedules.clocks import CronClock, DatesClock, IntervalClock


@task(max_retries=2, retry_delay=timedelta(seconds=30), timeout=60, tags=["net"])
def extract(city):
    return [city]


@task
def clean(row, secret):
    return row


clocks = [
    CronClock("30 2 * * *", start_date=datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
              parameter_defaults={"city": "Bonn"}, labels=["night"]),
    IntervalClock(timedelta(hours=6), parameter_defaults={"city": "Ulm"}),
    DatesClock([datetime(2199, 1, 1, tzinfo=ZoneInfo("UTC"))], parameter_defaults={"city": "Ulm"}),
]

here = LocalRun(env={"PASSWORD": "hunter2"}, labels=["berlin"])
with Flow("etl", schedule=Schedule(clocks), run_config=here) as flow:
    rows = extract(Parameter("city"))
    clean.map(rows, unmapped("the constant"))
    flow.add_task(Parameter("limit", default=1234567))
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessControlPlane]:
    running = InProcessControlPlane(tmp_path_factory.mktemp("plane"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(plane: InProcessControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path / "home"))
    with Client(plane.address, plane.token) as made:
        made.create_project("proof")
        yield made


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    path = tmp_path / "project" / "etl_flow.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(SOURCE))
    before: dict[str, ModuleType] = dict(sys.modules)
    monkeypatch.syspath_prepend(str(path.parent))
    (found,) = load_flows(path)
    yield found
    for name in set(sys.modules) - set(before):
        if getattr(sys.modules[name], "__file__", None) == str(path):
            del sys.modules[name]


def test_a_registration_tells_names_and_no_values(client: Client, flow: Flow) -> None:
    done = register(flow, "proof", client=client, labels=["extra"])
    version = client.get_flow_version(done.flow_id)
    told = str(done.request) + str(version)
    for value in ("hunter2", "1234567", "the constant"):
        assert value not in told
    assert list(version.launch.env_names) == ["PASSWORD"]
    assert list(version.launch.labels) == ["berlin", "extra"]
    assert version.launch.launcher == "local"
    tasks = {task.name: task for task in version.graph.tasks}
    assert tasks["extract"].max_retries == 2
    assert tasks["extract"].retry_delay.seconds == 30
    assert list(tasks["extract"].tags) == ["net"]
    assert tasks["clean"].mapped
    names = [task.name for task in version.graph.tasks]
    edges = {(names[e.upstream], names[e.downstream], e.key, e.mapped) for e in version.graph.edges}
    assert edges == {("city", "extract", "city", False), ("extract", "clean", "row", True)}
    parameters = {p.name: (p.required, p.has_default) for p in version.graph.parameters}
    assert parameters == {"city": (True, False), "limit": (False, True)}
    cron, interval, dates = version.schedule.clocks
    assert (cron.cron.cron, cron.cron.timezone, cron.cron.day_and) == ("30 2 * * *", "Europe/Berlin", False)
    assert cron.parameter_defaults_json == '{"city": "Bonn"}'
    assert (list(cron.labels), cron.override_labels, interval.override_labels) == (["night"], True, False)
    assert interval.interval.interval_micros == 6 * 3600 * 1_000_000
    assert dates.dates.times[0].ToDatetime(tzinfo=UTC) == datetime(2199, 1, 1, tzinfo=UTC)
    assert version.bundle.host
    assert done.flow_id == "projects/proof/flows/etl/versions/1"
    assert not register(flow, "proof", client=client, labels=["extra"]).created


def test_flow_register_is_the_same_by_another_name(
    client: Client, plane: InProcessControlPlane, flow: Flow, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HELIOGRAPH__CLIENT__ADDRESS", plane.address)
    monkeypatch.setenv("HELIOGRAPH__CLIENT__TOKEN", plane.token)
    flow.name = "by-method"
    assert flow.register(project_name="proof", pickle=True) == "projects/proof/flows/by-method/versions/1"
    assert "no code, no default, no value" in capsys.readouterr().err
    with pytest.raises(InvalidArgumentError, match="project"):
        flow.register(project_name="")
    with pytest.raises(NotFoundError) as caught:
        flow.register(project_name="nowhere")
    assert "heliograph projects create nowhere" in caught.value.hint


@pytest.fixture
def flow_id(client: Client, flow: Flow) -> str:
    flow.schedule = None
    return client.register(flow, "proof")


def test_runs_are_created_told_and_cancelled(client: Client, flow_id: str) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    run_id = client.create_flow_run(
        flow_id, {"city": "Ulm"}, scheduled_start_time=due, run_name="mine", labels=["other"]
    )
    info = client.get_flow_run_info(run_id)
    assert (info.id, info.name, info.flow_id) == (run_id, "mine", flow_id)
    assert info.parameters == {"city": "Ulm"}
    assert info.state is client.get_flow_run_state(run_id) is StateCode.SCHEDULED
    assert info.scheduled_start_time == due
    assert list(client.get_flow_run(run_id).labels) == ["other"]
    assert client.cancel_flow_run(run_id) is True
    assert client.cancel_flow_run(run_id) is True
    assert [r.state for r in client.list_flow_run_states(run_id)][-1] == StateCode.CANCELLED
    with pytest.raises(IllegalTransitionError):
        client.confirm_flow_run_dead(run_id)


def test_an_idempotency_key_gives_one_run(client: Client, flow_id: str) -> None:
    first = client.create_flow_run(flow_id, {"city": "Ulm"}, idempotency_key="monday")
    assert client.create_flow_run(flow_id, {"city": "Ulm"}, idempotency_key="monday") == first
    assert client.create_flow_run(flow_id, {"city": "Ulm"}, idempotency_key="tuesday") != first
    with pytest.raises(RequestIdReusedError):
        client.create_flow_run(flow_id, {"city": "Bonn"}, idempotency_key="monday")


def test_wrong_parameters_are_typed_errors(client: Client, flow_id: str) -> None:
    with pytest.raises(MissingParameterError, match="city"):
        client.create_flow_run(flow_id)
    with pytest.raises(UnknownParameterError, match="town"):
        client.create_flow_run(flow_id, {"city": "Ulm", "town": "Ulm"})
    with pytest.raises(NotFoundError):
        client.create_flow_run("proof/no-such-flow", {})


def test_a_watcher_sees_the_end_and_goes_home(client: Client, flow_id: str) -> None:
    run_id = client.create_flow_run(flow_id, {"city": "Ulm"}, labels=["nobody-has-it"])
    states: list[int] = []
    first = threading.Event()

    def watch() -> None:
        for change in client.watch_flow_run(run_id):
            states.append(change.flow_run.state)
            first.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert first.wait(60)
    client.cancel_flow_run(run_id)
    thread.join(60)
    assert not thread.is_alive()
    assert states[0] == StateCode.SCHEDULED
    assert states[-1] == StateCode.CANCELLED
    assert list(client.tail_logs(run_id)) == []


def test_more_runs_than_a_page_are_listed(client: Client, flow_id: str) -> None:
    flow = flow_id.partition("/versions/")[0]
    for _ in range(5):
        client.create_flow_run(flow_id, {"city": "Ulm"}, scheduled_start_time=datetime.now(UTC) + timedelta(days=9))
    from heliograph.api.v1 import flow_run_service_pb2 as pb

    request = pb.ListFlowRunsRequest(parent="projects/proof", flow=flow, page_size=2)
    found = client.pages(client.services.flow_runs.ListFlowRuns, request, "flow_runs")
    assert len({run.name for run in found}) == len(found) >= 5
    assert len(client.list_flow_runs("proof", flow=flow, limit=3)) == 3


class Flaky(grpc.GenericRpcHandler):
    """Refuses calls with a code for some time, then answers what it was asked."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self.code, self.left, self.seen = code, times, 0

    def service(self, _details: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.seen += 1
            if self.left:
                self.left -= 1
                context.abort(self.code, "not now")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize(
    ("code", "times", "seen", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, 2, 3, None),
        (grpc.StatusCode.UNAVAILABLE, 99, 4, UnavailableError),
        (grpc.StatusCode.INTERNAL, 99, 1, Exception),
    ],
)
def test_only_unavailable_is_tried_again_and_not_forever(
    code: grpc.StatusCode, times: int, seen: int, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.client.connection.RETRY_PAUSES_SECONDS", (0.01, 0.01, 0.01))
    flaky = Flaky(code, times)
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(flaky,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", "t") as client:
            if error is None:
                assert client.whoami().principal == ""
            else:
                with pytest.raises(error):
                    client.whoami()
    finally:
        ends.stop(server)
    assert flaky.seen == seen


def test_every_call_ends_at_its_deadline() -> None:
    release = threading.Event()

    class Silent(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda *_: release.wait(20) and b"")

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", "t", timeout_seconds=0.3) as client, pytest.raises(DeadlineExceededError):
            client.whoami()
    finally:
        release.set()
        ends.stop(server)


def test_plaintext_off_loopback_needs_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(grpc, "insecure_channel", lambda *_, **__: opened.append("plain"))
    monkeypatch.setattr(grpc, "secure_channel", lambda *_, **__: opened.append("tls"))
    monkeypatch.setattr(grpc, "intercept_channel", lambda channel, _: channel)
    open_channel("127.0.0.1:1", "t")
    open_channel("example.org:1", "t")
    open_channel("example.org:1", "t", insecure=True)
    assert opened == ["plain", "tls", "plain"]
    with pytest.raises(ConfigurationError):
        open_channel("", "t")
