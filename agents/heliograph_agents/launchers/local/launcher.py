"""The local launcher: run directories, supervisors forked from warm parents, and the kernel as the source of truth."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from heliograph.engine.codes import FailureCode
from heliograph.storage import LaunchSettings
from heliograph_agents import processes
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import (
    Credentials,
    ExitKind,
    Handle,
    InfraExit,
    LaunchError,
    Liveness,
    Plan,
    PlanFacts,
    RunSpec,
)
from heliograph_agents.launchers.local.parents import SpawnParent, Supervisor, WarmParent
from heliograph_agents.run_directory import (
    ExitRecord,
    LaunchRecord,
    ProcessRecord,
    RunDirectory,
    RunSettings,
    name_of,
    remove_old,
    remove_torn,
    run_directories,
)

_log = logging.getLogger("heliograph.agent")

KEEP_FAILED = 50
"""Run directories of failed runs that are kept."""

KEEP_SECONDS = 7 * 24 * 3600
"""How long any run directory is kept."""

KILL_SECONDS = 5.0
"""How long the rest of a run whose supervisor died may take to be gone."""

EMPTY_LOOKS = 2
"""Looks in a row that must find nothing: one may miss a process whose parent ends while it is taken."""


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """One attempt on this host: the name of its folder and what is in it."""

    spec: RunSpec
    folder: str
    facts: PlanFacts = field(default_factory=PlanFacts)


class LocalLauncher:
    """Launches on this host.

    Args:
        settings: How flows are run.
        runs: Folder of run directories; made if needed.
        warm: True to fork supervisors from a warm parent; default: on Linux.
    """

    kind = "local"
    needs_settings = False  # the supervisor fetches them: it is on the same host, and the launch waits for nothing

    def __init__(self, settings: RunSettings, runs: Path, *, warm: bool | None = None) -> None:
        self._settings, self._runs = settings, runs
        self._parent = WarmParent(settings) if (processes.LINUX if warm is None else warm) else SpawnParent(settings)
        self._started: dict[str, Supervisor] = {}
        self._watched: dict[str, int] = {}
        self._ended: Callable[[Handle], None] = _ignore

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> LocalPlan:
        """Names the folder."""
        facts = PlanFacts()
        if settings is not None:
            facts = PlanFacts(
                env=tuple(sorted(settings.env)),
                cpu_millis=settings.cpu_millis,
                memory_bytes=settings.memory_bytes,
                working_dir=settings.working_dir,
                options=tuple(sorted(settings.options)),
            )
        return LocalPlan(spec, name_of(spec.run_id, spec.epoch), facts)

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Makes the folder of runs, and the warm parent."""
        self._ended = ended
        self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_torn(self._runs)
        await self._parent.start()

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        """Writes the run directory, then has a supervisor forked for it."""
        spec = plan.spec
        record = LaunchRecord(spec, self._settings, credentials.incarnation, credentials.renew_every_seconds)
        try:
            directory = RunDirectory.create(self._runs, record, credentials.run_token)
        except OSError as error:
            # A full disk is this host's trouble, not the run's: it goes back, and the agent takes a rest.
            raise LaunchError(f"the run directory cannot be written: {error}") from error
        handle = Handle(spec.flow_run, spec.epoch, name_of(spec.run_id, spec.epoch))
        if directory is None:
            return handle  # launched before: by this agent, or the one before it
        try:
            supervisor = await self._parent.launch(directory)
        except (OSError, EOFError) as error:
            # It may have been started after all: the lock decides, and exit.json keeps a late one from starting.
            found = await self.inspect(handle)
            if isinstance(found, InfraExit) and found.kind is ExitKind.NEVER_STARTED:
                directory.remove()
                raise LaunchError(f"no supervisor could be started: {error}") from error
            return handle
        self._started[handle.infrastructure] = supervisor
        self._watch(handle, supervisor.pid, supervisor.start)
        return handle

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        """Looks at `exit.json`, then at the processes."""
        directory = RunDirectory(self._runs / handle.infrastructure)
        if (known := directory.exit()) is not None:
            return exit_of(known)
        record = directory.processes()
        if record is None:
            started = self._started.get(handle.infrastructure)
            if started is not None and processes.is_alive(started.pid, started.start):
                return Liveness.STARTING
            return await self._settle_unrecorded(handle, directory)
        if record.boot_id != processes.boot_id():
            return _settled(directory, FailureCode.HOST_RESTARTED, "the host restarted")
        if processes.is_alive(record.supervisor_pid, record.supervisor_start):
            self._watch(handle, record.supervisor_pid, record.supervisor_start)
            return Liveness.CONNECTED if directory.has("contact") else Liveness.STARTING
        return await self._settle(directory, record)

    async def _settle_unrecorded(self, handle: Handle, directory: RunDirectory) -> Liveness | InfraExit:
        """No supervisor has said who it is. One that holds the lock is about to: it is let be.

        A flow is told to go only after that record is written: without it, none of its code has run, and another
        attempt may begin; but not where the supervisor says what failed, since that would fail again.
        """
        limit = time.monotonic() + KILL_SECONDS
        while True:
            try:
                descriptor = directory.lock()
            except FileNotFoundError:
                return InfraExit(ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED, hint="its run directory is gone")
            if directory.exit() is not None or directory.processes() is not None:
                if descriptor is not None:
                    os.close(descriptor)
                return await self.inspect(handle)
            if descriptor is not None:
                break
            if time.monotonic() > limit:
                return Liveness.STARTING  # looked at again at the next reconcile
            await asyncio.sleep(0.01)
        try:
            if directory.supervisor_failed():
                return _settled(directory, FailureCode.SUPERVISOR_DIED, "its supervisor failed before the flow began")
            return _settled(directory, FailureCode.LAUNCH_FAILED, "it was never started")
        finally:
            os.close(descriptor)

    async def _settle(self, directory: RunDirectory, record: ProcessRecord) -> Liveness | InfraExit:
        """The supervisor is gone: makes sure that nothing of the run survives it, then says so for good."""
        limit = time.monotonic() + KILL_SECONDS
        group = record.flow_pid if processes.is_alive(record.flow_pid, record.flow_start) else 0
        empty = 0
        while True:
            left = await asyncio.to_thread(processes.members, directory.path, group)
            processes.signal_group(group, signal.SIGKILL)
            processes.signal_all(left, signal.SIGKILL)
            empty = 0 if left else empty + 1
            if empty == EMPTY_LOOKS:
                break
            if time.monotonic() > limit:
                return Liveness.STARTING  # not dead yet: looked at again at the next reconcile
            await asyncio.sleep(0.02)
        if (known := directory.exit()) is not None:  # it was just about to write it
            return exit_of(known)
        descriptor = directory.lock()
        if descriptor is None:
            return Liveness.STARTING
        try:
            return _settled(directory, FailureCode.SUPERVISOR_DIED, "its supervisor died, and the flow with it")
        finally:
            os.close(descriptor)

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:  # noqa: ARG002 (a signal costs nothing)
        """Signals the supervisor, which stops the flow with its grace period."""
        directory = RunDirectory(self._runs / handle.infrastructure)
        record = directory.processes()
        if record is not None and processes.is_alive(record.supervisor_pid, record.supervisor_start):
            number = signal.SIGUSR1 if abandon else signal.SIGTERM
            processes.signal_all([record.supervisor_pid], number)

    async def list(self) -> list[Handle]:
        """Returns the attempts whose folders say that their end is not reported yet."""
        found = []
        for directory in run_directories(self._runs):
            if directory.has("forgotten"):
                continue
            try:
                spec = directory.launch_record().spec
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s is no run directory: %s", directory.path, error)
                continue
            found.append(Handle(spec.flow_run, spec.epoch, directory.path.name))
        return found

    async def outbox(self, handle: Handle) -> Path | None:
        """Returns the folder with what the supervisor did not ship."""
        path = RunDirectory(self._runs / handle.infrastructure).outbox
        return path if path.is_dir() else None

    async def forget(self, handle: Handle) -> None:
        """Marks the folder."""
        self._started.pop(handle.infrastructure, None)
        self._unwatch(handle.infrastructure)
        directory = RunDirectory(self._runs / handle.infrastructure)
        if directory.path.exists():
            await asyncio.to_thread(directory.forget)

    async def cleanup(self) -> None:
        """Removes old folders."""
        await asyncio.to_thread(remove_old, self._runs, keep_failed=KEEP_FAILED, keep_seconds=KEEP_SECONDS)

    async def close(self) -> None:
        """Ends the warm parent; supervisors go on."""
        for name in list(self._watched):
            self._unwatch(name)
        await self._parent.stop()

    def _watch(self, handle: Handle, pid: int, started: int) -> None:
        """Has the kernel tell at once when the supervisor ends. Only a hint: `inspect` decides."""
        name = handle.infrastructure
        if name in self._watched or sys.platform != "linux":
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            asyncio.get_running_loop().call_soon(self._ended, handle)
            return
        if processes.start_time(pid) != started:  # it ended, and the descriptor may be another's
            os.close(descriptor)
            asyncio.get_running_loop().call_soon(self._ended, handle)
            return
        self._watched[name] = descriptor

        def notice() -> None:
            self._unwatch(name)
            self._ended(handle)

        asyncio.get_running_loop().add_reader(descriptor, notice)

    def _unwatch(self, name: str) -> None:
        descriptor = self._watched.pop(name, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


def _ignore(_: Handle) -> None:
    """Before `open`, nobody wants to know."""


def _settled(directory: RunDirectory, reason: FailureCode, hint: str) -> InfraExit:
    record = ExitRecord(reason=int(reason), hint=hint, unshipped=True, time_micros=time.time_ns() // 1000)
    directory.write_exit(record)
    return exit_of(record)
