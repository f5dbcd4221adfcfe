"""Eleven shapes of exceptions that carry a user's value: none of it is in what may be told."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.canary import Canaries

from heliograph.engine.codes import FailureCode
from heliograph.failures import (
    DYNAMIC,
    MAX_FRAMES,
    class_name,
    describe_exception,
    exception_line,
    frames_of,
    plain_text,
)
from heliograph.logging.scrubber import forget_all, remember

CANARY = "c4nary7711"

SHAPES = f"""
import json, subprocess
from dataclasses import dataclass

CANARY = "{CANARY}"

class Plain(Exception):
    pass

class Hostile(Exception):
    def __init__(self):
        super().__init__(CANARY)
    def __str__(self):
        raise SystemExit(CANARY)
    __repr__ = __str__

class Meta(type):
    def __getattribute__(cls, name):
        return CANARY if name in ("__name__", "__qualname__", "__module__") else super().__getattribute__(name)

def message():
    raise ValueError(f"bad value {{CANARY}}")

def key():
    {{}}[CANARY]

def path():
    open(f"/nonexistent/{{CANARY}}.csv")

def chained():
    try:
        int(CANARY)
    except ValueError as error:
        raise Plain("outer") from error

def context():
    try:
        int(CANARY)
    finally:
        raise Plain(CANARY)

def note():
    error = Plain("x")
    error.add_note(CANARY)
    raise error

def syntax():
    compile(f"x = {{CANARY}} (", f"{{CANARY}}.py", "exec")

def group():
    def member():
        raise Plain(CANARY)
    try:
        member()
    except Plain as error:
        raise ExceptionGroup(CANARY, [error, KeyError(CANARY)])

def dynamic_class():
    raise type(CANARY, (Plain,), {{"__module__": CANARY}})(CANARY)

def dynamic_code():
    namespace = {{}}
    exec(compile(f"def {{CANARY}}():\\n    raise ValueError('{{CANARY}}')", f"/tmp/{{CANARY}}.py", "exec"), namespace)
    namespace[CANARY]()

def recursion(value=CANARY):
    return recursion(value)

def hostile():
    raise Hostile()

def metaclass():
    raise Meta("Made", (Exception,), {{}})(CANARY)

def command():
    subprocess.run(["false", CANARY], check=True)

def decode():
    json.loads("{{" + CANARY)
"""
NAMES = [
    "message", "key", "path", "chained", "context", "note", "syntax", "group", "dynamic_class", "dynamic_code",
    "recursion", "hostile", "metaclass", "command", "decode",
]  # fmt: skip


@pytest.fixture
def shapes(tmp_path: Path) -> ModuleType:
    folder = tmp_path / "bundle" / "flows"
    folder.mkdir(parents=True)
    (folder / "etl.py").write_text(SHAPES)
    spec = importlib.util.spec_from_file_location("canary_shapes", folder / "etl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["canary_shapes"] = module
    spec.loader.exec_module(module)
    return module


def _raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 (what is raised is the subject)
        return error
    raise AssertionError("it did not raise")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_value_is_told(shapes: ModuleType, tmp_path: Path, name: str) -> None:
    error = _raised(getattr(shapes, name))
    told = describe_exception(error, tmp_path / "bundle", "local")
    assert CANARY not in repr(told)
    assert str(tmp_path) not in repr(told)
    assert told.text == ""
    assert told.frames
    assert len(told.frames) <= MAX_FRAMES
    assert "flows/etl.py" in {frame.path for frame in told.frames}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("message", "builtins.ValueError"),
        ("chained", "canary_shapes.Plain"),
        ("dynamic_class", "canary_shapes.Plain"),
        ("metaclass", "builtins.Exception"),
        ("group", "builtins.ExceptionGroup"),
        ("hostile", "canary_shapes.Hostile"),
        ("decode", "json.decoder.JSONDecodeError"),
    ],
)
def test_the_class_is_named_as_far_as_its_name_can_be_trusted(shapes: ModuleType, name: str, wanted: str) -> None:
    assert class_name(_raised(getattr(shapes, name))) == wanted


def test_frames_name_file_line_and_function(shapes: ModuleType, tmp_path: Path) -> None:
    frames = frames_of(_raised(shapes.decode), tmp_path / "bundle")
    assert [(frame.path, frame.function) for frame in frames[-4:]] == [
        ("flows/etl.py", "decode"),
        ("json/__init__.py", "loads"),
        ("json/decoder.py", "JSONDecoder.decode"),
        ("json/decoder.py", "JSONDecoder.raw_decode"),
    ]
    line = SHAPES.splitlines().index("def decode():") + 2
    assert frames[-4].line == line


def test_a_group_is_followed_by_its_first_member(shapes: ModuleType, tmp_path: Path) -> None:
    frames = frames_of(_raised(shapes.group), tmp_path / "bundle")
    assert frames[-1].function == "group.<locals>.member"


def test_code_made_at_run_time_has_no_name(shapes: ModuleType, tmp_path: Path) -> None:
    last = frames_of(_raised(shapes.dynamic_code), tmp_path / "bundle")[-1]
    assert (last.path, last.function, last.line) == (DYNAMIC, DYNAMIC, 2)


def test_a_recursion_keeps_both_ends(shapes: ModuleType, tmp_path: Path) -> None:
    frames = frames_of(_raised(shapes.recursion), tmp_path / "bundle")
    assert len(frames) == MAX_FRAMES
    assert frames[-1].function == "recursion"
    assert frames[0].function == "_raised"


def test_code_of_another_machine_is_found_by_the_end_of_its_path(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "etl.py").write_text("")
    namespace: dict[str, object] = {}
    exec(compile("def f():\n    raise ValueError('x')", "/home/alice/project/flows/etl.py", "exec"), namespace)
    frame = frames_of(_raised(namespace["f"]), tmp_path)[-1]  # type: ignore[arg-type]
    assert (frame.path, frame.function) == ("flows/etl.py", "f")
    assert "alice" not in repr(frames_of(_raised(namespace["f"]), None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_the_users_side_gets_the_whole_text(shapes: ModuleType, name: str) -> None:
    error = _raised(getattr(shapes, name))
    text = plain_text(error)
    assert "etl.py" in text
    if name in ("message", "key", "path", "context", "note", "dynamic_class", "command"):
        assert CANARY in text


def test_text_modes_scrub_secrets_and_full_tells_the_traceback(shapes: ModuleType, tmp_path: Path) -> None:
    error = _raised(shapes.message)
    assert describe_exception(error, tmp_path, "redacted").text == f"builtins.ValueError: bad value {CANARY}"
    assert "Traceback" in describe_exception(error, tmp_path, "full").text
    remember(CANARY)
    try:
        for mode in ("redacted", "full"):
            assert CANARY not in describe_exception(error, tmp_path, mode).text  # type: ignore[arg-type]
    finally:
        forget_all()
    assert len(describe_exception(ValueError("ä" * 10_000), None, "redacted").text.encode()) <= 8192


def test_hostile_texts_do_not_raise(shapes: ModuleType) -> None:
    error = _raised(shapes.hostile)
    assert "cannot be made" in exception_line(error)
    assert describe_exception(error, None, "full").text
    assert describe_exception(error, None, "redacted").text


def test_names_are_capped_and_have_few_characters() -> None:
    module = sys.modules[__name__]
    for name in ("Ünïcode", "A" * 300, "with space", "<b>"):
        kind = type(name, (ValueError,), {"__module__": __name__})
        setattr(module, name, kind)
        try:
            assert class_name(kind("x")) == "builtins.ValueError"
        finally:
            delattr(module, name)


def test_the_ledgers_sink_tells_the_same_and_nothing_more(shapes: ModuleType, tmp_path: Path) -> None:
    from heliograph.ledger import LedgerReader, LedgerSink, LedgerWriter, LocalLedgerStore

    canaries = Canaries()
    store = LocalLedgerStore(tmp_path / "ledger")
    writer = LedgerWriter(store, "run-1", 1)
    sink = LedgerSink(writer, tmp_path / "bundle")
    error = ValueError(canaries["exception"])
    told = sink.failed(error, 3, None, FailureCode.EXCEPTION)
    assert writer.close()
    assert canaries.found_in([repr(told).encode()]) == set()
    assert canaries["exception"] in LedgerReader(store, "run-1").error(told.error_id).text
