"""What every service works with, and the questions that all of them ask: whose project, which page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from heliograph.api.v1 import flow_service_pb2 as flows_pb
from heliograph.exceptions import NotFoundError
from heliograph_control_plane import calls
from heliograph_control_plane.auth import Authenticator
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.errors import bad_field
from heliograph_control_plane.metrics import Metrics
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import FlowRun, FlowVersion, Page, RequestKey
from heliograph_control_plane.wakeups import Wakeups

from . import names

if TYPE_CHECKING:
    from google.protobuf.message import Message

T = TypeVar("T")

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
MAX_ANSWER_BYTES = 1024 * 1024
"""An answer stops taking in more items beyond this size; clients accept 4 MiB."""

_MAX_REMEMBERED_VERSIONS = 256
_MAX_REMEMBERED_LATEST = 10_000


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is needed of a flow version again and again. Versions never change."""

    version: int
    slugs: tuple[str, ...]
    parameters: frozenset[str]
    required: tuple[str, ...]


@dataclass(slots=True)
class Backend:
    """The parts that services share."""

    store: Store
    wakeups: Wakeups
    authenticator: Authenticator
    metrics: Metrics
    _versions: OrderedDict[tuple[str, str, int], VersionFacts] = field(default_factory=OrderedDict)
    _latest: dict[tuple[str, str], int] = field(default_factory=dict)
    _registrations: int = 0

    async def version_facts(self, project: str, flow: str, version: int) -> VersionFacts:
        """What is known of a flow version; 0 means the newest. Raises NotFoundError."""
        if not version:
            version = await self._latest_version(project, flow)
        key = (project, flow, version)
        known = self._versions.get(key)
        if known is None:
            known = _facts(await self.store.get_flow_version(project, flow, version))
            self._versions[key] = known
            if len(self._versions) > _MAX_REMEMBERED_VERSIONS:
                self._versions.popitem(last=False)
        else:
            self._versions.move_to_end(key)
        return known

    async def _latest_version(self, project: str, flow: str) -> int:
        known = self._latest.get((project, flow))
        if known is not None:
            return known
        registrations = self._registrations
        found = await self.store.latest_version(project, flow)
        # Remembered only where nobody else registers, and when nobody did while it was read.
        if self.store.kind == "sqlite" and registrations == self._registrations:
            self._latest[project, flow] = found
            if len(self._latest) > _MAX_REMEMBERED_LATEST:
                self._latest.clear()
        return found

    def registered(self, project: str, flow: str) -> None:
        """Tells that a flow may have a newer version. Call it after the commit and before the answer."""
        self._registrations += 1
        self._latest.pop((project, flow), None)

    async def visible_run(self, path: str, name: str) -> FlowRun:
        """Returns the run of that name. Not there and not for this caller are one answer.

        A run token sees its own run and those that this run created.
        """
        project, run_id = names.run(path, name)
        caller = calls.principal()
        if project != names.ANY and not caller.may_see(project):
            raise no_run()
        try:
            run = await self.store.get_flow_run(run_id)
        except NotFoundError:
            raise no_run() from None
        wrong_project = project not in {names.ANY, run.project} or not caller.may_see(run.project)
        foreign = caller.run is not None and caller.run.run_id != run.run_id and run.created_by != caller.name
        if wrong_project or foreign:
            raise no_run()
        return run


def _facts(record: FlowVersion) -> VersionFacts:
    graph = flows_pb.Graph.FromString(record.graph)
    return VersionFacts(
        record.version,
        tuple(task.slug for task in graph.tasks),
        frozenset(parameter.name for parameter in graph.parameters),
        tuple(parameter.name for parameter in graph.parameters if parameter.required),
    )


def no_run() -> NotFoundError:
    """The one answer for runs that are not there or not for this caller."""
    return NotFoundError("no such flow run")


def own_project(project: str) -> str:
    """Returns `project` when the caller's token reaches into it; else it is not found."""
    if not calls.principal().may_see(project):
        raise NotFoundError("no such project")
    return project


def request_key(method: str, request: Message, path: str = "") -> RequestKey:
    """The identity of a creating call: method, caller, request id, and a digest of everything else.

    Args:
        method: Name of the method.
        request: Its request.
        path: Where in the message that was sent `request` stands.
    """
    request_id: str = getattr(request, "request_id")  # noqa: B009  # by name: requests have no common type
    if not request_id:
        raise bad_field(f"{path}request_id", "is empty")
    content: Any = type(request)()
    content.CopyFrom(request)
    content.ClearField("request_id")
    digest = sha256(content.SerializeToString(deterministic=True)).digest()
    return RequestKey(f"{method}/{calls.principal().name}", request_id, digest)


def page_size(asked: int, default: int = DEFAULT_PAGE, most: int = MAX_PAGE) -> int:
    """The size of a page: the default for 0, never more than the most."""
    return min(asked or default, most)


async def gather(
    fetch: Callable[[int, str], Pending[Page[T]]],
    convert: Callable[[T], Message],
    size: int,
    token: str,
    *,
    at_once: int,
) -> tuple[Sequence[Any], str]:
    """Reads up to `size` items, some at a time, and stops early when the answer has become large.

    Args:
        fetch: Reads a page of so many items after a token.
        convert: Makes the message of an item.
        size: Most items.
        token: Where to begin.
        at_once: Items read at a time: so many of the largest must fit into what clients accept.

    Returns:
        Messages, and the token of what comes after them.
    """
    messages: list[Message] = []
    taken = 0
    while True:
        page = await fetch(min(at_once, size - len(messages)), token)
        token = page.next_token
        for item in page.items:
            try:
                message = convert(item)
            except DAMAGE as error:
                tell_damage(type(item).__name__, _key_of(item), error)
                continue
            messages.append(message)
            taken += message.ByteSize()
        if not token or len(messages) >= size or taken > MAX_ANSWER_BYTES:
            return messages, token


def _key_of(item: object) -> str:
    """Returns what a record is known by, for the log: an id or a name, never a value of the user's."""
    names = ("run_id", "project", "flow", "version", "task", "map_index", "name", "token_id")
    return "/".join(str(getattr(item, name)) for name in names if hasattr(item, name))
