"""The performer, over doubles that fail: what it asks for once, and what must not end the agent of all other runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.agents.test_tracker import CREDENTIALS, HANDLE, SPEC

from heliograph.engine.codes import LaunchDelay
from heliograph.exceptions import UnavailableError
from heliograph_agents import performer as performer_module
from heliograph_agents.launcher import LaunchError
from heliograph_agents.link import Pause
from heliograph_agents.performer import Performer
from heliograph_agents.tracker import AcceptAgain, Launch, LaunchFailed, Ship, Shipped, Stop, Tracker

TRACKER = Tracker(HANDLE.flow_run, HANDLE.epoch)


@dataclass
class Double:
    """A launcher, a link and a gate that answer with what they are given: an error is raised."""

    answers: list[Any]
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    async def answer(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        self.asked.set()
        await self.go_on.wait()
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    stop = call = launch = outbox = answer

    async def admit(self, _: Any) -> None:
        return None

    def judge(self, _: Any) -> None:
        return None

    def plan(self, *_: Any) -> None:
        return None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pause, "seconds", lambda _: 0.0)


def over(double: Double) -> Performer:
    part = cast("Any", double)
    return Performer("agents/a", part, part, part, part)


@pytest.mark.parametrize(
    "effect", [Stop(HANDLE, abandon=True), Stop(HANDLE, abandon=False, told=True), AcceptAgain(HANDLE)]
)
async def test_what_every_heartbeat_asks_for_is_under_way_once(effect: Stop | AcceptAgain) -> None:
    """An infrastructure that is away for an hour would be asked by hundreds at once when it comes back."""
    trouble = UnavailableError("away") if isinstance(effect, AcceptAgain) else OSError("away")
    last = ValueError("the end of the test") if isinstance(effect, AcceptAgain) else None
    double = Double([trouble, last])
    performer = over(double)
    heartbeats = [asyncio.create_task(performer.perform(TRACKER, effect)) for _ in range(5)]
    await double.asked.wait()
    double.go_on.set()
    await asyncio.gather(*heartbeats, return_exceptions=True)
    assert double.calls == 2, "once in vain, once more"
    double.answers.append(last)
    await asyncio.gather(performer.perform(TRACKER, effect), return_exceptions=True)
    assert double.calls == 3, "what is done may be asked for again"


@pytest.mark.parametrize("trouble", [OSError("no space left on device"), ValueError("the SDK's own"), KeyError("x")])
async def test_a_launch_that_raises_what_it_likes_gives_its_run_back(trouble: Exception) -> None:
    double = Double([trouble])
    double.go_on.set()
    assert await over(double).perform(TRACKER, Launch(SPEC, CREDENTIALS)) == LaunchFailed(
        None, delay=LaunchDelay.AGENT
    )  # fmt: skip


async def test_a_launch_that_is_refused_says_why() -> None:
    double = Double([LaunchError("full", retry_seconds=60.0, delay=LaunchDelay.NO_ROOM)])
    double.go_on.set()
    told = await over(double).perform(TRACKER, Launch(SPEC, CREDENTIALS))
    assert told == LaunchFailed(None, 60.0, delay=LaunchDelay.NO_ROOM)


async def test_an_outbox_that_cannot_be_read_ends_its_shipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable:
        def __init__(self, *_: Any) -> None:
            raise OSError("input/output error")

    monkeypatch.setattr(performer_module, "LaneReader", Unreadable)
    double = Double([tmp_path])
    double.go_on.set()
    assert await over(double).perform(TRACKER, Ship(HANDLE)) == Shipped()
