"""Finds a run's ledger from anywhere that may read the user's storage, with the caller's own credentials.

The control plane says where the bundle of the run's flow version is; the launch settings beside it say where the ledger
is. The ledger itself never passes the control plane.
"""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from heliograph.client.refs import task_labels
from heliograph.exceptions import HeliographError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2, flow_service_pb2
    from heliograph.client.client import Client
    from heliograph.ledger import LedgerReader


@dataclass(frozen=True, slots=True)
class ResultRow:
    """Where one result is, or why it was not kept.

    Attributes:
        task: What the task run is called, `extract` or `clean[3]`.
        location: Where the result is, whole; None when it was not kept.
        kind: Dotted class path of its `Result`.
        serializer: Dotted class path of its serializer.
        size_bytes: Its size; 0 when unknown.
        reason: Why it was not kept.
    """

    task: str
    location: str | None
    kind: str
    serializer: str
    size_bytes: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The text of one failure.

    Attributes:
        error_id: Its id.
        text: The traceback.
        task: What the task run is called; empty for the flow run.
        exception_class: Dotted name.
        source: `ledger`, or `control plane` where the text was shared.
    """

    error_id: str
    text: str
    task: str
    exception_class: str
    source: str = "ledger"

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class RunLedger:
    """The ledger of one run, its indices turned into names.

    Attributes:
        reader: The ledger.
        version: The run's flow version.
    """

    reader: LedgerReader
    version: flow_service_pb2.FlowVersion

    def results(self) -> list[ResultRow]:
        """Returns where results are, by task and child."""
        found = sorted(self.reader.results().items(), key=lambda item: (item[0][0], item[0][1] or 0))
        return [
            ResultRow(
                task=self.label(*key),
                location=_whole_location(stored.location, stored.config),
                kind=stored.kind,
                serializer=stored.serializer,
                size_bytes=stored.size_bytes,
                reason=stored.reason,
            )
            for key, stored in found
        ]

    def error(self, error_id: str) -> ErrorText:
        """Returns the text of one failure.

        Raises:
            NotFoundError: The ledger does not have it.
        """
        found = self.reader.error(error_id)
        task = "" if found.task is None else self.label(found.task, found.map_index)
        return ErrorText(found.error_id, found.text, task, found.exception_class)

    def label(self, task: int, map_index: int | None) -> str:
        """Returns what a task run is called."""
        label = self._labels[task] if task < len(self._labels) else f"task {task}"
        return label if map_index is None else f"{label}[{map_index}]"

    @cached_property
    def _labels(self) -> list[str]:
        return task_labels(self.version.graph)


def open_run(client: Client, run: flow_run_service_pb2.FlowRun) -> RunLedger:
    """Opens the ledger of a run.

    Raises:
        NotFoundError: The ledger is in a folder of another host.
        StorageError: The launch settings cannot be read from here.
        ResultStoreError: The ledger cannot be read from here.
    """
    from heliograph.ledger import LedgerReader, LocalLedgerStore, open_store
    from heliograph.storage import BundleFormat, BundleRef, from_reference
    from heliograph.storage.base import ObjectMissingError
    from heliograph.storage.own_launch import complete, own_launch_path, own_launch_text

    version = client.get_flow_version(run.flow_version)
    bundle = version.bundle
    reference = BundleRef(
        storage=bundle.storage,
        location=bundle.location,
        digest=bundle.digest,
        launch_digest=bundle.launch_digest,
        format=BundleFormat(bundle.format),
        python_version=bundle.python_version,
        host=bundle.host,
    )
    run_id = run.name.rpartition("/")[2]
    try:
        launch = from_reference(bundle.storage, bundle.location, host=bundle.host).fetch_launch(reference)
    except ObjectMissingError:
        if _is_elsewhere(bundle.host):
            raise _not_here(run_id, bundle.host, bundle.location) from None
        raise
    if "ledger" in launch.from_agent:
        _, project, _, flow, *_ = run.flow_version.split("/")
        launch = complete(
            replace(launch, from_agent=("ledger",)), own_launch_text(project, flow), str(own_launch_path(project, flow))
        )
    store = open_store(launch.ledger)
    if isinstance(store, LocalLedgerStore) and run.HasField("start_time") and not store.names(run_id):
        # It was written by the process of the run, on its agent's host.
        host = bundle.host or _host_of_agent(client, run.agent)
        if _is_elsewhere(host):
            raise _not_here(run_id, host, str(store.dir))
    return RunLedger(LedgerReader(store, run_id), version)


def _is_elsewhere(host: str) -> bool:
    return bool(host) and host != socket.gethostname()


def _not_here(run_id: str, host: str, folder: str) -> NotFoundError:
    return NotFoundError(
        f"the ledger of run {run_id} is not on this host, {socket.gethostname()}: it is on host {host}, near {folder}",
        hint=f"give the same command on {host}; with results in a bucket, the ledger can be read from anywhere",
    )


def _host_of_agent(client: Client, agent: str) -> str:
    """Returns the host of the agent that a run went to; empty when it is not known, or not to be seen."""
    try:
        return next((known.host for known in client.list_agents() if known.name == agent), "")
    except HeliographError:
        return ""


def find_error(client: Client, error_id: str) -> ErrorText:
    """Finds the text of a failure by its id, `<flow run>.<8 hexadecimal digits>`.

    Raises:
        InvalidArgumentError: It is no id of a failure.
        NotFoundError: Neither the ledger nor, where texts are shared, the control plane has it.
    """
    run_id, dot, digits = error_id.partition(".")
    if not dot or not run_id or not digits:
        raise InvalidArgumentError(
            f"{error_id!r} is no id of a failure", hint="`heliograph runs why RUN` tells the ids of its failures"
        )
    run = client.get_flow_run(run_id)
    try:
        return open_run(client, run).error(error_id)
    except NotFoundError:
        shared = _shared_text(client, run, error_id)
        if shared is None:
            raise
        return shared


def _shared_text(client: Client, run: flow_run_service_pb2.FlowRun, error_id: str) -> ErrorText | None:
    """Returns a text that the user's side chose to share, as `heliograph dev` does."""
    if run.failure.error_id == error_id and run.failure.text:
        return ErrorText(error_id, run.failure.text, "", run.failure.exception_class, "control plane")
    for task in client.list_task_runs(run.name):
        if task.failure.error_id == error_id and task.failure.text:
            return ErrorText(error_id, task.failure.text, task.task_slug, task.failure.exception_class, "control plane")
    return None


def _whole_location(location: str | None, config: dict[str, str]) -> str | None:
    """Returns a location that a person can go to: with its folder or bucket."""
    if location is None:
        return None
    if config.get("bucket") and "://" not in location:
        return f"s3://{config['bucket']}/{location}"
    if config.get("dir") and not location.startswith("/"):
        return f"{config['dir'].rstrip('/')}/{location}"
    return location
