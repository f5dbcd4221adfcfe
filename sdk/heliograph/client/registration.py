"""Registers flows: the bundle and its launch settings go to the user's storage, a description to the control plane.

The order makes a failure leave nothing half done: the project is looked up and the flow checked first, then the bundle
is stored (under its digest, where storing twice stores once), and one call at the end makes the version.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heliograph.exceptions import InvalidArgumentError, NotFoundError
from heliograph.utilities.names import project_name as name_of_project

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_service_pb2
    from heliograph.client.client import Client
    from heliograph.core.flow import Flow
    from heliograph.storage import Storage
    from heliograph.storage.bundle import Bundle
    from heliograph.storage.collect import BundleReport

MAX_SHOWN_VIOLATIONS = 10
MAX_SHOWN_LEFT = 5


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registration did.

    Attributes:
        flow_id: Resource name of the flow version.
        created: False when this content was registered before: `flow_id` names that version.
        request: What crossed the line, whole.
        files: Number of files in the bundle.
        size_bytes: Size of its files.
        report: What the bundle took and left, and what should be looked at.
    """

    flow_id: str
    created: bool
    request: flow_service_pb2.RegisterFlowVersionRequest
    files: int
    size_bytes: int
    report: BundleReport

    @property
    def version(self) -> int:
        """Number of the version."""
        return int(self.flow_id.rpartition("/")[2])

    def summary(self) -> list[str]:
        """Returns what to tell the author: what was made, where the code is, who can run it, what crossed."""
        request, graph, launch = self.request, self.request.graph, self.request.launch
        project = request.parent.partition("/")[2]
        made = f"{_count(self.files, 'file')}, {self.size_bytes:,} bytes, "
        short = f"{request.bundle.digest[:19]}…"
        needs = [f"on host {request.bundle.host}"] if request.bundle.host else []
        needs += [f"of type {launch.launcher}"] if launch.launcher else []
        needs += [f"with the label{'s' * (len(launch.labels) > 1)} {', '.join(launch.labels)}"] if launch.labels else []
        crossed = [
            _count(len(graph.tasks), "task name"),
            _count(len(graph.edges), "edge"),
            _count(len(graph.parameters), "parameter name"),
            "digests and the bundle's location",
        ]
        crossed += [_count(len(launch.env_names), "name") + " of variables"] if launch.env_names else []
        crossed += [_count(len(request.schedule.clocks), "clock")] if request.schedule.clocks else []
        head = f"Registered {project}/{request.flow_id}, version {self.version}."
        if not self.created:
            head = f"{project}/{request.flow_id} is unchanged: version {self.version}."
        return [
            head,
            f"  Bundle   {made}{short} in {request.bundle.location}",
            f"  Took     {_took(self.report)}",
            *([f"  Left     {_left(self.report)}"] if self.report.dropped else []),
            f"  Runs on  {'agents ' + ' '.join(needs) if needs else 'any agent'}",
            *([f"  Signed   by {request.bundle.signing_key_id}"] if request.bundle.signature else []),
            f"  Crossed  {', '.join(crossed)}; no code, no default, no value",
            *(f"  Note     {note}" for note in self.report.notes),
            *(f"  Warning  {warning}" for warning in self.report.warnings),
        ]


def register_flow(
    flow: Flow,
    project_name: str,
    *,
    labels: Sequence[str] | None = None,
    set_schedule_active: bool = True,
    project_root: str | os.PathLike[str] | None = None,
    pickle: bool | None = None,
    client: Client | None = None,
    quiet: bool = False,
) -> str:
    """Registers a flow and says on stderr what that did. `register` has the arguments and errors.

    Args:
        flow: The flow.
        project_name: A project that exists.
        labels: See `register`.
        set_schedule_active: See `register`.
        project_root: See `register`.
        pickle: See `register`.
        client: See `register`.
        quiet: True to say nothing.

    Returns:
        Resource name of the flow version: the `flow_id` of `Client.create_flow_run`.
    """
    done = register(
        flow,
        project_name,
        labels=labels or (),
        set_schedule_active=set_schedule_active,
        project_root=project_root,
        pickle=pickle,
        client=client,
    )
    if not quiet:
        print("\n".join(done.summary()), file=sys.stderr)
    return done.flow_id


def register(
    flow: Flow,
    project_name: str,
    *,
    labels: Sequence[str] = (),
    set_schedule_active: bool = True,
    project_root: str | os.PathLike[str] | None = None,
    pickle: bool | None = None,
    client: Client | None = None,
) -> Registration:
    """Registers a flow. Content that is registered already gives its version again.

    Args:
        flow: The flow. Without a storage of its own, its bundle goes beside the image of its run config when that names
            a registry, else to the folder of `Local()` on this host.
        project_name: A project that exists.
        labels: Labels that agents must offer, besides those of the flow's run config.
        set_schedule_active: False leaves a new schedule paused.
        project_root: Folder whose files the bundle holds. Default: what its storage says, else found.
        pickle: True to load a pickle of the flow, False to load its file. Default: what its storage says.
        client: Default: one made from the settings.

    Raises:
        NotFoundError: The project is not there, or not visible to the token.
        FlowError: The flow cannot be described: a cycle, two tasks of one slug, a schedule with filters.
        InvalidArgumentError: A name does not keep the contract of what may cross.
        StorageError: The bundle cannot be made or stored.
    """
    from heliograph.storage.default import storage_of

    if client is None:
        from heliograph.client.client import Client

        client = Client()
        own: Client | None = client
    else:
        own = None
    try:
        _require_project(client, project_name)
        storage, chosen = storage_of(flow)
        told = storage.prepare(flow, project_root=project_root, pickle=pickle)
        request = describe_flow(flow, project_name, storage, labels=labels)
        request.schedule_paused = not set_schedule_active
        _check(request)
        bundle = _store(flow, storage, project_root, pickle, request)
        bundle.report.notes.extend([*([chosen] if chosen else []), *told])
        answer = client.call(client.services.flows.RegisterFlowVersion, request)
    finally:
        if own is not None:
            own.close()
    return Registration(
        flow_id=answer.flow_version.name,
        created=answer.created,
        request=request,
        files=len(bundle.manifest.files),
        size_bytes=bundle.manifest.size_bytes,
        report=bundle.report,
    )


def describe_flow(
    flow: Flow, project_name: str, storage: Storage, *, labels: Sequence[str] = ()
) -> flow_service_pb2.RegisterFlowVersionRequest:
    """Returns what would cross the line, without the bundle's digests: those are known when it is stored."""
    from heliograph.api.v1 import flow_service_pb2 as pb
    from heliograph.client.flow_proto import graph_to_proto, schedule_to_proto
    from heliograph.engine.graph import compile_flow
    from heliograph.storage import launch_settings

    settings = launch_settings(flow, storage)
    request = pb.RegisterFlowVersionRequest(
        parent=f"projects/{project_name}",
        flow_id=flow.name,
        graph=graph_to_proto(compile_flow(flow)),
        launch=pb.LaunchSummary(
            labels=sorted({*settings.labels, *labels}),
            launcher=settings.launcher,
            image=settings.image,
            cpu_millis=settings.cpu_millis,
            memory_bytes=settings.memory_bytes,
            env_names=sorted(settings.env),
        ),
    )
    schedule = schedule_to_proto(flow.schedule)
    if schedule is not None:
        request.schedule.CopyFrom(schedule)
    return request


def _store(
    flow: Flow,
    storage: Storage,
    project_root: str | os.PathLike[str] | None,
    pickle: bool | None,
    request: flow_service_pb2.RegisterFlowVersionRequest,
) -> Bundle:
    """Stores the bundle and its launch settings, and writes their reference into the request."""
    from heliograph.api.v1 import flow_service_pb2 as pb
    from heliograph.storage import launch_settings

    bundle = storage.make_bundle(flow, project_root=project_root, pickle=pickle)
    settings = replace(launch_settings(flow, storage), labels=tuple(request.launch.labels))
    reference = storage.put_bundle(bundle, settings)
    request.bundle.CopyFrom(
        pb.BundleReference(
            storage=reference.storage,
            location=reference.location,
            digest=reference.digest,
            launch_digest=reference.launch_digest,
            format=pb.BundleFormat.ValueType(int(reference.format)),
            python_version=reference.python_version,
            host=reference.host,
        )
    )
    sign(request)
    return bundle


def sign(request: flow_service_pb2.RegisterFlowVersionRequest) -> None:
    """Signs what is registered, where the author has a key.

    Raises:
        SignatureError: The key cannot be used.
    """
    from heliograph.api.v1 import flow_service_pb2 as pb
    from heliograph.signing import Statement, signing_key

    key = signing_key()
    if key is None:
        return
    reference = request.bundle
    statement = Statement(
        project=request.parent.partition("/")[2],
        flow=request.flow_id,
        storage=reference.storage,
        location=reference.location,
        digest=reference.digest,
        launch_digest=reference.launch_digest,
        image=request.launch.image,
        graph_hash=request.graph.graph_hash,
        pickled=reference.format == pb.BUNDLE_FORMAT_PICKLE,
    )
    reference.signature = key.sign(statement)
    reference.signing_key_id = key.public.key_id


def _require_project(client: Client, project_name: str) -> None:
    from heliograph.api.v1 import project_service_pb2 as pb

    name = name_of_project(project_name)
    try:
        client.call(client.services.projects.GetProject, pb.GetProjectRequest(name=name))
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no project {project_name!r} at {client.address}, or your token may not see it",
            hint=f"create it with `heliograph projects create {shlex.quote(project_name)}`",
        ) from error


def _check(request: flow_service_pb2.RegisterFlowVersionRequest) -> None:
    """Refuses here what the server would refuse: before anything is stored, and with every violation at once."""
    from heliograph.api.contract import violations

    found = violations(request)
    if found:
        shown = "; ".join(f"{item.path}: {item.description}" for item in found[:MAX_SHOWN_VIOLATIONS])
        more = f"; and {len(found) - MAX_SHOWN_VIOLATIONS} more" if len(found) > MAX_SHOWN_VIOLATIONS else ""
        raise InvalidArgumentError(
            f"the flow {request.flow_id!r} has names that may not cross: {shown}{more}",
            hint="rename them: names are printable and at most 200 bytes, without < and >",
        )


def _took(report: BundleReport) -> str:
    named = report.largest if report.files <= len(report.largest) else []
    where = ", ".join(sorted(path for path, _ in named)) or ("" if report.root is None else f"from {report.root}")
    return f"{where}: {report.how}" if where else report.how


def _left(report: BundleReport) -> str:
    shown = ", ".join(f"{path} ({reason})" for path, reason in report.dropped[:MAX_SHOWN_LEFT])
    more = len(report.dropped) - MAX_SHOWN_LEFT
    return f"{shown} and {more:,} more" if more > 0 else shown


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
