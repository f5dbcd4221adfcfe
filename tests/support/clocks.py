"""Clocks that are wrong, for real processes: a preloaded library shifts their wall clock, as setting a host's does."""

from __future__ import annotations

from pathlib import Path

from tests.support.disk import library


class WrongClock:
    """The wall clock of the processes that get `environment`.

    Args:
        file: Where the offset is kept.
        hours: How far the clock is ahead.
    """

    def __init__(self, file: Path, hours: int) -> None:
        self._file = file
        self.set(hours)
        self.environment = {"LD_PRELOAD": str(library("wrongclock")), "WRONGCLOCK_FILE": str(file)}

    def set(self, hours: int) -> None:
        """Sets the clock."""
        half = self._file.with_name(self._file.name + ".half")
        half.write_text(str(hours * 3600))
        half.replace(self._file)
