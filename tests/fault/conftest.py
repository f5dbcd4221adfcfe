"""Fixtures of the fault tests: a stack of real processes, optionally with a planted bug."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.stack import Stack

PLANTED = Path(__file__).parent / "planted"

StackFactory = Callable[..., Stack]


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[StackFactory]:
    """Makes stacks that end with the test.

    `planted` names bugs of `planted/bugs` that break every process of the stack, or shorten what a test would wait for:
    the twin of each fault test runs with one and must fail. Without `agent`, the test starts the agent itself.
    """
    stacks: list[Stack] = []

    def make(
        *,
        planted: str = "",
        agent_args: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        agent: bool = True,
    ) -> Stack:
        extra = {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": planted} if planted else {}
        root = tmp_path / f"stack-{len(stacks)}"
        root.mkdir()
        stack = Stack(root, agent_args=agent_args, environment={**extra, **(environment or {})})
        stacks.append(stack)
        stack.start_control_plane()
        if agent:
            stack.start_agent()
        return stack

    yield make
    for stack in stacks:
        stack.stop()
