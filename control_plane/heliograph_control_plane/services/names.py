"""Resource names as the API writes them, read and built."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from heliograph.exceptions import NotFoundError
from heliograph_control_plane.errors import bad_field
from heliograph_control_plane.store.records import FlowRun

_SEGMENT = r"[^/]{1,200}"
_PROJECT = re.compile(rf"projects/({_SEGMENT})")
_FLOW = re.compile(rf"projects/({_SEGMENT})/flows/({_SEGMENT})")
_VERSION = re.compile(rf"projects/({_SEGMENT})/flows/({_SEGMENT})/versions/(latest|[1-9][0-9]{{0,8}})")
_SCHEDULE = re.compile(rf"projects/({_SEGMENT})/flows/({_SEGMENT})/schedule")
_RUN = re.compile(rf"projects/({_SEGMENT})/flowRuns/({_SEGMENT})")
_TASK_RUN = re.compile(rf"projects/({_SEGMENT})/flowRuns/({_SEGMENT})/taskRuns/([0-9]{{1,9}})(?:\.([0-9]{{1,9}}))?")
_AGENT = re.compile(rf"agents/({_SEGMENT})")
_TOKEN = re.compile(r"tokens/([A-Za-z0-9_.\-]{1,100})")
_PRINCIPAL = re.compile(rf"(?:users|services)/{_SEGMENT}")

ANY = "-"
"""The project that means: whichever it is, or all that the token may see."""


@dataclass(frozen=True, slots=True)
class TaskRunName:
    """The parts of a task run's name."""

    project: str
    run_id: str
    task: int
    map_index: int | None


def new_id(path: str, value: str, max_characters: int) -> str:
    """Returns the name of something to be made, after checking its form beyond what the contract says."""
    if not 1 <= len(value) <= max_characters or "/" in value or value in {ANY, ".", ".."} or value != value.strip():
        raise bad_field(path, f"must be 1 to {max_characters} characters, without `/` and outer spaces, and not `-`")
    return value


def project(path: str, name: str, *, wildcard: bool = False) -> str:
    """Reads `projects/{project}`; the empty string stands for the wildcard where it is allowed."""
    match = _match(_PROJECT, path, name, "projects/{project}")
    if match[1] == ANY:
        if not wildcard:
            raise bad_field(path, "must name one project")
        return ""
    return match[1]


def flow(path: str, name: str) -> tuple[str, str]:
    """Reads `projects/{project}/flows/{flow}`."""
    match = _match(_FLOW, path, name, "projects/{project}/flows/{flow}")
    return match[1], match[2]


def version(path: str, name: str) -> tuple[str, str, int]:
    """Reads `projects/{project}/flows/{flow}/versions/{version}`; 0 stands for `latest`."""
    match = _match(_VERSION, path, name, "projects/{project}/flows/{flow}/versions/{version}")
    return match[1], match[2], 0 if match[3] == "latest" else int(match[3])


def flow_or_version(path: str, name: str) -> tuple[str, str, int]:
    """Reads the name of a flow (version 0: its newest) or of one of its versions."""
    if match := _VERSION.fullmatch(name):
        return match[1], match[2], 0 if match[3] == "latest" else int(match[3])
    match = _match(_FLOW, path, name, "projects/{project}/flows/{flow}[/versions/{version}]")
    return match[1], match[2], 0


def schedule(path: str, name: str) -> tuple[str, str]:
    """Reads `projects/{project}/flows/{flow}/schedule`."""
    match = _match(_SCHEDULE, path, name, "projects/{project}/flows/{flow}/schedule")
    return match[1], match[2]


def run(path: str, name: str) -> tuple[str, str]:
    """Reads `projects/{project}/flowRuns/{flow_run}`. An id that no run can have is not found."""
    match = _match(_RUN, path, name, "projects/{project}/flowRuns/{flow_run}")
    return match[1], _run_id(match[2])


def task_run(path: str, name: str) -> TaskRunName:
    """Reads `projects/{project}/flowRuns/{flow_run}/taskRuns/{task}[.{map_index}]`."""
    match = _match(_TASK_RUN, path, name, "projects/{project}/flowRuns/{flow_run}/taskRuns/{task}[.{map_index}]")
    return TaskRunName(match[1], _run_id(match[2]), int(match[3]), int(match[4]) if match[4] else None)


def is_task_run(name: str) -> bool:
    """True when `name` has the form of a task run's name."""
    return _TASK_RUN.fullmatch(name) is not None


def agent(path: str, name: str) -> str:
    """Reads `agents/{agent}`."""
    return _match(_AGENT, path, name, "agents/{agent}")[1]


def token(path: str, name: str) -> str:
    """Reads `tokens/{token}`."""
    return _match(_TOKEN, path, name, "tokens/{token}")[1]


def principal(path: str, name: str) -> str:
    """Checks `users/{user}` or `services/{service}`."""
    return _match(_PRINCIPAL, path, name, "users/{user} or services/{service}")[0]


def run_name(record: FlowRun) -> str:
    """The resource name of a run."""
    return f"projects/{record.project}/flowRuns/{record.run_id}"


def _match(pattern: re.Pattern[str], path: str, name: str, form: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise bad_field(path, f"must have the form {form}")
    return match


def _run_id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise NotFoundError("no such flow run") from None
