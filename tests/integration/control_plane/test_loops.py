"""The loops: only the leader runs them, faults do not end them, and nothing is reaped right after a start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliograph_control_plane.loops import runner
from heliograph_control_plane.loops.reaper import PAUSE_SECONDS, Reaper
from heliograph_control_plane.loops.runner import LEADERSHIP, LoopRunner, keep_going
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.sql_store import SqlStore
from heliograph_control_plane.waiting import wait_until


class Counting:
    """A loop that counts its turns and fails in some of them."""

    name = "counting"

    def __init__(self, failing: frozenset[int] = frozenset()) -> None:
        self.wake = asyncio.Event()
        self.turns = 0
        self.turned = asyncio.Event()
        self._failing = failing

    async def once(self) -> float:
        self.turns += 1
        self.turned.set()
        if self.turns in self._failing:
            raise RuntimeError("SECRET")
        return 3_600.0

    async def turn(self) -> None:
        await asyncio.wait_for(self.turned.wait(), 60)
        self.turned.clear()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


async def test_only_one_of_two_runners_leads_and_the_other_takes_over(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.02)
    loops = Counting(), Counting()
    runners = [LoopRunner(store, [loop]) for loop in loops]
    first = asyncio.create_task(runners[0].run())
    await loops[0].turn()
    second = asyncio.create_task(runners[1].run())
    await asyncio.sleep(0.1)
    assert loops[1].turns == 0
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await loops[1].turn()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert await store.acquire_leadership(LEADERSHIP, "someone else", 1_000_000) is not None


async def test_a_leader_that_is_replaced_stops_its_loops(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.02)
    loop = Counting()
    made = LoopRunner(store, [loop])
    task = asyncio.create_task(made.run())
    await loop.turn()
    # What happens to a leader that was frozen for longer than its term.
    while await store.acquire_leadership(LEADERSHIP, "another", 15_000_000) is None:
        await store.release_leadership(LEADERSHIP, made._holder)  # it may have taken it again
    while made.leading.is_set():  # noqa: ASYNC110  # nobody but tests waits for the end of a term
        await asyncio.sleep(0.01)
    turns = loop.turns
    loop.wake.set()
    await asyncio.sleep(0.05)
    assert loop.turns == turns
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_loop_goes_on_after_faults_and_says_where_they_were(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "MAX_PAUSE_SECONDS", 0.01)
    loop = Counting(failing=frozenset({1, 2}))
    task = asyncio.create_task(keep_going(loop))
    for _ in range(3):
        await loop.turn()
    loop.wake.set()
    await loop.turn()
    assert loop.turns == 4
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    said = capsys.readouterr()
    assert "RuntimeError" in said.out + said.err
    assert "SECRET" not in said.out + said.err


async def test_nothing_is_reaped_before_the_grace_is_over(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Reaper(store, store.now() + 30_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(store, "reap", lambda: pytest.fail("reaped too early"))
        assert 5 < await waiting.once() <= 30
    assert await Reaper(store, store.now()).once() == PAUSE_SECONDS


async def test_a_cancellation_that_comes_together_with_the_event_ends_the_waiter() -> None:
    event = asyncio.Event()

    async def wait_in_a_loop() -> None:
        while True:
            event.clear()
            await wait_until(event, 3_600.0)

    task = asyncio.create_task(wait_in_a_loop())
    await asyncio.sleep(0.01)
    event.set()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=60)
    assert done
    assert task.cancelled()


@pytest.mark.parametrize("step_seconds", [24 * 3600, 600])
async def test_nothing_is_reaped_after_a_jump_of_time(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, step_seconds: int
) -> None:
    """A machine that slept, or a clock that was set: writers get the time to be heard of."""
    reaper, real = Reaper(store, store.now()), store.now
    assert await reaper.once() == PAUSE_SECONDS
    monkeypatch.setattr(store, "now", lambda: real() + step_seconds * 1_000_000)
    monkeypatch.setattr(store, "reap", lambda: pytest.fail("reaped too early"))
    assert await reaper.once() > PAUSE_SECONDS
    assert await reaper.once() > PAUSE_SECONDS


async def test_reaping_goes_on_when_the_clock_is_set_back(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grace after a start is a time that passes, not one on the clock."""
    reaper, real = Reaper(store, store.now()), store.now
    monkeypatch.setattr(store, "now", lambda: real() - 24 * 3600 * 1_000_000)
    assert await reaper.once() == PAUSE_SECONDS
