"""Log lines: stored once, read in the order of their arrival, in pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.store.helpers import Bench

from heliograph.exceptions import InvalidArgumentError
from heliograph_control_plane.store.logs import LogStore
from heliograph_control_plane.store.records import Changes, LogLine


def line(sequence: int, level: int = 20, message: str = "") -> LogLine:
    """One line."""
    return LogLine(sequence, 1_000 + sequence, level, "app", message or f"line {sequence}", 3, -1, 0)


def lines(*sequences: int) -> list[LogLine]:
    """Lines with these numbers."""
    return [line(sequence) for sequence in sequences]


def test_lines_come_back_as_they_were(bench: Bench) -> None:
    sent = [
        LogLine(1, 5, 10, "app", "grüße ✓\n\ttab", -1, -1, 0),
        LogLine(2, 6, 40, "lib.sub", "", 7, 12),
        LogLine(5, -1, 50, "", "x" * 30_000, -1, -1, 2),
    ]
    ack = bench.store.write_log_lines("run", 4, sent).result()
    assert (ack.acked_sequence, ack.refused) == (5, 0)
    page = bench.store.read_log_lines("run").result()
    assert list(page.lines) == [one._replace(epoch=4) for one in sent]
    assert not page.more
    assert bench.store.read_log_lines("other").result().lines == ()


def test_a_line_is_stored_once_however_often_it_is_sent(bench: Bench) -> None:
    bench.store.write_log_lines("run", 1, lines(1, 2, 3)).result()
    bench.store.write_log_lines("run", 1, lines(1, 2, 3)).result()
    assert bench.store.write_log_lines("run", 1, lines(2, 3, 4)).result().acked_sequence == 4
    bench.reopen()
    assert bench.store.write_log_lines("run", 1, lines(3, 4)).result().acked_sequence == 4
    assert [one.sequence for one in bench.store.read_log_lines("run").result().lines] == [1, 2, 3, 4]


def test_lines_that_never_came_are_counted_by_their_numbers(bench: Bench) -> None:
    bench.store.write_log_lines("run", 1, lines(3, 4)).result()
    # Sent again, because the answer was lost; meanwhile the writer had to drop 3 to 9, and says what it believes.
    bench.store.write_log_lines("run", 1, [line(10)._replace(dropped_before=7)]).result()
    bench.store.write_log_lines("run", 1, lines(12)).result()
    bench.store.write_log_lines("run", 2, lines(1)).result()
    found = bench.store.read_log_lines("run").result().lines
    assert [(one.sequence, one.dropped_before) for one in found] == [(3, 2), (4, 0), (10, 5), (12, 1), (1, 0)]


def test_every_epoch_counts_for_itself(bench: Bench) -> None:
    bench.store.write_log_lines("run", 1, lines(1, 2)).result()
    bench.store.write_log_lines("run", 2, lines(1)).result()
    found = bench.store.read_log_lines("run").result().lines
    assert [(one.epoch, one.sequence) for one in found] == [(1, 1), (1, 2), (2, 1)]


def test_lines_out_of_order_are_refused(bench: Bench) -> None:
    for bad in (lines(2, 1), lines(1, 1), lines(0), lines(1 << 63)):
        with pytest.raises(InvalidArgumentError):
            bench.store.write_log_lines("run", 1, bad).result()
    assert bench.store.write_log_lines("run", 1, []).result().acked_sequence == 0


def test_reading_goes_on_where_it_stopped_also_at_the_end(bench: Bench) -> None:
    bench.store.write_log_lines("run", 1, [line(n) for n in range(1, 1_201)]).result()
    bench.store.write_log_lines("run", 1, lines(1_201)).result()
    read: list[int] = []
    cursor = ""
    while True:
        page = bench.store.read_log_lines("run", cursor, 333).result()
        read += [one.sequence for one in page.lines]
        cursor = page.cursor
        if not page.more:
            break
    assert read == list(range(1, 1_202))
    assert bench.store.read_log_lines("run", cursor).result().lines == ()
    bench.store.write_log_lines("run", 1, lines(1_300)).result()
    assert [one.sequence for one in bench.store.read_log_lines("run", cursor).result().lines] == [1_300]
    with pytest.raises(InvalidArgumentError):
        bench.store.read_log_lines("run", "nonsense").result()


def test_lines_are_filtered_by_level_and_time(bench: Bench) -> None:
    bench.store.write_log_lines("run", 1, [line(1, 20), line(2, 40)]).result()
    before = bench.clock.now
    bench.clock.advance(10)
    bench.store.write_log_lines("run", 1, [line(3, 30), line(4, 50)]).result()
    severe = bench.store.read_log_lines("run", min_level=40).result().lines
    assert [one.sequence for one in severe] == [2, 4]
    assert [one.sequence for one in bench.store.read_log_lines("run", after_micros=before).result().lines] == [3, 4]


def test_a_run_has_a_quota(bench: Bench) -> None:
    bench.store._logs.quota_bytes = 200  # type: ignore[misc]
    ack = bench.store.write_log_lines("run", 1, [line(n, message="x" * 50) for n in range(1, 6)]).result()
    assert (ack.acked_sequence, ack.refused) == (5, 3)
    assert LogStore().quota_bytes > 1_000_000


def test_subscribers_hear_of_lines(bench: Bench) -> None:
    heard: list[Changes] = []
    bench.store.subscribe(heard.append)
    bench.store.write_log_lines("run", 1, lines(1)).result()
    bench.store.write_log_lines("run", 1, lines(2)).result()
    assert frozenset({"run"}) in [changes.logs for changes in heard]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(1, 30), max_size=6, unique=True)), max_size=8))
def test_whatever_is_sent_the_union_is_kept_in_order(writes: list[tuple[int, list[int]]]) -> None:
    """The rule alone: a line counts when it is beyond all that its writer sent before."""
    store = LogStore()
    newest: dict[int, list[int]] = {}
    kept: dict[int, list[int]] = {}
    for writer, sequences in writes:
        state = newest.setdefault(writer, [0, 0])
        accepted: list[LogLine] = []
        store._accept(state, tuple(lines(*sorted(sequences))), accepted)
        kept.setdefault(writer, []).extend(one.sequence for one in accepted)
    for writer, sequences in kept.items():
        assert sequences == sorted(set(sequences))
        assert newest[writer][0] == max(sequences, default=0)
