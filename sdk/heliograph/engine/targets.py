"""Guards the targets of mapped tasks: two children with different inputs must not share one file.

In Prefect 1 they did, silently, and all children after the first got the first one's data.
"""

from __future__ import annotations

import threading
from typing import Any

from heliograph.engine.nodes import TaskFrame
from heliograph.engine.tokens import tokenize
from heliograph.exceptions import FlowError


class SharedTargetError(FlowError):
    """Children of a mapped task with different inputs have the same target."""


class Targets:
    """The targets that children of mapped tasks have in this run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[tuple[int, str], tuple[int, str]] = {}

    def check(self, frame: TaskFrame, location: Any, inputs: dict[str, Any]) -> None:
        """Takes `location` for a child.

        Raises:
            SharedTargetError: A sibling with other inputs has it.
        """
        if frame.map_index is None:
            return
        mapped = {item.key: inputs[item.key] for item in frame.node.inputs if item.mapped and item.key is not None}
        token = tokenize(mapped)
        with self._lock:
            owner, its_token = self._taken.setdefault((frame.node.index, str(location)), (frame.map_index, token))
        if its_token != token:
            raise SharedTargetError(
                f"children {owner} and {frame.map_index} of {frame.node.name!r} have the same target but different"
                " inputs; add {map_index} or the name of a mapped input to the target"
            )
