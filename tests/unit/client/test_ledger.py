"""Where a run's ledger is looked for, and what is said when it is on another host."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from heliograph.api.v1 import agent_service_pb2, flow_run_service_pb2, flow_service_pb2
from heliograph.client.ledger import find_error, open_run
from heliograph.exceptions import NotFoundError
from heliograph.storage import BundleFormat, LaunchSettings, Local

RUN = "01990000-0000-7000-8000-000000000001"


class FakeClient:
    """A control plane that knows one version and one agent."""

    def __init__(self, version: flow_service_pb2.FlowVersion, agent_host: str) -> None:
        self.version = version
        self.agent = agent_service_pb2.Agent(name="agents/north", host=agent_host)

    def get_flow_version(self, _: str) -> flow_service_pb2.FlowVersion:
        return self.version

    def get_flow_run(self, _: str) -> flow_run_service_pb2.FlowRun:
        return started()

    def list_agents(self) -> list[agent_service_pb2.Agent]:
        return [self.agent]

    def list_task_runs(self, _: str) -> list[Any]:
        return []


def started() -> flow_run_service_pb2.FlowRun:
    run = flow_run_service_pb2.FlowRun(name=f"projects/p/flowRuns/{RUN}", agent="agents/north")
    run.start_time.GetCurrentTime()
    return run


def version(folder: Path, host: str, launch: LaunchSettings | None = None) -> flow_service_pb2.FlowVersion:
    made = flow_service_pb2.FlowVersion(name="projects/p/flows/f/versions/1")
    made.bundle.storage, made.bundle.location, made.bundle.host = "local", str(folder), host
    made.bundle.digest = "sha256:" + "0" * 64
    made.bundle.format = int(BundleFormat.SOURCE)  # type: ignore[assignment]
    digest = "sha256:" + "1" * 64
    if launch is not None:
        data, digest = launch.to_json(), launch.digest
        path = folder / "launch" / "sha256" / f"{digest.removeprefix('sha256:')}.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    made.bundle.launch_digest = digest
    return made


def test_a_ledger_beside_a_bundle_of_another_host_is_said_to_be_there(tmp_path: Path) -> None:
    client: Any = FakeClient(version(tmp_path, "berlin-1"), "berlin-1")
    with pytest.raises(NotFoundError, match=rf"not on this host, {socket.gethostname()}: it is on host berlin-1") as no:
        open_run(client, started())
    assert "berlin-1" in no.value.hint
    with pytest.raises(NotFoundError, match="berlin-1"):
        find_error(client, f"{RUN}.12345678")


def test_a_ledger_in_a_folder_of_the_agents_host_is_said_to_be_there(tmp_path: Path) -> None:
    launch = LaunchSettings(ledger={"kind": "local", "dir": str(tmp_path / "results")})
    client: Any = FakeClient(version(tmp_path / "shared", "", launch), "berlin-1")
    with pytest.raises(NotFoundError, match=r"it is on host berlin-1, near .*results"):
        open_run(client, started())
    client.agent.host = socket.gethostname()
    assert open_run(client, started()).results() == []


def test_an_error_that_a_ledger_lacks_names_the_folder_and_no_class(tmp_path: Path) -> None:
    launch = LaunchSettings(ledger={"kind": "local", "dir": str(tmp_path / "results")})
    client: Any = FakeClient(version(tmp_path / "shared", "", launch), socket.gethostname())
    with pytest.raises(NotFoundError) as no:
        find_error(client, f"{RUN}.12345678")
    assert f"the ledger in {tmp_path}/results/ledger has no error" in str(no.value)
    assert "Store" not in str(no.value)


def test_a_local_storage_of_this_host_that_lost_its_files_says_so(tmp_path: Path) -> None:
    client: Any = FakeClient(version(tmp_path, Local(tmp_path).host), "berlin-1")
    with pytest.raises(Exception, match="is not there"):
        open_run(client, started())
