"""The Kubernetes launcher: a Job for each attempt, and the cluster's word as the source of truth.

A launch: the Job, then, when its pod is there, the Secret that the pod waits for. An agent may die between the two: the
next one finds the Job by its labels, and whether its offer was made (see `offer`): what was not offered is removed,
and the run is given back; what was is adopted. The name comes from run and epoch, so the cluster itself refuses a
second Job, and the Secret names its pod, so no second pod begins.

Lists and watches keep a view of what is there. What the view says has ended is looked at once more before it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from heliograph.client.cluster import Access
from heliograph.engine.codes import LaunchDelay
from heliograph.exceptions import UnavailableError
from heliograph.storage import LaunchSettings
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
from heliograph_agents.launchers.address import settings_inside
from heliograph_agents.launchers.kubernetes import cleaning, names, phases
from heliograph_agents.launchers.kubernetes.api import Api, ApiAwayError, ApiRefusedError
from heliograph_agents.launchers.kubernetes.looks import Looks
from heliograph_agents.launchers.kubernetes.manifest import Owner
from heliograph_agents.launchers.kubernetes.offering import Offering
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.phases import Stage, judge
from heliograph_agents.launchers.kubernetes.plan import KubernetesPlan, make_plan
from heliograph_agents.launchers.kubernetes.refusals import refused
from heliograph_agents.launchers.kubernetes.removal import Removals
from heliograph_agents.launchers.kubernetes.view import View
from heliograph_agents.launchers.kubernetes.watch import Watch
from heliograph_agents.launchers.labels import LABEL
from heliograph_agents.launchers.records import Records
from heliograph_agents.launchers.under_way import UnderWay
from heliograph_agents.run_directory import LaunchRecord, RunSettings

_log = logging.getLogger("heliograph.agent")

THREADS = 16
"""Questions to the API at once."""

LAUNCHES = 25
"""Launches at once; the others wait their turn."""


class KubernetesLauncher:
    """Launches in the namespaces of a cluster.

    Args:
        settings: How flows are run, as on the agent's host.
        folder: The agent's folder of attempts; made if needed.
        options: What the agent's owner sets.
        access: The way to the cluster.
        advertised: Address of the control plane as pods reach it; empty means the agent's.
    """

    kind = "kubernetes"
    needs_settings = True

    def __init__(
        self, settings: RunSettings, folder: Path, options: KubernetesOptions, access: Access, *, advertised: str = ""
    ) -> None:
        self._settings = settings_inside(settings, advertised or settings.address, names.WORK)
        self._options = options
        self._namespaces = options.namespaces or (access.namespace,)
        # The control plane too: agents of several may share a name, and a namespace.
        pool = names.pool_label(settings.agent, settings.address)
        self._owner = Owner(settings.agent, pool, settings.end_seconds)
        self._selector = names.selector(pool)
        self._api = Api(access, timeout_seconds=options.timeout_seconds, rate=options.rate, burst=options.burst)
        self._view = View()
        self._records = Records(folder)
        self._closed = threading.Event()
        self._removals = Removals(self._api, self._view)
        self._offering = Offering(self._api, self._view, self._records, self._removals, self._closed)
        self._looks = Looks(self._api, self._view, self._records, options, pool, self._offering, self._removals)
        self._under_way = UnderWay(self.kind, self._records, THREADS, LAUNCHES)
        self._watches: list[Watch] = []
        self._hint: Callable[[Handle], None] = lambda _: None

    # --- launching ---------------------------------------------------------------------------------------------------

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> KubernetesPlan:
        """Puts template, run config and patches together."""
        return make_plan(spec, settings or LaunchSettings(), self._options, self._owner, self._namespaces)

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Connects, and begins to watch.

        Raises:
            UnavailableError: The API does not answer, or not to this agent.
        """
        self._records.open()
        try:
            version = await self._under_way.do(self._api.version)
            await self._under_way.do(self._list)
        except ApiRefusedError as error:
            raise UnavailableError(
                f"Kubernetes at {self._api.address} does not let this agent look at its Jobs: {error}",
                hint="What it needs is printed by: heliograph agent kubernetes rbac",
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"Kubernetes at {self._api.address} does not answer: {error}",
                hint="Name a kubeconfig with --kubeconfig and its context with --context.",
            ) from error
        _log.info("Kubernetes %s at %s, namespaces %s", version, self._api.address, ", ".join(self._namespaces))
        loop = asyncio.get_running_loop()

        def hint(handle: Handle) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(ended, handle)

        self._hint = hint
        for namespace in self._namespaces:
            for kind in ("jobs", "pods"):
                watch = Watch(self._api, kind, namespace, self._selector, self._on_list, self._on_change)
                self._watches.append(watch)
                watch.start()

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        """Makes the Job and its Secret; once, whoever asks."""
        assert isinstance(plan, KubernetesPlan)
        name = plan.handle.infrastructure
        work = self._under_way
        return await work.launch(name, lambda: work.do_launch(self._launch, plan, credentials))

    def _launch(self, plan: KubernetesPlan, credentials: Credentials) -> Handle:
        handle = plan.handle
        folder = self._records.folder(handle)
        if folder.exit() is not None or folder.has("started") or folder.has("forgotten"):
            return handle
        namespace, _ = names.namespace_and_name(handle)
        record = LaunchRecord(plan.spec, self._settings, credentials.incarnation, credentials.renew_every_seconds)
        try:
            self._records.plan(handle)
            job = self._make_job(handle, plan.job)
        except ApiAwayError as error:
            # Without an offer nothing begins: should the Job be there, the next look finds and removes it.
            self._records.remove(handle)
            raise LaunchError(str(error), delay=LaunchDelay.UNREACHABLE) from error
        except ApiRefusedError as error:
            self._records.remove(handle)
            raise refused(error, namespace) from error
        except LaunchError:
            self._records.remove(handle)
            raise
        except OSError as error:
            raise LaunchError(f"the attempt cannot be noted: {error}", delay=LaunchDelay.AGENT) from error
        self._view.note("jobs", "ADDED", job)
        self._offering.begin(handle, job, record, credentials.run_token)
        _log.info("%s runs in Job %s", plan.spec.flow_run, handle.infrastructure)
        return handle

    def _make_job(self, handle: Handle, body: Any) -> dict[str, Any]:
        """Creates the Job. One of that name that is this attempt's is it, whoever made it."""
        namespace, name = names.namespace_and_name(handle)
        try:
            return self._api.create("jobs", namespace, body)
        except ApiRefusedError as error:
            if error.reason != "AlreadyExists":
                raise
        found = self._api.get("jobs", namespace, name)
        if found is None:
            raise ApiAwayError(f"Job {name} was there, and is not any more")
        labels = found["metadata"].get("labels") or {}
        if names.handle_of(found) != handle or labels.get(f"{LABEL}agent") != self._owner.pool:
            message = f"a Job that is none of this agent's is named {handle.infrastructure}"
            raise LaunchError(message, delay=LaunchDelay.PLATFORM)
        return found

    # --- looking -----------------------------------------------------------------------------------------------------

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        """Looks at what is known of its end, at the view, and where that says that it has ended, at the cluster."""
        found = await self._under_way.inspect(handle, self._looks.look)
        if isinstance(found, InfraExit) and found.kind is ExitKind.NEVER_STARTED:
            return replace(found, delay=phases.delay_in(found.hint))
        return found

    def waits_for(self, handle: Handle) -> Waiting | None:
        """Says what the cluster said of its pod, or of why it has none, at the last look."""
        return self._looks.waits_for(handle)

    def _list(self) -> None:
        for namespace in self._namespaces:
            for kind in ("pods", "jobs"):
                items, _ = self._api.list(kind, namespace, labelSelector=self._selector)
                self._view.replace(kind, namespace, items)

    def _left(self) -> list[Handle]:
        self._list()
        found = {handle.infrastructure: handle for handle in self._records.left()}
        for job in self._view.jobs():
            handle = names.handle_of(job)
            if handle is not None and not self._records.is_forgotten(handle):
                found[handle.infrastructure] = handle
        return [*found.values()]

    async def list(self) -> list[Handle]:
        """Returns the attempts of this agent: those that the cluster has, and those that it lost."""
        return await self._under_way.do(self._left)

    async def outbox(self, handle: Handle) -> Path | None:  # noqa: ARG002 (a pod takes its files with it)
        """Returns None: what a pod did not ship goes with it."""
        return None

    def _on_list(self, kind: str, namespace: str, items: Iterable[dict[str, Any]]) -> None:
        """Takes what a watch begins with, and tells the agent of what has ended while nobody watched."""
        self._view.replace(kind, namespace, items)
        for job in self._view.jobs():
            handle = names.handle_of(job)
            if handle is not None and self._records.folder(handle).exit() is None:
                self._tell_end(handle)

    def _tell_end(self, handle: Handle) -> None:
        if judge(*self._view.seen(handle.infrastructure)).stage in (Stage.ENDED, Stage.GONE):
            self._hint(handle)

    def _on_change(self, kind: str, change: str, item: dict[str, Any]) -> None:
        """Takes what a watch says, and tells the agent of what looks like an end."""
        name = self._view.note(kind, change, item)
        if not name:
            return
        job, _ = self._view.seen(name)
        handle = names.handle_of(job or item)
        if handle is None:
            return
        if job is None:
            handle = replace(handle, infrastructure=name)
        self._tell_end(handle)

    # --- ending ------------------------------------------------------------------------------------------------------

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:
        """Kills what is abandoned; has the others end, whom the cluster kills after the grace period."""
        if abandon:
            self._records.mark(handle, "abandoned")
            await self._under_way.do(self._abandon, handle)
            return
        self._records.mark(handle, "stopped")
        self._under_way.stop(handle.infrastructure, lambda: self._stop(handle, told=told))

    def _abandon(self, handle: Handle) -> None:
        why = phases.removed(self._looks.trouble_of(handle), abandoned=True)
        self._removals.remove(handle, why, at_once=True)

    async def _stop(self, handle: Handle, *, told: bool) -> None:
        """A supervisor that was told has its time to end the flow by itself; then its pod is ended."""
        await asyncio.sleep(self._settings.end_seconds if told else 0.0)
        namespace, name = names.namespace_and_name(handle)
        end = partial(self._api.delete, "jobs", namespace, name, {"propagationPolicy": "Foreground"})
        await self._under_way.insist(handle, self._looks.look, end)

    async def forget(self, handle: Handle) -> None:
        """Marks the end as reported, and takes the run token away. The Job goes with a later cleanup."""
        self._under_way.forget(handle.infrastructure)
        await self._under_way.do(self._forget, handle)

    def _forget(self, handle: Handle) -> None:
        if self._records.forget(handle):
            cleaning.remove_secret(self._api, handle)

    async def cleanup(self) -> None:
        """Removes Jobs and folders whose time has come."""
        await self._under_way.do(cleaning.clean, self._api, self._view, self._records, self._options)

    async def close(self) -> None:
        """Lets go of the cluster; Jobs go on."""
        self._closed.set()
        self._view.wake()
        self._under_way.leave()
        for watch in self._watches:
            await asyncio.to_thread(watch.stop)
        self._under_way.close()
        self._api.close()
