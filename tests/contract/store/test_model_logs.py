"""A model of log lines: who wrote what, once and in the order of its arrival; what is refused, what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.contract.store.helpers import SQLITE_IS_QUICK, Bench
from tests.contract.store.machines import StoreMachine, check
from tests.support.figures import Figure
from tests.support.forms import forms

from heliograph.exceptions import HeliographError, InvalidArgumentError
from heliograph_control_plane.store import logs
from heliograph_control_plane.store.records import LogAck, LogLine

LEVELS = (10, 20, 40)
QUOTA = 1_000
OVERHEAD = 32


@dataclass
class Writer:
    """What one writer sent."""

    last: int = 0
    size: int = 0


@dataclass
class Kept:
    """What a reader finds: the lines with the times at which they were stored."""

    lines: list[tuple[LogLine, int]] = field(default_factory=list)


def line(sequence: int, size: int) -> LogLine:
    """A line whose level and text follow from its number, so that a line that comes again is the same."""
    return LogLine(sequence, sequence * 7, LEVELS[sequence % 3], "app", f"{sequence} " + "x" * size)


class LogModel(StoreMachine):
    """Two runs with several epochs each."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: dict[tuple[str, int], Writer] = {}
        self.kept: dict[str, Kept] = {}
        self.cursors: dict[str, tuple[str, int]] = {}

    def of(self, which: int) -> str:
        return f"{self.project}-{which}"

    def quota(self) -> None:
        for store in self.stores:
            store._logs.quota_bytes = QUOTA

    def expect(self, run: str, epoch: int, lines: list[LogLine]) -> LogAck:
        """What the store must answer; notes what it must keep."""
        writer = self.writers.setdefault((run, epoch), Writer())
        refused = 0
        for one in lines:
            if one.sequence <= writer.last:
                continue
            size = len(one.message) + len(one.logger) + OVERHEAD
            if writer.size + size > QUOTA:
                refused += 1
            else:
                writer.size += size
                seen = one._replace(dropped_before=one.sequence - writer.last - 1, epoch=epoch)
                self.kept.setdefault(run, Kept()).lines.append((seen, self.clock.now))
            writer.last = one.sequence
        return LogAck(writer.last, refused)

    @rule(
        run=st.integers(0, 1), epoch=st.integers(1, 2), shift=st.sampled_from([0, 0, 0, -1, -3, 1, 4]),
        gaps=st.lists(st.sampled_from([1, 1, 1, 2, 5]), max_size=6), size=st.sampled_from([1, 1, 30, 300]),
        plane=st.integers(0, 1), twice=st.booleans(),
    )  # fmt: skip
    def write(self, run: int, epoch: int, shift: int, gaps: list[int], size: int, plane: int, twice: bool) -> None:
        """Lines that follow, repeat or leave out some; to one control plane, or to both at once."""
        name = self.of(run)
        known = self.writers.get((name, epoch), Writer())
        sequence, lines = max(0, known.last + shift), []
        for gap in gaps:
            sequence += gap
            lines.append(line(sequence, size))
        self.quota()
        calls = [self.stores[plane].write_log_lines(name, epoch, lines)]
        if twice:
            calls.append(self.stores[1 - plane].write_log_lines(name, epoch, lines))
        answers = [self.attempt(call) for call in calls]
        expected = [self.expect(name, epoch, lines) for _ in calls]
        assert sorted(answers, key=lambda ack: -ack.refused) == expected

    @rule(run=st.integers(0, 1), epoch=st.integers(1, 2), numbers=st.lists(st.integers(0, 40), min_size=1, max_size=4))
    def write_out_of_order(self, run: int, epoch: int, numbers: list[int]) -> None:
        """All of them are refused, or they are in order."""
        lines = [line(number, 1) for number in numbers]
        self.quota()
        good = numbers[0] > 0 and all(a < b for a, b in pairwise(numbers))
        call = self.store.write_log_lines(self.of(run), epoch, lines)
        answer = self.attempt(call, None if good else InvalidArgumentError)
        if good:
            assert answer == self.expect(self.of(run), epoch, lines)

    @rule(seconds=st.sampled_from([1, 60]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(run=st.integers(0, 1), limit=st.integers(1, 7))
    def follow(self, run: int, limit: int) -> None:
        """One page beyond what this reader has: nothing twice, nothing left out."""
        name = self.of(run)
        cursor, read = self.cursors.get(name, ("", 0))
        page = self.store.read_log_lines(name, cursor, limit).result(60)
        kept = [one for one, _ in self.kept.get(name, Kept()).lines]
        assert list(page.lines) == kept[read : read + limit]
        assert not page.more or read + limit < len(kept)
        self.cursors[name] = (page.cursor, read + len(page.lines))

    @rule(run=st.integers(0, 1), level=st.sampled_from([20, 40]), ago=st.sampled_from([0, 30, 61]))
    def filter(self, run: int, level: int, ago: int) -> None:
        name, after = self.of(run), self.clock.now - ago * 1_000_000
        found = self.store.read_log_lines(name, "", 1_000, level, after).result(60).lines
        kept = self.kept.get(name, Kept()).lines
        assert list(found) == [one for one, at in kept if one.level >= level and at > after]

    @invariant()
    def readers_find_what_was_kept(self) -> None:
        for run, kept in self.kept.items():
            page = self.store.read_log_lines(run, "", 1_000).result(60)
            assert (list(page.lines), page.more) == ([one for one, _ in kept.lines], False)


@forms("examples,steps", quick=(36, 20), full=(5_000, 60), seconds=7_200)
def test_log_lines_and_their_model_agree(bench: Bench, examples: int, steps: int, figure: Figure) -> None:
    check(LogModel, bench, examples, steps)
    figure(f"{bench.store.kind}: {examples:,} examples of up to {steps} steps: the store is what the model is")


def _keep_all(store: logs.LogStore, writer: list[int], lines: tuple[LogLine, ...], accepted: list[LogLine]) -> LogAck:
    accepted.extend(lines)
    writer[0] = max([writer[0], *(one.sequence for one in lines)])
    return LogAck(writer[0], 0)


def _forget_the_size(store: logs.LogStore, writer: list[int], *given: Any) -> LogAck | HeliographError:
    writer[1] = 0
    return _accept(store, writer, *given)


_accept = logs.LogStore._accept


@SQLITE_IS_QUICK
@pytest.mark.parametrize("wrong", [_keep_all, _forget_the_size])
def test_the_model_finds_lines_kept_twice_and_a_quota_that_is_forgotten(
    bench: Bench, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.LogStore, "_accept", wrong)
    with pytest.raises(AssertionError):
        check(LogModel, bench, 200, 30, shrink=False)
