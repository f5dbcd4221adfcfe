"""Runs are cancelled whose flows started processes that do not want to end: none of them is there at the run's end."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import psutil
import pytest
from tests.fault.conftest import PLANTED
from tests.integration.agent.conftest import World, eventually, plane, world
from tests.support.figures import Figure
from tests.support.forms import forms

from heliograph.engine.codes import StateCode

__all__ = ["plane", "world"]

SHAPES = ("session", "daemon", "stubborn", "stopped")
AT_ONCE = 8
GRACE_SECONDS = 0.5

FLOW = """
    import os, signal, time
    from heliograph import Flow, Parameter, task

    @task
    def plant(shape, token):
        if not os.fork():
            if shape in ("session", "daemon"):
                os.setsid()
            if shape == "daemon" and os.fork():
                os._exit(0)
            if shape == "stubborn":
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
            os.fork()
            os.closerange(0, 4096)
            body = "kill -STOP $$; :" if shape == "stopped" else "while :; do sleep 900; done"
            os.execve("/bin/sh", [token, "-c", body], {})
        time.sleep(900)

    with Flow("tree") as flow:
        plant(Parameter("shape"), Parameter("token"))
"""


def of_tree(token: str) -> list[psutil.Process]:
    """Returns the living processes whose name begins so: they bear the token in the place of their program's name."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if (process.info["cmdline"] or [""])[0].startswith(token) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _stand(tokens: list[str]) -> bool:
    return all(len(of_tree(token)) == 2 for token in tokens)


def cancel_trees(world: World, trees: int, **planted: Any) -> float:
    """Starts and cancels so many trees, some at once. Returns the longest time from a cancel to its run's end."""
    agent = world.start_agent("--capacity", str(AT_ONCE), "--grace", str(GRACE_SECONDS), **planted)
    flow = world.register(FLOW)
    everything, longest = f"tree-{uuid.uuid4().hex}", 0.0
    try:
        for first in range(0, trees, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, trees))
            tokens = [f"{everything}-{number:04d}" for number in numbers]
            shapes = [SHAPES[number % len(SHAPES)] for number in numbers]
            runs = [world.run(flow, shape=s, token=t) for s, t in zip(shapes, tokens, strict=True)]
            eventually(lambda tokens=tokens: _stand(tokens), "all trees stand", 90)
            begun = time.monotonic()
            for run in runs:
                world.client.cancel_flow_run(run)
            for run, token, shape in zip(runs, tokens, shapes, strict=True):
                *_, last = world.client.watch_flow_run(run)
                assert last.flow_run.state == StateCode.CANCELLED, world.run_files(run)
                longest = max(longest, time.monotonic() - begun)
                left = of_tree(token)
                assert not left, f"{len(left)} of a tree of shape {shape} survived its run"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
        assert "the next agent of this name adopts" not in world.log(), "a slot is still taken"
    finally:
        for process in of_tree(everything):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    return longest


@forms("trees", quick=24, full=1000, seconds=3600, quick_seconds=180)
def test_nothing_of_a_cancelled_tree_is_left(world: World, figure: Figure, trees: int) -> None:
    """Sessions of their own, daemons without environment and descriptors, deaf to SIGTERM, stopped."""
    longest = cancel_trees(world, trees)
    shapes = ", ".join(sorted(Counter(SHAPES[number % len(SHAPES)] for number in range(trees))))
    figure(
        f"{trees} trees ({shapes}), {2 * trees} processes: 0 survivors when the run is called cancelled, "
        f"at most {longest:.1f} s after the cancel with a grace of {GRACE_SECONDS} s, 0 slots taken"
    )


@pytest.mark.timeout(90)
def test_a_supervisor_that_spares_the_tree_is_found(world: World) -> None:
    """The planted twin."""
    with pytest.raises(AssertionError, match="survived its run"):
        cancel_trees(world, 4, PYTHONPATH=str(PLANTED), HELIOGRAPH_PLANTED_BUG="spare_the_tree")
