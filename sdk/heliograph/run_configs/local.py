"""Runs as processes of the agent's machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

from heliograph.run_configs.base import RunConfig
from heliograph.run_configs.docker import size_in_bytes
from heliograph.storage.launch import LaunchSettings

__all__ = ["LocalRun"]


class LocalRun(RunConfig):
    """A process on the agent's machine.

    Args:
        env: Environment variables of the run.
        working_dir: Folder on the agent's machine in which the run starts; a run fails when it is not there. By default
            the folder of `heliograph agent start --work-dir`, or else the one that the agent was started in.
        labels: Labels that an agent must offer.
        environment: Name of a Python environment of the agent, as its owner gave it with
            `heliograph agent start --environment NAME=PATH`. By default the agent's own.
        python: An interpreter on the agent's machine, instead of a named environment.
        cpus: Processors that the run may take, in fractions.
        mem_limit: Most memory of all of its processes together: bytes, or a text like `512m` or `2g`.
        processes: Most processes and threads at one time.

    Raises:
        TypeError, ValueError: An argument is not what it should be.
    """

    launcher: ClassVar[str] = "local"

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        labels: Iterable[str] | None = None,
        *,
        environment: str | None = None,
        python: str | os.PathLike[str] | None = None,
        cpus: float | None = None,
        mem_limit: str | int | None = None,
        processes: int | None = None,
    ) -> None:
        super().__init__(env, labels)
        if environment and python:
            raise ValueError("give environment or python, not both")
        if python is not None and not os.path.isabs(python):  # noqa: PTH117 (it is a path of another machine)
            raise ValueError(f"python is the whole path of an interpreter, not {os.fspath(python)!r}")
        for name, value in (("cpus", cpus), ("processes", processes)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is a number above 0, not {value!r}")
        self.cpus, self.mem_limit, self.processes = cpus, mem_limit, processes
        self.environment = environment
        self.python = os.fspath(python) if python is not None else None
        self.working_dir = os.fspath(working_dir) if working_dir is not None else None

    def launch_settings(self) -> LaunchSettings:
        """Returns the settings that the agent reads."""
        given = {"environment": self.environment, "python": self.python, "processes": self.processes}
        return replace(
            super().launch_settings(),
            working_dir=self.working_dir or "",
            cpu_millis=round(self.cpus * 1000) if self.cpus else 0,
            memory_bytes=size_in_bytes(self.mem_limit) if self.mem_limit is not None else 0,
            options={name: value for name, value in given.items() if value},
        )
