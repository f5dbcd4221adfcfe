"""What every peer's file shares. It is executed by the peer's own Python: the standard library and nothing else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def user_line() -> None:
    """Writes down what CPU time this process had spent when user code was reached first."""
    global _written
    if not _written:
        _written = True
        Path(os.environ["PEER_HOME"], "first-line").write_text(str(time.process_time()))


_written = False


class Peer:
    """The scenarios of one peer, by name; each takes a number of tasks."""

    def __init__(self, **scenarios: Callable[[int], object]) -> None:
        self._scenarios = scenarios

    def main(self, end: Callable[[], object] | None = None) -> None:
        """Carries out the scenario of the command line: its name, then the number of tasks."""
        self._scenarios[sys.argv[1]](int(sys.argv[2]))
        if end is not None:
            end()
