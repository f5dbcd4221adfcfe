"""The Docker launcher: a container for each attempt, and the engine's word as the source of truth.

A launch: the attempt's folder here, its volume, its container, the offer in the volume, then the start. An agent may
die between any two: what was not started is removed, and the run is given back; what was started is adopted. The name
comes from run and epoch, so the engine itself refuses a second copy.

When a container has ended, its exit and its outbox are copied into the attempt's folder; container and volume may go
then. They are removed when the end is reported, those of failed runs after a while.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph.exceptions import UnavailableError
from heliograph.storage import LaunchSettings
from heliograph_agents.exits import exit_in, exit_of
from heliograph_agents.launcher import Credentials, Handle, InfraExit, LaunchError, Liveness, Plan, RunSpec, Waiting
from heliograph_agents.launchers.address import address_inside, certificates, settings_inside
from heliograph_agents.launchers.docker import cleaning
from heliograph_agents.launchers.docker.carried import carried
from heliograph_agents.launchers.docker.engine import Engine, EngineAwayError, EngineRefusedError
from heliograph_agents.launchers.docker.events import Watch
from heliograph_agents.launchers.docker.images import provide
from heliograph_agents.launchers.docker.offer import Offer, one_file, owner_of, unpack_outbox
from heliograph_agents.launchers.docker.options import DockerOptions
from heliograph_agents.launchers.docker.plan import PLACE, DockerPlan, make_plan, name_of
from heliograph_agents.launchers.docker.verdict import gone, never_started, verdict
from heliograph_agents.launchers.labels import LABEL, attempt_in
from heliograph_agents.launchers.records import Records
from heliograph_agents.launchers.under_way import UnderWay
from heliograph_agents.output import repeat
from heliograph_agents.run_directory import (
    ExitRecord,
    LaunchRecord,
    RunSettings,
    launch_record_text,
)
from heliograph_agents.run_directory import name_of as folder_name_of

_log = logging.getLogger("heliograph.agent")

THREADS = 16
"""Questions to the engine at once."""

LAUNCHES = 8
"""Launches at once, pulls of images included; the others wait their turn."""

_PASSING = ("no space left", "cannot allocate memory", "temporarily unavailable", "already allocated", "timeout",
            "deadline exceeded", "context canceled", "too many open files", "already in use")  # fmt: skip
"""What the engine says that it may not say later. All else is about what was asked for."""

_ADVICE = (
    "for example host.docker.internal:4480 (and have the control plane listen on more than loopback), or run them with"
    " --network host"
)

RUNNING = ("running", "paused", "restarting", "removing")


class DockerLauncher:
    """Launches on a Docker Engine.

    Args:
        settings: How flows are run, as on the agent's host.
        folder: The agent's folder of attempts; made if needed.
        options: What the agent's owner sets.
        advertised: Address of the control plane as containers reach it; empty means the agent's.

    Raises:
        InvalidArgumentError: Containers would not reach the control plane.
    """

    kind = "docker"
    needs_settings = True

    def __init__(self, settings: RunSettings, folder: Path, options: DockerOptions, *, advertised: str = "") -> None:
        address = settings.address
        if advertised or options.networks != ("host",):  # there they share its loopback
            address = address_inside(address, advertised, settings.tls, what="container", advice=_ADVICE)
        self._settings = settings_inside(settings, address, PLACE)
        self._cache = Path(settings.cache)
        self._options = options
        # The control plane too: agents of several may share a name, and an engine.
        self._own_labels = {f"{LABEL}agent": settings.agent, f"{LABEL}control-plane": settings.address}
        self._engine = Engine(options.base_url, options.timeout_seconds)
        self._records = Records(folder)
        self._under_way = UnderWay(self.kind, self._records, THREADS, LAUNCHES)
        self._watch: Watch | None = None

    # --- launching ---------------------------------------------------------------------------------------------------

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> DockerPlan:
        """Puts run config and agent's options together."""
        return make_plan(spec, settings or LaunchSettings(), self._options, self._own_labels)

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Connects, and begins to listen for the ends of containers.

        Raises:
            UnavailableError: The engine does not answer.
        """
        self._records.open()
        try:
            version = await self._under_way.do(self._engine.version)
        except OSError as error:
            raise UnavailableError(
                f"Docker at {self._engine.address} does not answer: {error}",
                hint="Start the engine, or name another with --base-url; this user must be allowed to use it"
                " (by ssh: log in without being asked, and run `docker` there).",
            ) from error
        _log.info("Docker %s at %s", version, self._engine.address)
        loop = asyncio.get_running_loop()

        def hint(labels: dict[str, str]) -> None:
            handle = attempt_in(labels, name_of)
            if handle is not None:
                loop.call_soon_threadsafe(ended, handle)

        self._watch = Watch(self._engine, self._own_labels, hint)
        self._watch.start()

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        """Makes and starts the container; once, whoever asks."""
        assert isinstance(plan, DockerPlan)
        work = self._under_way
        return await work.launch(plan.name, lambda: work.do_launch(self._launch, plan, credentials))

    def _launch(self, plan: DockerPlan, credentials: Credentials) -> Handle:
        handle = Handle(plan.spec.flow_run, plan.spec.epoch, plan.name, plan.start_timeout_seconds)
        planned = False
        try:
            found = self._engine.container(plan.name)
            if found is not None and self._launched_before(found, handle):
                return handle
            if self._records.folder(handle).exit() is not None or self._records.is_forgotten(handle):
                return handle
            image = provide(self._engine, plan.image, plan.pull_policy, plan.platform)
            record = LaunchRecord(plan.spec, self._settings, credentials.incarnation, credentials.renew_every_seconds)
            self._records.plan(handle)
            planned = True
            self._start(plan, record, credentials.run_token, image.reference, image.user)
        except EngineAwayError as error:
            # It may have been started all the same: the next look tells, and an attempt that is there stays one.
            if self._records.folder(handle).has("started"):
                return handle
            raise LaunchError(str(error), delay=LaunchDelay.UNREACHABLE) from error
        except EngineRefusedError as error:
            self._undo(handle)
            raise self._refused(error) from error
        except LaunchError:
            if planned:  # before, there may be a container of somebody else's
                self._undo(handle)
            raise
        except ValueError as error:
            self._undo(handle)
            raise LaunchError(str(error), FailureCode.LAUNCH_SETTINGS) from error
        except OSError as error:
            self._undo(handle)
            raise LaunchError(f"the container's files cannot be made: {error}", delay=LaunchDelay.AGENT) from error
        _log.info("%s runs in container %s of %s", plan.spec.flow_run, plan.name, image.reference)
        if self._options.show_logs:
            threading.Thread(target=repeat, args=(self._engine.follow(plan.name),), daemon=True).start()
        return handle

    def _launched_before(self, found: dict[str, Any], handle: Handle) -> bool:
        """True when that container is this attempt's, and has been started. One that was not is in the way."""
        labels = found["Config"].get("Labels") or {}
        if attempt_in(labels, name_of) != handle:
            name = handle.infrastructure
            raise LaunchError(f"a container that is none of ours is named {name}", delay=LaunchDelay.PLATFORM)
        if found["State"]["Status"] != "created":
            return True
        return not self._engine.remove(handle.infrastructure, force=False)

    def _start(self, plan: DockerPlan, record: LaunchRecord, token: str, image: str, user: str) -> None:
        engine, name = self._engine, plan.name
        labels = {key: value for key, value in plan.body["Labels"].items() if key.startswith(LABEL)}
        engine.make_volume(name, labels)
        body = {**plan.body, "Image": image, "Labels": {**plan.body["Labels"], f"{LABEL}image-run": image}}
        engine.create(body, name, plan.platform)
        owner = owner_of(str(plan.body.get("User") or user), lambda path: one_file(engine.get(name, path)))
        tls, files = certificates(record.settings.tls, f"{PLACE}/offer")
        record = replace(record, settings=replace(record.settings, tls=tls))
        engine.put(name, PLACE, Offer(launch_record_text(record), token, files).archive(owner))
        if bundle := carried(plan.spec.bundle, self._cache, owner):
            engine.put(name, PLACE, bundle)
        for network in plan.more_networks:
            engine.join(name, network)
        self._records.mark(Handle(plan.spec.flow_run, plan.spec.epoch, name), "started")
        engine.start(name)

    def _undo(self, handle: Handle) -> None:
        """Removes what a failed launch has made. What cannot be removed now is found by the next look."""
        try:
            self._engine.remove(handle.infrastructure, force=True)
            self._engine.remove_volume(handle.infrastructure)
            self._records.remove(handle)
        except OSError as error:
            _log.warning("%s cannot be removed now: %s", handle.infrastructure, error)

    @staticmethod
    def _refused(error: EngineRefusedError) -> LaunchError:
        words = str(error).lower()
        failure = None if any(one in words for one in _PASSING) else FailureCode.LAUNCH_SETTINGS
        if "no such image" in words:
            failure = FailureCode.IMAGE_UNAVAILABLE
        delay = LaunchDelay.STORAGE if "no space left" in words else LaunchDelay.PLATFORM
        return LaunchError(f"Docker refuses the container: {error}", failure, delay=delay)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        """Looks at what is known of its end, then at the container."""
        return await self._under_way.inspect(handle, self._look)

    def waits_for(self, handle: Handle) -> Waiting | None:  # noqa: ARG002 (as all launchers)
        """Returns None: an image is there before its container is made, which starts at once."""
        return None

    def _look(self, handle: Handle) -> Liveness | InfraExit:
        folder = self._records.folder(handle)
        if (known := folder.exit()) is not None:
            return exit_of(known)
        found = self._engine.container(handle.infrastructure)
        if found is None:
            if self._records.is_started(handle):
                return self._records.settle(handle, gone())
            self._undo(handle)
            return exit_of(never_started())
        state = found["State"]
        if state["Status"] == "created":
            if self._engine.remove(handle.infrastructure, force=False):
                self._undo(handle)
                return exit_of(never_started())
            return Liveness.STARTING
        if state["Status"] in RUNNING:
            return Liveness.STARTING
        return self._records.settle(handle, self._ended(handle, state))

    def _ended(self, handle: Handle, state: dict[str, Any]) -> ExitRecord:
        """Copies what the ended container leaves, and returns its end."""
        name = handle.infrastructure
        inside = f"{PLACE}/runs/{folder_name_of(handle.run_id, handle.epoch)}"
        folder = self._records.make(handle)
        pieces = self._engine.get(name, f"{inside}/outbox")
        if pieces is not None:
            try:
                unpack_outbox(pieces, folder.outbox)
            except ValueError as error:
                _log.error("%s: %s; what it has not reported is lost", handle.flow_run, error)
        known = exit_in(one_file(self._engine.get(name, f"{inside}/exit.json")))
        if known is not None and not folder.has("abandoned"):
            return known
        heard_of = self._engine.has(name, f"{inside}/contact")
        printed = self._engine.tail(name, max(self._options.crash_lines, 20))
        if not heard_of and self._options.crash_lines and not folder.has("abandoned"):
            _log.error("%s died before it was heard of. The end of what it printed:\n%s", name, printed.rstrip())
        return verdict(
            state, killed_by_us=folder.has("abandoned"), stopped_by_us=folder.has("stopped"), printed=printed
        )

    def _left(self) -> dict[str, Handle]:
        found = {handle.infrastructure: handle for handle in self._records.left()}
        for one in self._engine.containers(self._own_labels):
            handle = attempt_in(one.get("Labels") or {}, name_of)
            if handle is not None and not self._records.is_forgotten(handle):
                found[handle.infrastructure] = handle
        return found

    async def list(self) -> list[Handle]:
        """Returns the attempts of this agent: those that the engine has, and those that it lost."""
        return [*(await self._under_way.do(self._left)).values()]

    async def outbox(self, handle: Handle) -> Path | None:
        """Returns the copy of what the container did not ship; there once it has ended."""
        folder = self._records.folder(handle)
        return folder.outbox if folder.outbox.is_dir() and folder.exit() is not None else None

    # --- ending ------------------------------------------------------------------------------------------------------

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:
        """Kills what is abandoned; asks the others to end, and kills them after the grace period."""
        if abandon:
            self._records.mark(handle, "abandoned")
            await self._under_way.do(self._engine.signal, handle.infrastructure, signal.SIGKILL)
            return
        self._records.mark(handle, "stopped")
        self._under_way.stop(handle.infrastructure, lambda: self._stop(handle, told=told))

    async def _stop(self, handle: Handle, *, told: bool) -> None:
        """A supervisor that was told has its time to end the flow by itself; then it is ended, then killed.

        One that the control plane has not heard of yet is told here that it is cancelled: SIGTERM would tell it that
        its place is taken away.
        """
        longest = self._settings.end_seconds
        first = (signal.SIGTERM, longest) if told else (signal.SIGUSR2, 0.0)
        for number, patience in (first, (signal.SIGKILL, longest)):
            await asyncio.sleep(patience)
            end = partial(self._engine.signal, handle.infrastructure, number)
            if not await self._under_way.insist(handle, self._look, end):
                return

    async def forget(self, handle: Handle) -> None:
        """Marks the end as reported. Container and volume go with the next cleanup, or after a while."""
        self._under_way.forget(handle.infrastructure)
        await self._under_way.do(self._forget, handle)

    def _forget(self, handle: Handle) -> None:
        if self._records.forget(handle):
            cleaning.blank_secrets(self._engine, handle)

    async def cleanup(self) -> None:
        """Removes containers, volumes and folders whose time has come."""
        busy = self._under_way.launching
        await self._under_way.do(cleaning.clean, self._engine, self._records, self._options, self._own_labels, busy)

    async def close(self) -> None:
        """Lets go of the engine; containers go on."""
        self._under_way.leave()
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
        self._under_way.close()
        self._engine.close()
