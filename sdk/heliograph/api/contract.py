"""The contract of what may cross the line, as code that runs.

Every string, bytes and map field of the API carries a `crosses` option. This module compiles those options, once per
message type, into checks (`violations`), brings text into their form (`conform`, for whoever writes messages), lists
what the descriptors lack (`gaps`, for a test), and renders the table that the documentation shows (`render_table`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from heliograph.api.v1 import options_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
    from google.protobuf.message import Message

DEFAULT_MAX_ITEMS = 1_000
"""Limit on the elements of a repeated field whose option names none."""

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Controls, line and paragraph separators, direction marks, invisible joiners, surrogates, and what opens a tag.
_NOT_META = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b{_BIDI}\ufeff\ud800-\udfff<>]")
_NOT_ID = re.compile(r"[^A-Za-z0-9_.:+/=\-]")
_NOT_CREDENTIAL = re.compile(r"[^\x21-\x7e]")
_NUL = re.compile("\x00")

_MAX_SIGNED = 2**63 - 1
_TIMESTAMP_SECONDS = (-62_135_596_800, 253_402_300_799)
_DURATION_SECONDS = 315_576_000_000

Step = Callable[[Any, str, "list[FieldViolation]"], None]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One broken rule: the field's path in the message (`graph.tasks[3].slug`) and what is wrong, without the value."""

    path: str
    description: str


# --- checking -------------------------------------------------------------------------------------------------------


def violations(message: Message) -> list[FieldViolation]:
    """Returns every rule of the contract that `message` breaks; an empty list when it keeps them all.

    Checked are sizes, numbers of elements, character sets, known enum values, and ranges of times and integers.
    Descriptions never quote the value.
    """
    found: list[FieldViolation] = []
    for step in _plan(message.DESCRIPTOR):
        step(message, "", found)
    return found


@cache
def _plan(descriptor: Descriptor) -> tuple[Step, ...]:
    """The checks of one message type. Fields that can break no rule have none."""
    if descriptor.full_name == "google.protobuf.Timestamp":
        return (_check_timestamp,)
    if descriptor.full_name == "google.protobuf.Duration":
        return (_check_duration,)
    steps = (_step(field) for field in descriptor.fields)
    return tuple(step for step in steps if step is not None)


def _step(field: FieldDescriptor) -> Step | None:
    name = field.name
    if field.type == field.TYPE_MESSAGE:
        return _map_step(field) if _is_map(field) else _message_step(field)
    check = _value_check(field)
    if check is None:
        return None
    if _is_repeated(field):
        limit = _rule(field).max_items or DEFAULT_MAX_ITEMS

        def check_items(message: Any, path: str, found: list[FieldViolation]) -> None:
            values = getattr(message, name)
            if len(values) > limit:
                found.append(FieldViolation(f"{path}{name}", f"has more than {limit:,} elements"))
                return
            for index, value in enumerate(values):
                if problem := check(value):
                    found.append(FieldViolation(f"{path}{name}[{index}]", problem))

        return check_items

    def check_one(message: Any, path: str, found: list[FieldViolation]) -> None:
        value = getattr(message, name)
        if value and (problem := check(value)):
            found.append(FieldViolation(f"{path}{name}", problem))

    return check_one


def _message_step(field: FieldDescriptor) -> Step | None:
    name, inner = field.name, field.message_type
    assert inner is not None
    if not _can_break(inner, frozenset()):
        return None

    def check_one(message: Any, path: str, found: list[FieldViolation]) -> None:
        if message.HasField(name):
            child = getattr(message, name)
            for step in _plan(inner):
                step(child, f"{path}{name}.", found)

    def check_items(message: Any, path: str, found: list[FieldViolation]) -> None:
        steps = _plan(inner)
        for index, child in enumerate(getattr(message, name)):
            before = f"{path}{name}[{index}]."
            for step in steps:
                step(child, before, found)

    return check_items if _is_repeated(field) else check_one


def _map_step(field: FieldDescriptor) -> Step:
    name, rule = field.name, _rule(field)
    check = _text_check(rule)
    limit = rule.max_items or DEFAULT_MAX_ITEMS

    def check_map(message: Any, path: str, found: list[FieldViolation]) -> None:
        values = getattr(message, name)
        if len(values) > limit:
            found.append(FieldViolation(f"{path}{name}", f"has more than {limit:,} elements"))
            return
        for index, pair in enumerate(values.items()):
            problems = (check(part) for part in pair if isinstance(part, (str, bytes)))
            found += [FieldViolation(f"{path}{name}[{index}]", problem) for problem in problems if problem]

    return check_map


def _can_break(descriptor: Descriptor, seen: frozenset[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    if descriptor.full_name in {"google.protobuf.Timestamp", "google.protobuf.Duration"}:
        return True
    inside = seen | {descriptor.full_name}
    return any(
        _can_break(field.message_type, inside) if field.message_type is not None else _value_check(field) is not None
        for field in descriptor.fields
    )


def _value_check(field: FieldDescriptor) -> Callable[[Any], str | None] | None:
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        return _text_check(_rule(field))
    if field.type == field.TYPE_ENUM:
        assert field.enum_type is not None
        known = frozenset(value.number for value in field.enum_type.values)
        return lambda value: None if value in known else "is not a known value"
    if field.type in (field.TYPE_UINT64, field.TYPE_FIXED64):
        return lambda value: "is too large" if value > _MAX_SIGNED else None
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
        return lambda value: None if abs(value) < float("inf") else "is not a finite number"
    return None


def _text_check(rule: options_pb2.Crosses) -> Callable[[str | bytes], str | None]:
    limit = rule.max_bytes
    forbidden, wording = _forbidden(rule)

    def check(value: str | bytes) -> str | None:
        if isinstance(value, bytes):
            return f"is longer than {limit:,} bytes" if len(value) > limit else None
        # A character is at least one byte and at most four: most values need no encoding to be judged.
        if len(value) * 4 > limit and len(value.encode("utf-8", "surrogatepass")) > limit:
            return f"is longer than {limit:,} bytes"
        if forbidden.search(value):
            return wording
        return None

    return check


def _forbidden(rule: options_pb2.Crosses) -> tuple[re.Pattern[str], str]:
    kind = rule.__getattribute__("class")
    if kind == options_pb2.CROSSING_CLASS_META:
        return (
            _NOT_META,
            "has a character that is not allowed in a name: a control, a direction mark, `<` or `>`",
        )
    if kind == options_pb2.CROSSING_CLASS_ID:
        return _NOT_ID, "has a character other than letters, digits and `_ . : + / = -`"
    if kind == options_pb2.CROSSING_CLASS_CREDENTIAL:
        return _NOT_CREDENTIAL, "has a character that is not printable ASCII"
    return _NUL, "has a NUL character"


def _check_timestamp(message: Any, path: str, found: list[FieldViolation]) -> None:
    low, high = _TIMESTAMP_SECONDS
    if not (low <= message.seconds <= high and 0 <= message.nanos < 1_000_000_000):
        found.append(FieldViolation(path.rstrip("."), "is not a time between the years 1 and 9999"))


def _check_duration(message: Any, path: str, found: list[FieldViolation]) -> None:
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > _DURATION_SECONDS or abs(nanos) >= 1_000_000_000 or seconds * nanos < 0:
        found.append(FieldViolation(path.rstrip("."), "is not a duration"))


# --- bringing text into form ----------------------------------------------------------------------------------------


def conform_text(text: str, max_bytes: int, *, meta: bool = True) -> str:
    """Returns `text` in the form that the contract asks for: forbidden characters replaced, cut at a character.

    `<` and `>` become `(` and `)` (Python's `<module>`, `<lambda>`), the others U+FFFD.

    Args:
        text: What is to be sent.
        max_bytes: The field's limit in bytes of UTF-8.
        meta: True for a META field, False for USER_TEXT, where only NUL is forbidden.
    """
    forbidden = _NOT_META if meta else _NUL
    if meta:
        text = text.replace("<", "(").replace(">", ")")
    encoded = forbidden.sub("\ufffd", text).encode("utf-8", "replace")
    return encoded[:max_bytes].decode("utf-8", "ignore")


def conform(message: Message) -> None:
    """Brings every META and USER_TEXT string of `message` into form in place, and cuts lists that are too long.

    For writers whose text comes from elsewhere (class names, function names, log lines), so that no single odd
    character can hold up everything behind it. ID and CREDENTIAL fields are left as they are.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            if not _is_map(field):
                for child in value if _is_repeated(field) else (value,):
                    conform(child)
            continue
        if field.type != field.TYPE_STRING:
            continue
        rule = _rule(field)
        kind = rule.__getattribute__("class")
        if kind not in (options_pb2.CROSSING_CLASS_META, options_pb2.CROSSING_CLASS_USER_TEXT):
            continue
        meta = kind == options_pb2.CROSSING_CLASS_META
        if _is_repeated(field):
            kept = value[: rule.max_items or DEFAULT_MAX_ITEMS]
            value[:] = [conform_text(item, rule.max_bytes, meta=meta) for item in kept]
        else:
            setattr(message, field.name, conform_text(value, rule.max_bytes, meta=meta))


# --- walking the descriptors ----------------------------------------------------------------------------------------


def files() -> list[FileDescriptor]:
    """The files of the API, by name. Imports all of them."""
    import importlib
    import pkgutil

    import heliograph.api.v1 as package

    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name.endswith("_pb2"))
    modules = (importlib.import_module(f"{package.__name__}.{name}") for name in names)
    return sorted((module.DESCRIPTOR for module in modules), key=lambda file: str(file.name))


def fields() -> Iterator[FieldDescriptor]:
    """Every field of every message of the API, nested ones included, by file, message and number."""
    for file in files():
        for message in file.message_types_by_name.values():
            yield from _fields(message)


def _fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    if message.GetOptions().map_entry:
        return
    yield from message.fields
    for nested in message.nested_types:
        yield from _fields(nested)


def methods() -> Iterator[MethodDescriptor]:
    """Every method of every service of the API."""
    for file in files():
        for service in file.services_by_name.values():
            yield from service.methods


def policy(method: MethodDescriptor) -> options_pb2.MethodPolicy:
    """The access rule of `method`; empty when it carries none (see `gaps`)."""
    return method.GetOptions().Extensions[options_pb2.policy]


def gaps() -> list[str]:
    """What the contract does not say: text fields without class or limit, methods without a policy."""
    missing = []
    for field in fields():
        text = field.type in (field.TYPE_STRING, field.TYPE_BYTES) or _is_map(field)
        if not text:
            continue
        rule = _rule(field)
        if not rule.__getattribute__("class"):
            missing.append(f"{field.full_name} has no class")
        if not rule.max_bytes:
            missing.append(f"{field.full_name} has no max_bytes")
    missing += [
        f"{method.full_name} has no policy"
        for method in methods()
        if not method.GetOptions().HasExtension(options_pb2.policy)
    ]
    return missing


def _rule(field: FieldDescriptor) -> options_pb2.Crosses:
    return field.GetOptions().Extensions[options_pb2.crosses]


def _is_repeated(field: FieldDescriptor) -> bool:
    # `is_repeated` came with protobuf 6.31, and `label` is deprecated since.
    if hasattr(field, "is_repeated"):
        return field.is_repeated
    return bool(getattr(field, "label") == field.LABEL_REPEATED)  # noqa: B009  # gone from the type stubs


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


# --- the table ------------------------------------------------------------------------------------------------------


def render_table(comments: Mapping[str, str] | None = None) -> str:
    """The contract as a Markdown table: every text field that exists, its class and its limits.

    Args:
        comments: Full name of a field to what its comment says; generated code does not hold comments.
    """
    comments = comments or {}
    lines = ["| field | class | at most | what it is |", "|---|---|---|---|"]
    for field in fields():
        rule = _rule(field)
        if not rule.max_bytes:
            continue
        kind = options_pb2.CrossingClass.Name(rule.__getattribute__("class")).removeprefix("CROSSING_CLASS_")
        limit = f"{rule.max_bytes:,} bytes"
        if _is_repeated(field):
            limit += f", {rule.max_items or DEFAULT_MAX_ITEMS:,} elements"
        name = field.full_name.removeprefix("heliograph.api.v1.")
        text = " ".join(comments.get(field.full_name, "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {kind} | {limit} | {text} |")
    return "\n".join(lines) + "\n"
