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

    `planted` names a function of `planted/sitecustomize.py` that breaks every process of the stack in one way: the
    twin of each fault test runs with it and must fail.
    """
    stacks: list[Stack] = []

    def make(*, planted: str = "", agent_args: Sequence[str] = (), environment: dict[str, str] | None = None) -> Stack:
        extra = {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": planted} if planted else {}
        root = tmp_path / f"stack-{len(stacks)}"
        root.mkdir()
        stack = Stack(root, agent_args=agent_args, environment={**extra, **(environment or {})})
        stacks.append(stack)
        stack.start_control_plane()
        stack.start_agent()
        return stack

    yield make
    for stack in stacks:
        stack.stop()
