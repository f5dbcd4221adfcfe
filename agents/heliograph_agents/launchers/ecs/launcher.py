"""The ECS launcher: a task for each attempt, and ECS's word as the source of truth.

A launch: the definition, registered once for its content; the start code, with which the task gets its run from the
control plane; then `RunTask` with a token of run and epoch, so that ECS itself makes no second one. An agent may die
between any two: what it asked ECS for is found by who started it, in this agent's folder or in the tags of the task. A
task that nobody found in time starts nothing: its start code is bound to the epoch.

What ECS said of the end of a task is written into the attempt's folder; ECS forgets it within the hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph.exceptions import UnavailableError
from heliograph.run_configs.ecs import parse_task_definition
from heliograph.storage import LaunchSettings
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import (
    Credentials,
    ExitKind,
    Handle,
    InfraExit,
    LaunchError,
    Liveness,
    Plan,
    RunSpec,
    Waiting,
)
from heliograph_agents.launchers.address import address_inside, certificates, settings_inside
from heliograph_agents.launchers.ecs.aws import Aws, AwsAwayError, AwsRefusedError, refusal, unplaced
from heliograph_agents.launchers.ecs.definitions import Definitions
from heliograph_agents.launchers.ecs.logs import tail
from heliograph_agents.launchers.ecs.network import Network
from heliograph_agents.launchers.ecs.options import EcsOptions
from heliograph_agents.launchers.ecs.plan import PLACE, EcsPlan, Owner, definition_from, make_plan
from heliograph_agents.launchers.ecs.reasons import container_of, delay_in, gone, never_started, verdict, waiting
from heliograph_agents.launchers.ecs.tasks import Tasks, Watch, handle_of
from heliograph_agents.launchers.records import Records
from heliograph_agents.launchers.under_way import UnderWay
from heliograph_agents.run_directory import ExitRecord, LaunchRecord, RunSettings, launch_record_text
from heliograph_agents.start_code import VARIABLE, Codes, Start

_log = logging.getLogger("heliograph.agent")

THREADS = 8
LAUNCHES = 8
"""Launches at once; the others wait their turn."""

APPEAR_SECONDS = 120.0
"""How long a task may be in no list after ECS was asked for it: what ECS lists is a little behind."""

AGAIN_SECONDS = 5.0
"""How long a run waits in the queue that would be launched at once if it could be asked for again."""

START_TIMEOUT_SECONDS = 900.0
"""Start timeout where neither run config nor agent say one: as the agent's."""

FORGOTTEN_SECONDS = 7200.0
"""How long the folder of a reported attempt stays: longer than ECS lists its task."""

_ADVICE = "at an address of their VPC or of the internet, for example heliograph.example.com:4480"

MAX_OVERRIDE_BYTES = 8192
"""Most that ECS takes as overrides."""


class EcsLauncher:
    """Launches on one ECS cluster.

    Args:
        settings: How flows are run, as on the agent's host.
        folder: The agent's folder of attempts; made if needed.
        options: What the agent's owner sets.
        codes: Where start codes come from.
        advertised: Address of the control plane as tasks reach it; empty means the agent's.
        start_timeout_seconds: How long a run's task may take to start, where its run config says nothing.

    Raises:
        InvalidArgumentError: Tasks would not reach the control plane.
    """

    kind = "ecs"
    needs_settings = True

    def __init__(
        self,
        settings: RunSettings,
        folder: Path,
        options: EcsOptions,
        codes: Codes,
        *,
        advertised: str = "",
        start_timeout_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        self._address = address_inside(settings.address, advertised, settings.tls, what="task", advice=_ADVICE)
        self._settings = settings_inside(settings, self._address, PLACE)
        self._options, self._codes, self._start_timeout = options, codes, start_timeout_seconds
        self._started_by = started_by(settings.agent, settings.address)
        self._aws = Aws(options.region, options.endpoint_url)
        self._definitions, self._network = Definitions(self._aws), Network(self._aws, options)
        self._tasks = Tasks(self._aws, options.cluster, self._started_by)
        self._records = Records(folder)
        self._under_way = UnderWay(self.kind, self._records, THREADS, LAUNCHES)
        self._arns: dict[str, tuple[str, Handle]] = {}
        self._first_look = True
        self._watch: Watch | None = None
        self._tell: Callable[[Handle], None] = lambda _: None

    # --- launching -----------------------------------------------------------------------------------------------

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> EcsPlan:
        """Puts run config and agent's options together."""
        owner = Owner(self._settings.agent, self._started_by, self._settings.end_seconds)
        return make_plan(spec, settings or LaunchSettings(), self._options, owner)

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Looks whether the cluster can be asked, and begins to look at tasks.

        Raises:
            UnavailableError: It cannot.
        """
        self._records.open()
        for handle, folder in self._records.all():
            if not folder.has("forgotten") and folder.exit() is None and (arn := _arn_in(folder.path)):
                self._arns[handle.infrastructure] = (arn, handle)
        try:
            await self._under_way.do(self._tasks.list, "RUNNING")
        except OSError as error:
            raise UnavailableError(
                f"the tasks of cluster {self._options.cluster or 'default'} cannot be listed: {error}",
                hint="See that --cluster and --region are right, and that this agent's AWS credentials may list tasks.",
            ) from error
        _log.info("ECS cluster %s, tasks started by %s", self._options.cluster or "default", self._started_by)
        loop = asyncio.get_running_loop()

        def tell(handle: Handle) -> None:
            with contextlib.suppress(RuntimeError):  # the agent has left meanwhile
                loop.call_soon_threadsafe(ended, handle)

        def stopped(arn: str) -> None:
            for known, handle in list(self._arns.values()):
                if known == arn:
                    tell(handle)

        self._tell = tell
        live = lambda: [arn for arn, _ in list(self._arns.values())]  # noqa: E731 (names what it is)
        self._watch = Watch(self._tasks, live, stopped, self._options.poll_seconds)
        self._watch.start()

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        """Has ECS start the task; once, whoever asks."""
        assert isinstance(plan, EcsPlan)
        return await self._under_way.launch(plan.name, lambda: self._launch(plan, credentials))

    async def _launch(self, plan: EcsPlan, credentials: Credentials) -> Handle:
        handle = Handle(plan.spec.flow_run, plan.spec.epoch, plan.name, plan.start_timeout_seconds)
        folder = self._records.folder(handle)
        if folder.exit() is not None or folder.has("started") or self._records.is_forgotten(handle):
            return handle
        prepared = await self._under_way.do_launch(self._prepare, plan)
        start = await self._start(plan, credentials)
        await self._under_way.do_launch(self._run, plan, handle, prepared, start)
        return handle

    def _prepare(self, plan: EcsPlan) -> dict[str, Any]:
        """Returns the definition and the network, as arguments of `RunTask`."""
        try:
            name = plan.definition_name
            if not name:
                tags = {**self._options.tags, "heliograph.io/flow": plan.flow}
                name = self._definitions.provide(plan.flow, plan.definition or self._read(plan), tags)
            network = {"networkConfiguration": self._network.configuration()} if plan.wants_network else {}
        except AwsRefusedError as error:
            raise refusal("its task definition or network", error) from error
        except OSError as error:
            raise LaunchError(str(error), delay=LaunchDelay.UNREACHABLE) from error
        return {"taskDefinition": name, **network}

    def _read(self, plan: EcsPlan) -> dict[str, Any]:
        bucket, _, key = plan.definition_url.removeprefix("s3://").partition("/")
        try:
            text = self._aws.call("s3", "get_object", Bucket=bucket, Key=key)["Body"].read(2**20).decode()
            document = parse_task_definition(text, plan.definition_url)
            made = definition_from(document, plan, self._options, self._settings.end_seconds)
        except (ValueError, UnicodeDecodeError) as error:
            raise LaunchError(str(error), FailureCode.LAUNCH_SETTINGS) from error
        assert isinstance(made, dict)
        return made

    async def _start(self, plan: EcsPlan, credentials: Credentials) -> str:
        """Leaves the launch record with the control plane, sealed. Returns what the task begins with."""
        try:
            tls, files = certificates(self._settings.tls, f"{PLACE}/offer")
        except OSError as error:
            raise LaunchError(f"the certificates cannot be read: {error}", delay=LaunchDelay.AGENT) from error
        settings = replace(self._settings, tls=tls)
        record = LaunchRecord(plan.spec, settings, credentials.incarnation, credentials.renew_every_seconds)
        seconds = (plan.start_timeout_seconds or self._start_timeout) + 60.0
        code, key = await self._codes.ask(
            plan.spec.flow_run, plan.spec.epoch, credentials.run_token, launch_record_text(record), files, seconds
        )
        authorities = files.get("tls_ca.pem", b"").decode()
        start = Start(self._address, code, key, bool(tls.get("insecure")), authorities, seconds)
        return start.text()

    def _run(self, plan: EcsPlan, handle: Handle, prepared: dict[str, Any], start: str) -> None:
        arguments = {**plan.run_task, **prepared, "overrides": plan.override({VARIABLE: start})}
        size = len(json.dumps(arguments["overrides"]))
        if size > MAX_OVERRIDE_BYTES:
            raise LaunchError(
                f"the task's overrides have {size:,} characters, and ECS takes {MAX_OVERRIDE_BYTES:,}: shorten those of"
                " run_task_kwargs, or put the certificate authorities into the image",
                FailureCode.LAUNCH_SETTINGS,
            )
        try:
            self._records.plan(handle)
            self._records.mark(handle, "started")
        except OSError as error:
            raise LaunchError(f"the attempt cannot be noted: {error}", delay=LaunchDelay.AGENT) from error
        try:
            answer = self._tasks.run(arguments)
        except AwsRefusedError as error:
            if error.code == "ConflictException" and error.resources:
                self._note(handle, error.resources[0])  # asked before, in other words: there is one
                return
            self._records.remove(handle)
            self._definitions.forget(str(prepared["taskDefinition"]))
            if not plan.definition_name and error.says(("definition is inactive", "definition not found")):
                # Somebody took it away. The next launch registers it again.
                raise LaunchError(str(error), retry_seconds=AGAIN_SECONDS, delay=LaunchDelay.PLATFORM) from error
            raise refusal("ECS refuses the task", error) from error
        except AwsAwayError as error:
            # It may have been started all the same: the next looks tell, and a task that is there stays one.
            _log.warning("%s: no answer to RunTask: %s", plan.spec.flow_run, error)
            return
        started = answer.get("tasks") or []
        if not started:
            self._records.remove(handle)
            raise unplaced(answer.get("failures") or [])
        self._note(handle, str(started[0]["taskArn"]))
        _log.info("%s runs in task %s", plan.spec.flow_run, started[0]["taskArn"])

    def _note(self, handle: Handle, arn: str) -> None:
        self._arns[handle.infrastructure] = (arn, handle)
        try:
            (self._records.make(handle).path / "arn").write_text(arn)
        except OSError as error:  # the next agent finds it by its tags
            _log.warning("the task of %s cannot be noted: %s", handle.flow_run, error)

    # --- looking -------------------------------------------------------------------------------------------------

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        """Looks at what is known of its end, then at what ECS says."""
        found = await self._under_way.inspect(handle, self._look)
        if isinstance(found, InfraExit) and found.kind is ExitKind.NEVER_STARTED:
            return replace(found, delay=delay_in(found.hint))
        return found

    def waits_for(self, handle: Handle) -> Waiting | None:
        """Says how far ECS is with its task."""
        arn, _ = self._arns.get(handle.infrastructure, ("", handle))
        return waiting(self._tasks.seen(arn, float("inf")) if arn else None)

    def _look(self, handle: Handle) -> Liveness | InfraExit:
        folder = self._records.folder(handle)
        if (known := folder.exit()) is not None:
            return exit_of(known)
        arn = self._arn(handle)
        if not arn:
            if self._is_young(handle):
                return Liveness.STARTING
            return self._settle(handle, never_started("ECS was asked for its task, and has none"))
        task = self._tasks.seen(arn, self._options.poll_seconds)
        if task is None:
            # With all the others, so that a hundred cost as much as one.
            self._tasks.look({arn, *(known for known, _ in list(self._arns.values()))})
            task = self._tasks.seen(arn, self._options.poll_seconds)
        if task is None or (task.get("lastStatus") == "MISSING" and self._is_young(handle)):
            return Liveness.STARTING
        if task.get("lastStatus") == "MISSING":
            return self._settle(handle, gone())
        if task.get("lastStatus") != "STOPPED":
            return Liveness.STARTING
        return self._settle(handle, self._ended(handle, arn, task))

    def _arn(self, handle: Handle) -> str:
        """Returns the ARN of an attempt's task; empty when ECS has none (yet)."""
        known = self._arns.get(handle.infrastructure)
        arn = known[0] if known is not None else _arn_in(self._records.folder(handle).path)
        if not arn:
            self._find()
            known = self._arns.get(handle.infrastructure)
            arn = known[0] if known is not None else ""
        return arn

    def _is_young(self, handle: Handle) -> bool:
        try:
            asked = (self._records.folder(handle).path / "started").stat().st_mtime
        except OSError:
            return False
        return time.time() - asked < APPEAR_SECONDS

    def _ended(self, handle: Handle, arn: str, task: Any) -> ExitRecord:
        folder = self._records.make(handle)
        abandoned, container = folder.has("abandoned"), self._options.container
        record = verdict(task, container, abandoned=abandoned, stopped_by_us=folder.has("stopped"))
        if record.reason and not abandoned:
            self._show_output(arn, str(container_of(task, container).get("name") or container))
        return record

    def _show_output(self, arn: str, container: str) -> None:
        try:
            printed = tail(self._aws, self._options, container, arn)
        except OSError as error:
            _log.warning("what %s printed cannot be read: %s", arn, error)
            return
        if printed:
            _log.error("%s died. The end of what it printed:\n%s", arn, printed)

    def _settle(self, handle: Handle, record: ExitRecord) -> InfraExit:
        """Writes the end down, so that it stays the same when ECS has forgotten the task."""
        found = self._records.settle(handle, record)
        if (known := self._arns.pop(handle.infrastructure, None)) is not None:
            self._tasks.forget(known[0])
            self._tell(handle)  # whoever looked first was not the agent, perhaps
        return found

    def _find(self, *, stopped: bool = True) -> None:
        """Takes in what ECS lists and this agent does not know, and stops what nobody waits for."""
        arns = self._tasks.list("RUNNING") + (self._tasks.list("STOPPED") if stopped else [])
        known = {arn for arn, _ in list(self._arns.values())}
        known |= {_arn_in(folder.path) for _, folder in self._records.all() if not folder.has("forgotten")}
        strange = [arn for arn in arns if arn not in known]
        self._tasks.look(strange)
        for arn in strange:
            task = self._tasks.seen(arn, self._options.poll_seconds)
            handle = handle_of(task) if task is not None else None
            if handle is None or task is None:
                continue
            if not self._records.is_forgotten(handle):
                self._note(handle, arn)
            elif task.get("desiredStatus") == "RUNNING":
                self._tasks.stop(arn, "heliograph: the end of this run is known")

    def _left(self) -> list[Handle]:
        # Those that stopped while no agent was there are found once; later ones were seen while they ran.
        self._find(stopped=self._first_look)
        self._first_look = False
        found = {handle.infrastructure: handle for handle in self._records.left()}
        found |= {handle.infrastructure: handle for _, handle in list(self._arns.values())}
        return [*found.values()]

    async def list(self) -> list[Handle]:
        """Returns the attempts of this agent: those that ECS has, and those that it lost."""
        return await self._under_way.do(self._left)

    async def outbox(self, handle: Handle) -> Path | None:  # noqa: ARG002 (as all launchers)
        """A task's disk is gone with it."""
        return None

    # --- ending --------------------------------------------------------------------------------------------------

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:
        """Stops what is abandoned; asks the others to end. ECS kills what does not, after the grace period.

        Raises:
            OSError: ECS does not stop it.
        """
        if self._records.folder(handle).exit() is not None:
            return
        self._records.mark(handle, "abandoned" if abandon else "stopped")
        if abandon:
            await self._under_way.do(self._stop_now, handle, "heliograph: given up")
        else:
            self._under_way.stop(handle.infrastructure, lambda: self._stop(handle, told=told))

    async def _stop(self, handle: Handle, *, told: bool) -> None:
        """A supervisor that was told has its time to end the flow by itself."""
        await asyncio.sleep(self._settings.end_seconds if told else 0.0)
        await self._under_way.insist(handle, self._look, partial(self._stop_now, handle, "heliograph: cancelled"))

    def _stop_now(self, handle: Handle, reason: str) -> None:
        arn = self._arn(handle)
        if arn:
            self._tasks.stop(arn, reason)
        elif self._is_young(handle):
            raise AwsAwayError("its task is not listed yet")

    async def forget(self, handle: Handle) -> None:
        """Marks the end as reported."""
        self._under_way.forget(handle.infrastructure)
        self._arns.pop(handle.infrastructure, None)
        await self._under_way.do(self._records.forget, handle)

    async def cleanup(self) -> None:
        """Removes folders whose time has come. Tasks and their definitions are ECS's to keep."""
        await self._under_way.do(self._clean)

    def _clean(self) -> None:
        horizon = time.time() - FORGOTTEN_SECONDS
        for _, folder in self._records.all():
            mark = folder.path / "forgotten"
            if mark.exists() and mark.stat().st_mtime < horizon:
                folder.remove()

    async def close(self) -> None:
        """Lets go of AWS; tasks go on."""
        self._under_way.leave()
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
        self._under_way.close()
        self._aws.close()


def started_by(agent: str, address: str) -> str:
    """Returns what an agent's tasks are listed by. The control plane too: agents of several may share a name."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", agent)[:80]
    return f"heliograph-{slug}-{hashlib.sha256(f'{agent}@{address}'.encode()).hexdigest()[:12]}"


def _arn_in(folder: Path) -> str:
    try:
        return (folder / "arn").read_text()
    except OSError:
        return ""
