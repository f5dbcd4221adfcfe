"""What a request must hold beyond the contract of its fields: parameters, graphs, schedules."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

from heliograph.api.contract import FieldViolation
from heliograph.api.v1 import flow_service_pb2 as flows_pb
from heliograph.api.v1 import schedule_service_pb2 as schedules_pb
from heliograph.exceptions import (
    CycleError,
    DuplicateSlugError,
    InvalidArgumentError,
    MissingParameterError,
    UnknownParameterError,
)
from heliograph_control_plane.errors import BadRequestError, bad_field

from .clocks import check_clock

MAX_TASKS = 10_000
MAX_EDGES = 100_000
MAX_PARAMETERS = 256
MAX_CLOCKS = 100
MAX_DATES = 1_000
MAX_SCHEDULE_BYTES = 256 * 1024
MAX_JSON_DEPTH = 32
MAX_JSON_KEYS = 1_000


# --- parameters -----------------------------------------------------------------------------------------------------


def json_object(path: str, text: str) -> dict[str, Any]:
    """Reads a JSON object of parameter values; the empty string is the empty object.

    Raises:
        BadRequestError: It is no JSON object, is nested deeper than 32, has more than 1,000 keys in all, a key twice,
            or a number that is not finite. The text is not quoted.
    """
    if not text:
        return {}
    # Judged before parsing: the parser recurses.
    if _depth(text) > MAX_JSON_DEPTH:
        raise bad_field(path, f"is nested deeper than {MAX_JSON_DEPTH}")
    count = 0

    def take(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += len(pairs)
        if count > MAX_JSON_KEYS:
            raise bad_field(path, f"has more than {MAX_JSON_KEYS:,} keys")
        taken = dict(pairs)
        if len(taken) != len(pairs):
            raise bad_field(path, "has a key twice in one object")
        return taken

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise bad_field(path, "has a number that is not finite")
        return value

    def constant(_name: str) -> NoReturn:
        raise bad_field(path, "has a number that is not finite")

    def integer(digits: str) -> int:
        if len(digits) > 4_000:
            raise bad_field(path, "has a number with more than 4,000 digits")
        return int(digits)

    try:
        value = json.loads(text, object_pairs_hook=take, parse_float=number, parse_int=integer, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise bad_field(path, f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(value, dict):
        raise bad_field(path, "is not a JSON object")
    return value


def _depth(text: str) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def parameters(path: str, text: str, known: Collection[str], required: Iterable[str]) -> None:
    """Checks a run's parameter values against those of its flow version.

    Raises:
        UnknownParameterError: A name that the version does not have.
        MissingParameterError: A required parameter without a value.
        BadRequestError: The text is no good JSON object.
    """
    given = json_object(path, text)
    if unknown := sorted(set(given) - set(known)):
        raise UnknownParameterError(
            f"the flow has no parameter {_listed(unknown)}",
            hint=f"it has {_listed(sorted(known))}" if known else "it has no parameters",
        )
    if missing := sorted(set(required) - set(given)):
        raise MissingParameterError(f"the flow needs a value for parameter {_listed(missing)}")


def _listed(names: list[str]) -> str:
    # Names of parameters are META in a registration; in a request they may be anything.
    shown = ", ".join(
        "".join(c if c.isprintable() and c not in "<>" else "?" for c in name)[:80] for name in names[:10]
    )
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


# --- graphs ---------------------------------------------------------------------------------------------------------


def graph(message: flows_pb.Graph) -> None:
    """Checks a registered graph: sizes, indices, unique slugs, parameters and keys, no cycle.

    Raises:
        BadRequestError: Sizes, indices, empty names; all of them at once.
        DuplicateSlugError: Two tasks have one slug.
        CycleError: The edges go round in a circle.
    """
    found: list[FieldViolation] = []
    for name, limit in (("tasks", MAX_TASKS), ("edges", MAX_EDGES), ("parameters", MAX_PARAMETERS)):
        if len(getattr(message, name)) > limit:
            found.append(FieldViolation(f"graph.{name}", f"has more than {limit:,} elements"))
    if found:
        raise BadRequestError(found)
    count = len(message.tasks)
    if not count:
        found.append(FieldViolation("graph.tasks", "must have at least one task"))
    found += [
        FieldViolation(f"graph.tasks[{index}].slug", "is empty")
        for index, task in enumerate(message.tasks)
        if not task.slug
    ]
    found += _edge_violations(message, count)
    if any(index >= count for index in message.reference_tasks):
        found.append(FieldViolation("graph.reference_tasks", "names a task that is not there"))
    names = [parameter.name for parameter in message.parameters]
    if "" in names or len(set(names)) != len(names):
        found.append(FieldViolation("graph.parameters", "has an empty name, or one twice"))
    if found:
        raise BadRequestError(found)
    _check_slugs(message)
    _check_cycle(message, count)


def _edge_violations(message: flows_pb.Graph, count: int) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    seen: set[tuple[int, str]] = set()
    for index, edge in enumerate(message.edges):
        if edge.upstream >= count or edge.downstream >= count:
            found.append(FieldViolation(f"graph.edges[{index}]", "names a task that is not there"))
        if edge.key:
            if (edge.downstream, edge.key) in seen:
                found.append(FieldViolation(f"graph.edges[{index}].key", "is taken by another edge of the task"))
            seen.add((edge.downstream, edge.key))
    return found


def _check_slugs(message: flows_pb.Graph) -> None:
    seen: set[str] = set()
    for task in message.tasks:
        if task.slug in seen:
            raise DuplicateSlugError(f"two tasks have the slug {task.slug}")
        seen.add(task.slug)


def _check_cycle(message: flows_pb.Graph, count: int) -> None:
    waiting_for = [0] * count
    downstream: list[list[int]] = [[] for _ in range(count)]
    for edge in message.edges:
        waiting_for[edge.downstream] += 1
        downstream[edge.upstream].append(edge.downstream)
    ready = [task for task, number in enumerate(waiting_for) if not number]
    done = 0
    while ready:
        done += 1
        for task in downstream[ready.pop()]:
            waiting_for[task] -= 1
            if not waiting_for[task]:
                ready.append(task)
    if done < count:
        slugs = [message.tasks[task].slug for task, number in enumerate(waiting_for) if number]
        raise CycleError(f"the graph has a cycle; it is among {_listed(slugs)}")


# --- bundles and launch settings --------------------------------------------------------------------------------------


def bundle(message: flows_pb.BundleReference) -> None:
    """Checks that a bundle says where it is, what it is, and has digests.

    Raises:
        BadRequestError: With everything that is missing.
    """
    found = [
        FieldViolation(f"bundle.{name}", "is empty")
        for name in ("storage", "location", "digest")
        if not getattr(message, name)
    ]
    for name in ("digest", "launch_digest"):
        value: str = getattr(message, name)
        digits = value.removeprefix("sha256:")
        if value and (len(digits) != 64 or digits == value or set(digits) - set("0123456789abcdef")):
            found.append(FieldViolation(f"bundle.{name}", "must be `sha256:` and 64 hexadecimal digits"))
    if "?" in message.location or "@" in message.location.partition("://")[2].partition("/")[0]:
        found.append(FieldViolation("bundle.location", "has a query or credentials, which must not cross"))
    if not message.format:
        found.append(FieldViolation("bundle.format", "is not set"))
    if found:
        raise BadRequestError(found)


# --- schedules ------------------------------------------------------------------------------------------------------


def schedule(message: schedules_pb.ScheduleSpec, known: Collection[str], required: Collection[str]) -> None:
    """Checks a flow's clocks and the parameters that they give.

    Args:
        message: The clocks.
        known: Names of the flow's parameters.
        required: Names of those that need a value.

    Raises:
        BadRequestError: With everything that is wrong in the clocks.
        UnknownParameterError, MissingParameterError: As for a run.
    """
    found: list[FieldViolation] = []
    if len(message.clocks) > MAX_CLOCKS:
        raise bad_field("schedule.clocks", f"has more than {MAX_CLOCKS} elements")
    if message.ByteSize() > MAX_SCHEDULE_BYTES:
        raise bad_field("schedule", f"is larger than {MAX_SCHEDULE_BYTES:,} bytes")
    for index, clock in enumerate(message.clocks):
        path = f"schedule.clocks[{index}]"
        found += _clock_violations(path, clock)
    if found:
        raise BadRequestError(found)
    for index, clock in enumerate(message.clocks):
        parameters(f"schedule.clocks[{index}].parameter_defaults_json", clock.parameter_defaults_json, known, required)


def _clock_violations(path: str, clock: schedules_pb.Clock) -> list[FieldViolation]:
    kind = clock.WhichOneof("kind")
    if kind is None:
        return [FieldViolation(path, "has no kind")]
    if clock.HasField("start_time") and clock.HasField("end_time"):
        start, end = clock.start_time, clock.end_time
        if (start.seconds, start.nanos) > (end.seconds, end.nanos):
            return [FieldViolation(path, "ends before it starts")]
    if kind == "dates" and not 1 <= len(clock.dates.times) <= MAX_DATES:
        return [FieldViolation(f"{path}.dates.times", f"must have 1 to {MAX_DATES:,} times")]
    try:
        check_clock(clock)
    except InvalidArgumentError as error:
        return [FieldViolation(f"{path}.{kind}", str(error))]
    return []
