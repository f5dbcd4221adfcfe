"""The ledger: what was recorded is read back, also after a kill, an outage, or a torn write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.engine.codes import FailureCode
from heliograph.engine.results import LocalResult, describe
from heliograph.engine.sink import StoredResult
from heliograph.exceptions import InvalidArgumentError, NotFoundError, ResultStoreError
from heliograph.ledger import LedgerReader, LedgerSink, LedgerWriter, LocalLedgerStore, open_store
from heliograph.ledger import writer as writer_module
from heliograph.ledger.object_store import ObjectLedgerStore
from heliograph.ledger.records import encode, parse_lines

RUN = "01990000-0000-7000-8000-000000000001"


@pytest.fixture
def store(tmp_path: Path) -> LocalLedgerStore:
    return LocalLedgerStore(tmp_path)


def test_everything_that_was_recorded_is_read_back(store: LocalLedgerStore, tmp_path: Path) -> None:
    writer = LedgerWriter(store, RUN, 1)
    sink = LedgerSink(writer)
    kept = describe(LocalResult(tmp_path / "r").write([1, 2]))
    not_kept = StoredResult(None, reason="checkpoint=False")
    sink.result(0, None, kept)
    sink.result(1, None, not_kept)
    sink.mapped_input(2, 7, {"element": kept})
    sink.rendered_name(2, 7, "work on Afghanistan")
    told = sink.failed(ValueError("private"), 2, 7, FailureCode.EXCEPTION)
    assert writer.close()
    reader = LedgerReader(store, RUN)
    assert reader.results() == {(0, None): kept, (1, None): not_kept}
    assert reader.mapped_inputs() == {(2, 7): {"element": kept}}
    assert reader.rendered_names() == {(2, 7): "work on Afghanistan"}
    error = reader.error(told.error_id)
    assert (error.task, error.map_index, error.reason, error.epoch) == (2, 7, "EXCEPTION", 1)
    assert "ValueError: private" in error.text
    assert "private" not in repr(told)
    with pytest.raises(NotFoundError):
        reader.error(f"{RUN}.00000000")


def test_error_ids_lead_to_the_run(store: LocalLedgerStore) -> None:
    writer = LedgerWriter(store, RUN, 1)
    ids = {writer.new_error_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(error_id.rpartition(".")[0] == RUN and len(error_id) <= 80 for error_id in ids)


def test_a_later_attempt_wins_and_continues(store: LocalLedgerStore) -> None:
    for epoch, location in ((2, "second"), (1, "first"), (10, "tenth")):
        writer = LedgerWriter(store, RUN, epoch)
        writer.result(0, None, StoredResult(location))
        assert writer.close()
    assert LedgerReader(store, RUN).results()[0, None].location == "tenth"
    again = LedgerWriter(store, RUN, 10)
    again.result(0, None, StoredResult("again"))
    assert again.close()
    assert LedgerReader(store, RUN).results()[0, None].location == "again"
    assert store.names(RUN) == ["1-000001.jsonl", "2-000001.jsonl", "10-000001.jsonl", "10-000002.jsonl"]


def test_a_torn_line_is_left_out_and_counted(store: LocalLedgerStore) -> None:
    data = encode([("name", {"task": 0, "map_index": None, "name": "whole"}), ("name", {"task": 1, "name": "torn"})])
    store.put(RUN, "1-000001.jsonl", data[:-9])
    reader = LedgerReader(store, RUN)
    assert reader.rendered_names() == {(0, None): "whole"}
    assert reader.damaged == 1


@given(st.binary(max_size=300))
def test_nonsense_is_never_an_exception(data: bytes) -> None:
    records, _ = parse_lines(data)
    assert all(isinstance(record, dict) for record in records)


@given(st.lists(st.tuples(st.integers(0, 99), st.none() | st.integers(0, 9), st.text(max_size=20)), max_size=10))
def test_names_of_any_text_come_back(names: list[tuple[int, int | None, str]]) -> None:
    lines = encode([("name", {"task": task, "map_index": index, "name": name}) for task, index, name in names])
    records, damaged = parse_lines(lines)
    assert not damaged
    assert [(record["task"], record["map_index"], record["name"]) for record in records] == names


def test_errors_are_written_at_once_and_other_records_soon(store: LocalLedgerStore) -> None:
    writer = LedgerWriter(store, RUN, 1)
    written = threading.Event()
    put = store.put

    def told(*arguments: object) -> None:
        put(*arguments)  # type: ignore[arg-type]
        written.set()

    store.put = told  # type: ignore[method-assign]
    writer.error(writer.new_error_id(), "text")
    assert written.wait(1.0)
    written.clear()
    writer.result(0, None, StoredResult("x"))
    assert written.wait(writer_module.FLUSH_SECONDS + 3)
    assert writer.close()


def test_a_store_that_is_away_is_tried_again(store: LocalLedgerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_RETRY_SECONDS", (0.01,))
    failures = iter(range(3))
    put = store.put

    def away(*arguments: object) -> None:
        if next(failures, None) is not None:
            raise ResultStoreError("away")
        put(*arguments)  # type: ignore[arg-type]

    store.put = away  # type: ignore[method-assign]
    writer = LedgerWriter(store, RUN, 1)
    writer.result(0, None, StoredResult("x"))
    assert writer.close(10)
    assert LedgerReader(store, RUN).results()[0, None].location == "x"


def test_a_store_that_stays_away_costs_the_deadline_and_no_more(store: LocalLedgerStore) -> None:
    def away(*_: object) -> None:
        raise ResultStoreError("away")

    store.put = away  # type: ignore[method-assign]
    writer = LedgerWriter(store, RUN, 1)
    writer.result(0, None, StoredResult("x"))
    assert not writer.close(0.2)
    writer.result(0, None, StoredResult("after the end"))


def test_what_exceeds_the_buffer_is_counted(store: LocalLedgerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING", 5)
    gate = threading.Event()
    put = store.put

    def slow(*arguments: object) -> None:
        gate.wait(10)
        put(*arguments)  # type: ignore[arg-type]

    store.put = slow  # type: ignore[method-assign]
    writer = LedgerWriter(store, RUN, 1)
    writer.error("a.1", "first")
    assert not writer.flush(0.3), "the thread is now in the store"
    for number in range(20):
        writer.rendered_name(number, None, "x")
    gate.set()
    assert writer.close()
    reader = LedgerReader(store, RUN)
    assert len(reader.rendered_names()) == 5
    assert reader.lost == 15


def test_long_texts_keep_both_ends(store: LocalLedgerStore) -> None:
    writer = LedgerWriter(store, RUN, 1)
    writer.error("a.1", "BEGIN" + "x" * 1_000_000 + "END")
    assert writer.close()
    text = LedgerReader(store, RUN).error("a.1").text
    assert text.startswith("BEGIN")
    assert text.endswith("END")
    assert len(text) < 300_000


def test_appending_is_cheap(store: LocalLedgerStore) -> None:
    writer = LedgerWriter(store, RUN, 1)
    started = time.thread_time()
    for number in range(10_000):
        writer.rendered_name(number, None, "name")
    assert (time.thread_time() - started) / 10_000 < 50e-6
    assert writer.close()
    assert len(LedgerReader(store, RUN).rendered_names()) == 10_000


def test_records_survive_a_kill_once_they_were_flushed(tmp_path: Path) -> None:
    code = f"""
import sys
from heliograph.engine.sink import StoredResult
from heliograph.ledger import LedgerWriter, LocalLedgerStore
writer = LedgerWriter(LocalLedgerStore({str(tmp_path)!r}), {RUN!r}, 1)
writer.result(0, None, StoredResult("flushed"))
assert writer.flush()
print("ready", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert LedgerReader(LocalLedgerStore(tmp_path), RUN).results()[0, None].location == "flushed"


@pytest.mark.parametrize("run", ["../x", "", "a/b", "a" * 65, "x\0"])
def test_ids_that_are_paths_are_refused(store: LocalLedgerStore, run: str) -> None:
    with pytest.raises(InvalidArgumentError):
        store.names(run)


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX's")
def test_segments_are_for_their_owner(store: LocalLedgerStore, tmp_path: Path) -> None:
    writer = LedgerWriter(store, RUN, 1)
    writer.rendered_name(0, None, "x")
    assert writer.close()
    assert (tmp_path / "ledger" / RUN / "1-000001.jsonl").stat().st_mode & 0o077 == 0


def test_stores_are_opened_from_their_description(home: Path, tmp_path: Path) -> None:
    local = open_store({"kind": "local", "dir": ""})
    assert isinstance(local, LocalLedgerStore)
    assert local.dir == home / "results"
    s3 = open_store({"kind": "s3", "bucket": "b", "prefix": "p/"})
    assert isinstance(s3, ObjectLedgerStore)
    assert s3._key(RUN) == f"p/ledger/{RUN}/"
    for description in ({"kind": "git"}, {"kind": "s3"}):
        with pytest.raises(ResultStoreError):
            open_store(description)
