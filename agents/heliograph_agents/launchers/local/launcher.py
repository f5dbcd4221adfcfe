"""The local launcher: run directories, supervisors forked from warm parents, and the kernel as the source of truth."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph.storage import LaunchSettings
from heliograph_agents import control_groups, processes
from heliograph_agents.control_groups import Group, Limits
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
    Waiting,
)
from heliograph_agents.launchers.local.environments import Environment, Probes, check
from heliograph_agents.launchers.local.options import LocalOptions
from heliograph_agents.launchers.local.others import Others
from heliograph_agents.launchers.local.parents import SpawnParent, Supervisor, WarmParent
from heliograph_agents.output import tail
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

KILL_SECONDS = 5.0
"""How long the rest of a run whose supervisor died may take to be gone."""

OPTIONS = frozenset({"environment", "python", "processes"})
"""What run configs may ask for besides what those of all kinds may."""

EMPTY_LOOKS = 2
"""Looks in a row that must find nothing: one may miss a process whose parent ends while it is taken."""


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """One attempt on this host: the name of its folder and what is in it.

    Attributes:
        spec: The attempt.
        folder: Name of its folder.
        facts: What the agent's policy judges.
        environment: Where it runs; None means the agent's own environment.
        limits: The most that it may take.
    """

    spec: RunSpec
    folder: str
    facts: PlanFacts = field(default_factory=PlanFacts)
    environment: Environment | None = None
    limits: Limits = field(default_factory=Limits)


class LocalLauncher:
    """Launches on this host.

    Args:
        settings: How flows are run.
        runs: Folder of run directories; made if needed.
        options: What the agent's owner sets.
        warm: True to fork supervisors from a warm parent; default: on Linux.
    """

    kind = "local"
    needs_settings = True

    def __init__(
        self, settings: RunSettings, runs: Path, options: LocalOptions | None = None, *, warm: bool | None = None
    ) -> None:
        self._settings, self._runs = settings, runs
        self._options = options if options is not None else LocalOptions()
        self._warm = processes.LINUX if warm is None else warm
        self._parent: WarmParent | SpawnParent = WarmParent(settings) if self._warm else SpawnParent(settings)
        self._others = Others(settings, warm=self._warm)
        self._probes = Probes()
        self._started: dict[str, Supervisor] = {}
        self._known: set[str] = set()
        self._unreadable: set[str] = set()
        self._watched: dict[str, int] = {}
        self._ended: Callable[[Handle], None] = _ignore

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> LocalPlan:
        """Names the folder, and finds the environment that is asked for."""
        limits = self._limits(settings)
        facts = PlanFacts(cpu_millis=limits.cpu_millis, memory_bytes=limits.memory_bytes)
        if settings is not None:
            facts = PlanFacts(
                env=tuple(sorted(settings.env)),
                cpu_millis=limits.cpu_millis,
                memory_bytes=limits.memory_bytes,
                working_dir=settings.working_dir,
                options=tuple(sorted(settings.options)),
            )
        return LocalPlan(spec, name_of(spec.run_id, spec.epoch), facts, self._asked(settings), limits)

    def _limits(self, settings: LaunchSettings | None) -> Limits:
        """Returns what the run may take: what it asks for, else what the owner says."""
        own = self._options.limits
        if settings is None or settings.launcher not in ("", self.kind):
            return own
        most = settings.options.get("processes", own.processes)
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise LaunchError(f"processes is a number, not {most!r}", FailureCode.LAUNCH_SETTINGS)
        return Limits(settings.cpu_millis or own.cpu_millis, settings.memory_bytes or own.memory_bytes, most)

    def _asked(self, settings: LaunchSettings | None) -> Environment | None:
        """Returns the environment that launch settings ask for; None for the agent's own."""
        if settings is None or settings.launcher not in ("", self.kind):
            return None  # another kind's options: no business of this one
        options = settings.options
        name, python = options.get("environment"), options.get("python")
        if python:
            return Environment("", str(python))
        if not name:
            return None
        found = self._options.environments.get(str(name))
        if found is None:
            known = ", ".join(sorted(self._options.environments)) or "none"
            raise LaunchError(
                f"the run asks for environment {name}; this agent has: {known}. Start it with "
                f"--environment {name}=PATH, or give run and the agent that has it a label.",
                FailureCode.LAUNCH_SETTINGS,
            )
        return found

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Makes the folder of runs, and the warm parent."""
        self._ended = ended
        self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_torn(self._runs)
        control_groups.prepare()
        await self._parent.start()

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        """Writes the run directory, then has a supervisor forked for it."""
        spec = plan.spec
        handle = Handle(spec.flow_run, spec.epoch, name_of(spec.run_id, spec.epoch))
        if handle.infrastructure in self._known:
            return handle  # also when somebody has removed its folder
        async with self._parent_for(plan) as parent:
            return await self._launch(plan, handle, parent, credentials)

    async def _launch(
        self, plan: Plan, handle: Handle, parent: WarmParent | SpawnParent, credentials: Credentials
    ) -> Handle:
        spec = plan.spec
        limits = plan.limits if isinstance(plan, LocalPlan) else Limits()
        record = LaunchRecord(spec, self._settings, credentials.incarnation, credentials.renew_every_seconds, limits)
        try:
            directory = RunDirectory.create(self._runs, record, credentials.run_token)
        except OSError as error:
            # A full disk is this host's trouble, not the run's: it goes back, and the agent takes a rest.
            raise LaunchError(f"the run directory cannot be written: {error}", delay=LaunchDelay.AGENT) from error
        if directory is None:
            return handle  # launched before: by this agent, or the one before it
        try:
            supervisor = await parent.launch(directory)
        except (OSError, EOFError) as error:
            # It may have been started after all: the lock decides, and exit.json keeps a late one from starting.
            found = await self.inspect(handle)
            if isinstance(found, InfraExit) and found.kind is ExitKind.NEVER_STARTED:
                directory.remove()
                raise LaunchError(f"no supervisor could be started: {error}", delay=LaunchDelay.AGENT) from error
            return handle
        self._started[handle.infrastructure] = supervisor
        self._known.add(handle.infrastructure)
        self._watch(handle, supervisor.pid, supervisor.start)
        return handle

    @contextlib.asynccontextmanager
    async def _parent_for(self, plan: Plan) -> AsyncIterator[WarmParent | SpawnParent]:
        """Gives who starts supervisors where the attempt is to run, when that place fits it."""
        # After the policy has judged them: what it forbids is not called unknown.
        if strange := set(plan.facts.options) - OPTIONS:
            raise LaunchError(f"local runs have no option {', '.join(sorted(strange))}", FailureCode.LAUNCH_SETTINGS)
        environment = plan.environment if isinstance(plan, LocalPlan) else None
        if environment is None:
            yield self._parent
            return
        found = await asyncio.to_thread(self._probes.look, environment)
        check(environment, found, plan.spec.bundle)
        async with self._others.using(environment, found, time.monotonic()) as parent:
            yield parent

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
                if handle.infrastructure in self._known:
                    return await self._settle_removed(directory)
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
            self._tell_early(directory)
            if directory.supervisor_failed():
                return _settled(directory, FailureCode.SUPERVISOR_DIED, "its supervisor failed before the flow began")
            return _settled(directory, FailureCode.LAUNCH_FAILED, "it was never started")
        finally:
            os.close(descriptor)

    async def _settle_removed(self, directory: RunDirectory) -> Liveness | InfraExit:
        """Somebody removed the folder of an attempt that was started: what it was is gone, and so must it be."""
        if not await self._end_all(directory, 0):
            return Liveness.STARTING
        hint = "somebody removed its run directory"
        return InfraExit(ExitKind.DIED, FailureCode.INFRASTRUCTURE_DELETED, hint=hint, time_micros=_now())

    async def _settle(self, directory: RunDirectory, record: ProcessRecord) -> Liveness | InfraExit:
        """The supervisor is gone: makes sure that nothing of the run survives it, then says so for good."""
        group = record.flow_pid if processes.is_alive(record.flow_pid, record.flow_start) else 0
        if not await self._end_all(directory, group):
            return Liveness.STARTING  # not dead yet: looked at again at the next reconcile
        if (known := directory.exit()) is not None:  # it was just about to write it
            return exit_of(known)
        descriptor = directory.lock()
        if descriptor is None:
            return Liveness.STARTING
        try:
            self._tell_early(directory)
            return _settled(directory, FailureCode.SUPERVISOR_DIED, "its supervisor died, and the flow with it")
        finally:
            os.close(descriptor)

    @staticmethod
    async def _end_all(directory: RunDirectory, group: int) -> bool:
        """Kills what is left of an attempt whose supervisor is gone. Returns whether nothing is."""
        limit = time.monotonic() + KILL_SECONDS
        empty = 0
        while True:
            left = await asyncio.to_thread(processes.members, directory.path, group)
            processes.signal_group(group, signal.SIGKILL)
            processes.signal_all(left, signal.SIGKILL)
            empty = 0 if left else empty + 1
            if empty == EMPTY_LOOKS:
                await asyncio.to_thread(Group(directory.path.name).remove)
                return True
            if time.monotonic() > limit:
                return False
            await asyncio.sleep(0.02)

    def _tell_early(self, directory: RunDirectory) -> None:
        """Shows what an attempt left that died before it was heard of, where the agent's owner wants it shown."""
        lines = self._options.crash_lines
        if not lines or directory.has("contact"):
            return
        said = [text for file in directory.words if (text := tail(file, lines).rstrip())]
        if said:
            name = directory.path.name
            _log.error("%s died before it was heard of. The end of what it left:\n%s", name, "\n".join(said))

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
                await self._set_aside(directory, error)
                continue
            found.append(Handle(spec.flow_run, spec.epoch, directory.path.name))
            self._known.add(directory.path.name)
        return found

    def waits_for(self, handle: Handle) -> Waiting | None:  # noqa: ARG002 (as all launchers)
        """Returns None: a process of this host waits for nothing."""
        return None

    async def _set_aside(self, directory: RunDirectory, error: Exception) -> None:
        """Deals once with an attempt whose record cannot be read. Empty or gone, its host lost power as it was begun.

        It counts as never launched then: nobody else can say anything of it. One that another version of the agent
        wrote, or of which something lives, is let be.
        """
        name = directory.path.name
        with contextlib.suppress(FileNotFoundError):  # it was removed just now
            torn = isinstance(error, FileNotFoundError | json.JSONDecodeError | UnicodeDecodeError)
            descriptor = directory.lock() if torn else None
            if descriptor is not None:
                try:
                    if await self._end_all(directory, 0):
                        await asyncio.to_thread(directory.forget)
                        _log.warning("%s has no whole launch.json: it counts as never launched", directory.path)
                        return
                finally:
                    os.close(descriptor)
            if name not in self._unreadable:
                self._unreadable.add(name)
                _log.warning("%s is no run directory of this version: %s", directory.path, error)

    async def outbox(self, handle: Handle) -> Path | None:
        """Returns the folder with what the supervisor did not ship."""
        path = RunDirectory(self._runs / handle.infrastructure).outbox
        return path if path.is_dir() else None

    async def forget(self, handle: Handle) -> None:
        """Marks the folder."""
        self._started.pop(handle.infrastructure, None)
        self._known.discard(handle.infrastructure)
        self._unwatch(handle.infrastructure)
        directory = RunDirectory(self._runs / handle.infrastructure)
        if directory.path.exists():
            await asyncio.to_thread(directory.forget)

    async def cleanup(self) -> None:
        """Removes old folders, and ends warm parents that nobody asks for."""
        options = self._options
        await self._others.end_idle(time.monotonic(), options.idle_seconds)
        await asyncio.to_thread(
            remove_old,
            self._runs,
            keep_failed=options.keep_failed,
            keep_seconds=options.keep_seconds,
            keep_bytes=options.keep_bytes,
        )

    async def close(self) -> None:
        """Ends the warm parent; supervisors go on."""
        for name in list(self._watched):
            self._unwatch(name)
        await self._parent.stop()
        await self._others.stop()

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
    record = ExitRecord(reason=int(reason), hint=hint, unshipped=True, time_micros=_now())
    directory.write_exit(record)
    return exit_of(record)


def _now() -> int:
    return time.time_ns() // 1000
