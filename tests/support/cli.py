"""Runs `heliograph` as people do: as a process, with an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Returns an environment without the caller's settings, with a home of its own."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HELIOGRAPH", "AWS_"))},
        "HELIOGRAPH_HOME": str(home),
        "NO_COLOR": "1",
        **settings,
    }


class Cli:
    """`heliograph` with one environment.

    Attributes:
        environment: Variables of every command.
        cwd: Folder of every command.
    """

    def __init__(self, home: Path, *, cwd: Path | None = None, **settings: str) -> None:
        self.environment = environment(home, **settings)
        self.cwd = cwd or home

    def __call__(
        self, *arguments: str, code: int | None = 0, stdin: str = "", seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end and checks its exit code; None allows any."""
        done = subprocess.run(
            [sys.executable, "-m", "heliograph.cli", *arguments],
            env=self.environment,
            cwd=self.cwd,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if code is not None and done.returncode != code:
            told = f"heliograph {' '.join(arguments)}: exit code {done.returncode}, not {code}"
            raise AssertionError(f"{told}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}")
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Runs a command with `-o json` and returns the one document that it printed."""
        return json.loads(self(*arguments, "-o", "json", code=code).stdout)
