"""Log lines: how they look here, and what of them may cross."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator

import pytest

from heliograph import Flow, task
from heliograph.config import set_temporary_config
from heliograph.exceptions import ConfigurationError
from heliograph.logging import attach_sink, configure, crossing_record, detach_sink, get_logger
from heliograph.logging.scrubber import forget_all, remember

CANARY = "c4nary7711"


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[_Kept]:
    handler = _Kept()
    attach_sink(handler)
    yield handler
    detach_sink(handler)
    forget_all()


def test_a_line_looks_as_people_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    get_logger("etl").warning("%d records", 74)
    line = capsys.readouterr().out.strip()
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}\] WARNING - heliograph\.etl \| 74 records", line)


def test_names_are_below_the_products() -> None:
    assert get_logger().name == "heliograph"
    assert get_logger("heliograph.x").name == get_logger("x").name == "heliograph.x"


def test_level_format_and_extra_loggers_come_from_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"logging.level": "ERROR", "logging.format": "%(message)s!", "logging.extra_loggers": ["other.library"]}
    with set_temporary_config(changes):
        configure()
        get_logger().info("quiet")
        get_logger().error("loud")
        logging.getLogger("other.library").error("theirs")
    configure()
    assert capsys.readouterr().out == "loud!\ntheirs!\n"
    with set_temporary_config({"logging.format": "%(nonsense"}), pytest.raises(ConfigurationError):
        configure()
    configure()


def test_records_carry_the_indices_of_their_task(kept: _Kept) -> None:
    @task
    def numbers() -> list[int]:
        get_logger("mine").info("making")
        return [1, 2]

    @task
    def show(number: int) -> None:
        get_logger("mine").info("got %d", number)

    with Flow("x") as flow:
        show.map(numbers())
    flow.run()
    get_logger("mine").info("outside")
    found = {
        record.getMessage(): (record.task_index, record.map_index)  # type: ignore[attr-defined]
        for record in kept.records
        if record.name == "heliograph.mine"
    }
    assert found == {"making": (0, None), "got 1": (1, 0), "got 2": (1, 1), "outside": (None, None)}


def test_a_task_that_logs_its_prints_logs_each_line_once(kept: _Kept, capsys: pytest.CaptureFixture[str]) -> None:
    @task(log_stdout=True)
    def talk() -> None:
        print("printed line")
        get_logger("mine").info("logged line")

    with Flow("x") as flow:
        talk()
    flow.run()
    out = capsys.readouterr().out
    assert out.count("printed line") == 1
    assert out.count("logged line") == 1
    records = {record.getMessage(): record for record in kept.records}
    assert crossing_record(records["printed line"], "redacted") is None
    assert crossing_record(records["printed line"], "full") is not None
    assert crossing_record(records["logged line"], "redacted") == (20, "heliograph.mine", "logged line")


def _record(
    message: object, *arguments: object, error: BaseException | None = None, **extra: object
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("heliograph.mine", logging.ERROR, "/x/etl.py", 1, message, arguments, info)
    record.__dict__.update(extra)
    return record


def _error() -> BaseException:
    try:
        try:
            int(CANARY)
        except ValueError as error:
            raise RuntimeError(f"cannot use {CANARY}") from error
    except RuntimeError as error:
        return error


def test_local_tells_level_alone() -> None:
    assert crossing_record(_record("text %s", CANARY, error=_error()), "local") == (40, "", "")


def test_redacted_tells_class_and_frames_but_not_the_text_of_an_exception() -> None:
    error = _error()
    crossed = crossing_record(_record("failed: %s", error, error=error), "redacted")
    assert crossed is not None
    assert CANARY not in crossed[2]
    assert crossed[2].startswith("failed: ***\n")
    assert crossed[2].endswith("in _error\nbuiltins.RuntimeError")


def test_full_tells_everything_but_secrets() -> None:
    error = _error()
    crossed = crossing_record(_record("failed", error=error), "full")
    assert crossed is not None
    assert CANARY in crossed[2]
    remember(CANARY)
    crossed = crossing_record(_record("failed: %s", CANARY, error=error), "full")
    forget_all()
    assert crossed is not None
    assert CANARY not in crossed[2]


def test_lines_that_stay_local_stay() -> None:
    assert crossing_record(_record("x", stays_local=True), "redacted") is None
    assert crossing_record(_record("x", stays_local=True), "full") == (40, "heliograph.mine", "x")


def test_limits_and_hostile_arguments() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError(CANARY)

    crossed = crossing_record(_record("value %s", Hostile()), "redacted")
    assert crossed == (40, "heliograph.mine", "value %s")
    assert crossing_record(_record("%d", "no number"), "redacted") == (40, "heliograph.mine", "%d")
    long = crossing_record(_record("ä" * 10_000), "redacted")
    assert long is not None
    assert len(long[2].encode()) <= 8192
    assert long[2].endswith("… (cut)")
    record = _record("x")
    record.name = "a<b>\n" + "n" * 300
    crossed = crossing_record(record, "redacted")
    assert crossed is not None
    assert len(crossed[1].encode()) <= 200
    assert not set("<>\n") & set(crossed[1])


def test_a_secret_that_is_cut_at_the_limit_is_scrubbed_first() -> None:
    remember("s3cret-value-4711")
    crossed = crossing_record(_record("x" * 8180 + "s3cret-value-4711"), "redacted")
    forget_all()
    assert crossed is not None
    assert "s3cr" not in crossed[2]


def test_the_console_follows_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    get_logger().warning("before")
    assert "before" in capsys.readouterr().out
    real, sys.stdout = sys.stdout, sys.stderr
    try:
        get_logger().warning("elsewhere")
    finally:
        sys.stdout = real
    captured = capsys.readouterr()
    assert "elsewhere" in captured.err
    assert "elsewhere" not in captured.out
