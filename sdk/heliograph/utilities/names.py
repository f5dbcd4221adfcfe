"""Names of things, and the resource names that are built of them.

A name is 1 to 200 bytes of UTF-8 that a person can see: no control characters, no invisible marks that turn the
direction of text, no `<` or `>`; names of projects, flows and agents have no `/` either, because resource names are
paths: `projects/P/flows/F/versions/N`, `projects/P/flowRuns/ID`, `agents/A`.
"""

from __future__ import annotations

import unicodedata
from typing import Literal, NamedTuple

from heliograph.exceptions import InvalidArgumentError

MAX_NAME_BYTES = 200
ANY_PROJECT = "-"
"""In place of a project: whichever has it."""

LATEST = "latest"
"""In place of a version: the newest."""

Kind = Literal["project", "flow", "agent", "label", "task", "parameter", "run"]

_WITHOUT_SLASH = frozenset({"project", "flow", "agent"})
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def name_problem(value: str, *, slash: bool = True) -> str:
    """Returns what is wrong with a name, or an empty text.

    Args:
        value: The name.
        slash: False when it may not have a `/`.
    """
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is no text"
    if not size:
        return "is empty"
    if size > MAX_NAME_BYTES:
        return f"has {size} bytes, of which {MAX_NAME_BYTES} are allowed"
    if value != value.strip():
        return "begins or ends with white space"
    for position, character in enumerate(value, 1):
        if character in "<>" or (character == "/" and not slash):
            return f"has the character {character!r} at position {position}"
        if character in _BIDI or unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            return f"has the invisible character U+{ord(character):04X} at position {position}"
    return ""


def check_name(value: object, kind: Kind) -> str:
    """Returns the name.

    Raises:
        InvalidArgumentError: It cannot be the name of such a thing; the message says what is wrong.
    """
    if not isinstance(value, str):
        raise InvalidArgumentError(f"the name of a {kind} must be text, not {value!r}")
    problem = name_problem(value, slash=kind not in _WITHOUT_SLASH)
    if not problem and kind == "project" and value == ANY_PROJECT:
        problem = "stands for every project"
    if problem:
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        raise InvalidArgumentError(f"{shown!r} cannot be the name of a {kind}: it {problem}")
    return value


class FlowName(NamedTuple):
    """The parts of a flow's or a flow version's resource name."""

    project: str
    flow: str
    version: str = ""
    """Number of the version, `latest`, or empty when the name is that of the flow."""


class FlowRunName(NamedTuple):
    """The parts of a flow run's resource name; `project` is `-` when any is meant."""

    project: str
    flow_run_id: str


def project_name(project: str) -> str:
    """Builds `projects/P`."""
    return f"projects/{check_name(project, 'project')}"


def flow_name(project: str, flow: str) -> str:
    """Builds `projects/P/flows/F`."""
    return f"{project_name(project)}/flows/{check_name(flow, 'flow')}"


def flow_version_name(project: str, flow: str, version: int | str) -> str:
    """Builds `projects/P/flows/F/versions/N`."""
    return f"{flow_name(project, flow)}/versions/{_check_version(str(version))}"


def schedule_name(project: str, flow: str) -> str:
    """Builds `projects/P/flows/F/schedule`."""
    return f"{flow_name(project, flow)}/schedule"


def flow_run_name(project: str, flow_run_id: str) -> str:
    """Builds `projects/P/flowRuns/ID`."""
    parent = f"projects/{ANY_PROJECT}" if project == ANY_PROJECT else project_name(project)
    return f"{parent}/flowRuns/{_check_segment(flow_run_id, flow_run_id)}"


def agent_name(agent: str) -> str:
    """Builds `agents/A`."""
    return f"agents/{check_name(agent, 'agent')}"


def parse_project(name: str) -> str:
    """Returns the project of `projects/P`; a bare `P` is taken too.

    Raises:
        InvalidArgumentError: It is neither.
    """
    parts = name.split("/")
    if len(parts) == 2 and parts[0] == "projects":
        return check_name(parts[1], "project")
    if len(parts) == 1:
        return check_name(name, "project")
    raise _not_a("project", name, "projects/PROJECT")


def parse_flow(name: str) -> FlowName:
    """Returns the parts of `projects/P/flows/F`, `projects/P/flows/F/versions/N` or `P/F`.

    Raises:
        InvalidArgumentError: It is none of them.
    """
    match name.split("/"):
        case ["projects", _]:  # the name of a project, not flow `_` of a project called "projects"
            raise _not_a("flow", name, "projects/PROJECT/flows/FLOW[/versions/NUMBER] or PROJECT/FLOW")
        case ["projects", project, "flows", flow] | [project, flow]:
            return FlowName(check_name(project, "project"), check_name(flow, "flow"))
        case ["projects", project, "flows", flow, "versions", version]:
            return FlowName(check_name(project, "project"), check_name(flow, "flow"), _check_version(version))
        case _:
            raise _not_a("flow", name, "projects/PROJECT/flows/FLOW[/versions/NUMBER] or PROJECT/FLOW")


def parse_flow_run(name: str) -> FlowRunName:
    """Returns the parts of `projects/P/flowRuns/ID` or `ID`.

    Raises:
        InvalidArgumentError: It is neither.
    """
    match name.split("/"):
        case ["projects", project, "flowRuns", flow_run_id]:
            if project != ANY_PROJECT:
                check_name(project, "project")
            return FlowRunName(project, _check_segment(flow_run_id, name))
        case [flow_run_id]:
            return FlowRunName(ANY_PROJECT, _check_segment(flow_run_id, name))
        case _:
            raise _not_a("flow run", name, "projects/PROJECT/flowRuns/ID or ID")


def parse_schedule(name: str) -> FlowName:
    """Returns the flow of `projects/P/flows/F/schedule`.

    Raises:
        InvalidArgumentError: It is something else.
    """
    if not name.endswith("/schedule"):
        raise _not_a("schedule", name, "projects/PROJECT/flows/FLOW/schedule")
    return parse_flow(name.removesuffix("/schedule"))


def parse_agent(name: str) -> str:
    """Returns the agent of `agents/A`.

    Raises:
        InvalidArgumentError: It is something else.
    """
    match name.split("/"):
        case ["agents", agent]:
            return check_name(agent, "agent")
        case _:
            raise _not_a("agent", name, "agents/AGENT")


def _check_version(version: str) -> str:
    if version == LATEST or (version.isascii() and version.isdigit() and version[0] != "0" and len(version) <= 10):
        return version
    raise InvalidArgumentError(f"{version!r} is no version of a flow", hint="versions are whole numbers from 1")


def _check_segment(segment: str, whole: str) -> str:
    if name_problem(segment, slash=False):
        raise _not_a("flow run", whole, "projects/PROJECT/flowRuns/ID or ID")
    return segment


def _not_a(kind: str, name: str, form: str) -> InvalidArgumentError:
    shown = name if len(name) <= 120 else f"{name[:117]}..."
    return InvalidArgumentError(f"{shown!r} does not name a {kind}", hint=f"write {form}")
