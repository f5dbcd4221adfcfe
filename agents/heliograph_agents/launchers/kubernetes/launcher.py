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
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from heliograph.client.cluster import Access
from heliograph.engine.codes import FailureCode
from heliograph.exceptions import UnavailableError
from heliograph.storage import LaunchSettings
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import Credentials, Handle, InfraExit, LaunchError, Liveness, Plan, RunSpec
from heliograph_agents.launchers.kubernetes import cleaning, names, offer, phases
from heliograph_agents.launchers.kubernetes.api import Api, ApiAwayError, ApiRefusedError
from heliograph_agents.launchers.kubernetes.manifest import Owner
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.patience import Patients
from heliograph_agents.launchers.kubernetes.phases import Judgement, Stage, Trouble, judge
from heliograph_agents.launchers.kubernetes.plan import KubernetesPlan, make_plan
from heliograph_agents.launchers.kubernetes.refusals import refused
from heliograph_agents.launchers.kubernetes.view import View, owner_of
from heliograph_agents.launchers.kubernetes.watch import Watch
from heliograph_agents.launchers.records import Records
from heliograph_agents.launchers.under_way import UnderWay
from heliograph_agents.run_directory import ExitRecord, LaunchRecord, RunSettings

_log = logging.getLogger("heliograph.agent")

THREADS = 16
"""Questions to the API at once."""

LAUNCHES = 25
"""Launches at once; the others wait their turn."""

OFFER_SECONDS = 10.0
"""How long a launch waits for its pod; after that the offer is made whenever the pod comes."""

EVENT_SECONDS = 10.0
"""How often the events of a Job without a pod are read."""


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
        self._settings = replace(
            settings,
            address=advertised or settings.address,
            home=f"{names.WORK}/home",
            cache=f"{names.WORK}/cache",
            work_dir="",
            show_output=True,
            container=True,
        )
        self._options = options
        self._namespaces = options.namespaces or (access.namespace,)
        # The control plane too: agents of several may share a name, and a namespace.
        pool = names.pool_label(settings.agent, settings.address)
        self._owner = Owner(settings.agent, pool, 2 * settings.grace_seconds + 5.0)
        self._selector = names.selector(pool)
        self._api = Api(access, timeout_seconds=options.timeout_seconds, rate=options.rate, burst=options.burst)
        self._view = View()
        self._records = Records(folder)
        self._patients = Patients(options)
        self._under_way = UnderWay(self.kind, self._records, THREADS, LAUNCHES)
        self._offering: set[str] = set()
        self._removed: dict[str, ExitRecord] = {}
        self._events_at: dict[str, tuple[float, Trouble | None]] = {}
        self._followed: set[str] = set()
        self._closed = threading.Event()
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
        namespace, name = names.namespace_and_name(handle)
        record = LaunchRecord(plan.spec, self._settings, credentials.incarnation, credentials.renew_every_seconds)
        try:
            self._records.plan(handle)
            job = self._make_job(handle, plan.job)
        except ApiAwayError as error:
            # Without an offer nothing begins: should the Job be there, the next look finds and removes it.
            self._records.remove(handle)
            raise LaunchError(str(error)) from error
        except ApiRefusedError as error:
            self._records.remove(handle)
            raise refused(error, namespace) from error
        except LaunchError:
            self._records.remove(handle)
            raise
        except OSError as error:
            raise LaunchError(f"the attempt cannot be noted: {error}") from error
        self._view.note("jobs", "ADDED", job)
        for said in self._api.warned[-3:]:
            _log.warning("the cluster says of Job %s: %s", name, said)
        self._api.warned.clear()
        self._offering.add(handle.infrastructure)
        if not self._offer(handle, job, record, credentials.run_token, OFFER_SECONDS):
            threading.Thread(
                target=self._offer, args=(handle, job, record, credentials.run_token, None), daemon=True
            ).start()
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
        if names.handle_of(found) != handle or labels.get(f"{names.LABEL}agent") != self._owner.pool:
            raise LaunchError(f"a Job that is none of this agent's is named {handle.infrastructure}")
        return found

    def _offer(
        self, handle: Handle, job: dict[str, Any], record: LaunchRecord, token: str, seconds: float | None
    ) -> bool:
        """Makes the offer as soon as there is a pod. Returns False when there was none in that time.

        Args:
            handle: The attempt.
            job: Its Job.
            record: What it is to do.
            token: Its run token.
            seconds: How long to wait; None means as long as the Job is there and this agent runs.
        """
        limit = time.monotonic() + seconds if seconds is not None else float("inf")
        name = handle.infrastructure
        over = False
        try:
            while not (over or self._closed.is_set()):
                now = time.monotonic()
                if now > limit:
                    return False
                try:
                    holder = offer.await_pod(self._api, self._view, job, min(limit, now + 30.0), self._closed.is_set)
                    if holder:
                        # Not made, when there is one: a lost answer was to this agent, or a withdrawal came before.
                        offer.make(self._api, job, offer.contents(record, token, holder))
                        self._records.mark(handle, "started")
                        over = True
                    elif seconds is None:
                        over = not self._is_wanted(name, job)
                except ApiRefusedError as error:
                    over = True
                    trouble = Trouble(FailureCode.LAUNCH_FAILED, f"its Secret: {error}", phases.Patience.NONE)
                    with contextlib.suppress(OSError):  # what cannot be removed now is by the next look
                        self._give_up(handle, trouble)
                except OSError as error:
                    _log.warning("the Secret of %s cannot be made, trying again: %s", name, error)
                    self._closed.wait(2.0)
        finally:
            if over or seconds is None or self._closed.is_set():
                self._offering.discard(name)
        return True

    def _is_wanted(self, name: str, job: dict[str, Any]) -> bool:
        """True while a Job is there and may still get its pod."""
        found = self._api.get("jobs", *names.namespace_and_name(Handle("", 0, name)))
        same = found is not None and found["metadata"]["uid"] == job["metadata"]["uid"]
        return (
            same and found is not None and not found["metadata"].get("deletionTimestamp") and not phases.is_over(found)
        )

    # --- looking -----------------------------------------------------------------------------------------------------

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        """Looks at what is known of its end, at the view, and where that says that it has ended, at the cluster."""
        return await self._under_way.inspect(handle, self._look)

    def _look(self, handle: Handle) -> Liveness | InfraExit:
        if (known := self._records.folder(handle).exit()) is not None:
            return exit_of(known)
        name = handle.infrastructure
        job, pods = self._view.seen(name)
        seen = judge(job, pods)
        if job is None or seen.stage in (Stage.ENDED, Stage.GONE):
            job, pods = self._ask(handle)
            seen = judge(job, pods)
        if seen.stage is Stage.RUNNING:
            self._patients.better(name)
            self._show(handle, seen)
            return Liveness.STARTING
        if seen.stage is Stage.WAITING:
            assert job is not None or pods
            self._while_waiting(handle, job, seen)
            return Liveness.STARTING
        return self._settle(handle, self._ended(handle, job, pods, seen), lingers=seen.lingers)

    def _ask(self, handle: Handle) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Returns the Job and the pods that there are, and those that were, after a look at the cluster."""
        namespace, name = names.namespace_and_name(handle)
        job = self._api.get("jobs", namespace, name)
        wanted = names.selector_of(handle, self._owner.pool)
        found, _ = self._api.list("pods", namespace, labelSelector=wanted)
        pods = [pod for pod in found if owner_of(pod) == handle.infrastructure]
        uids = {pod["metadata"]["uid"] for pod in pods}
        _, before = self._view.seen(handle.infrastructure)
        gone = [{**pod, "gone": True} for pod in before if pod["metadata"]["uid"] not in uids]
        return job, [*pods, *gone]

    def _while_waiting(self, handle: Handle, job: dict[str, Any] | None, seen: Judgement) -> None:
        """Sees to what has not started: makes sure that its offer was made, and loses patience with its trouble."""
        name = handle.infrastructure
        if job is None or job["metadata"].get("deletionTimestamp"):
            return
        if (why := self._removed.get(name)) is not None:
            self._remove(handle, why)  # asked before, and not taken
            return
        if name not in self._offering and not self._records.folder(handle).has("started"):
            if offer.withdraw(self._api, job):
                _log.warning("%s was not offered by the agent that made its Job: it is given back", handle.flow_run)
                self._remove(handle, phases.withdrawn())
                return
            self._records.mark(handle, "started")
        trouble = seen.trouble
        if trouble is None and not seen.pod:
            trouble = self._events_of(name, str(job["metadata"]["uid"]))
        if self._patients.is_hopeless(name, trouble):
            assert trouble is not None
            self._give_up(handle, trouble)

    def _events_of(self, name: str, uid: str) -> Trouble | None:
        """Returns what the events of an object say of why it waits; nothing where this agent may not read them."""
        at, known = self._events_at.get(name, (0.0, None))
        if time.monotonic() < at + EVENT_SECONDS:
            return known
        namespace, _, _ = name.partition("/")
        try:
            found, _ = self._api.list("events", namespace, fieldSelector=f"involvedObject.uid={uid}")
            known = phases.trouble_in(found)
        except OSError:
            known = None
        self._events_at[name] = time.monotonic(), known
        return known

    def _give_up(self, handle: Handle, trouble: Trouble) -> None:
        _log.error("%s is removed: %s", handle.infrastructure, trouble.hint)
        self._remove(handle, phases.removed(trouble, abandoned=False))

    def _remove(self, handle: Handle, record: ExitRecord, *, at_once: bool = False) -> None:
        """Has the cluster end an attempt; what is said of its end, should it not say so itself, is known already."""
        self._removed.setdefault(handle.infrastructure, record)
        namespace, name = names.namespace_and_name(handle)
        _, pods = self._view.seen(handle.infrastructure)
        self._api.delete("jobs", namespace, name, {"propagationPolicy": "Foreground"})
        if not at_once:
            return
        for pod in pods:
            # Not zero: that would take the pod out of the books while it may still run.
            if "gone" not in pod:
                self._api.delete("pods", namespace, pod["metadata"]["name"], {"gracePeriodSeconds": 1})

    def _ended(
        self, handle: Handle, job: dict[str, Any] | None, pods: list[dict[str, Any]], seen: Judgement
    ) -> ExitRecord:
        """Returns how it ended: its own word, what this agent did to it, or what the cluster says."""
        folder, record = self._records.folder(handle), seen.record
        assert record is not None
        ours = self._removed.get(handle.infrastructure)
        if folder.has("abandoned"):
            return ours or phases.removed(None, abandoned=True)
        if seen.told:
            return record
        if ours is not None:
            return ours
        if job is None and not pods and not folder.has("started"):
            return phases.withdrawn()
        printed = ""
        if seen.stage is Stage.ENDED and seen.pod and self._options.crash_lines:
            namespace, _ = names.namespace_and_name(handle)
            printed = self._api.log(namespace, seen.pod, names.CONTAINER, self._options.crash_lines)
            if printed:
                _log.error("%s died without a word. The end of what it printed:\n%s", seen.pod, printed.rstrip())
                record = judge(job, pods, printed=printed).record or record
        if folder.has("stopped") and record.reason == FailureCode.SIGNAL:
            record = replace(
                record, hint="this agent ended its pod, since it did not end by itself in its grace period"
            )
        return record

    def _settle(self, handle: Handle, record: ExitRecord, *, lingers: bool) -> InfraExit:
        """Writes the end down, so that it stays the same when Job and pod are gone."""
        if lingers:
            self._records.mark(handle, "lingers")
        found = self._records.settle(handle, record)
        name = handle.infrastructure
        self._view.forget(name)
        self._patients.better(name)
        for memory in (self._removed, self._events_at):
            memory.pop(name, None)
        self._followed.discard(name)
        return found

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

    def _show(self, handle: Handle, seen: Judgement) -> None:
        """Repeats what a container prints on the agent's own output, where that is wanted."""
        if self._options.show_logs and seen.pod and handle.infrastructure not in self._followed:
            self._followed.add(handle.infrastructure)
            namespace, _ = names.namespace_and_name(handle)
            threading.Thread(target=_repeat, args=(self._api, namespace, seen.pod), daemon=True).start()

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
        name = handle.infrastructure
        job, pods = self._view.seen(name)
        seen = judge(job, pods)
        trouble = seen.trouble if seen.stage is Stage.WAITING else None
        if seen.stage is Stage.WAITING and trouble is None:
            about = next((pod for pod in pods if "gone" not in pod), job)
            trouble = self._events_of(name, str(about["metadata"]["uid"])) if about is not None else None
        self._remove(handle, phases.removed(trouble, abandoned=True), at_once=True)

    async def _stop(self, handle: Handle, *, told: bool) -> None:
        """The supervisor has the grace period and half of it to end the flow; then its pod is ended."""
        await asyncio.sleep(2 * self._settings.grace_seconds + 5.0 if told else 0.0)
        while True:
            try:
                if isinstance(await self.inspect(handle), InfraExit):
                    return
                namespace, name = names.namespace_and_name(handle)
                await self._under_way.do(self._api.delete, "jobs", namespace, name, {"propagationPolicy": "Foreground"})
            except OSError as error:
                _log.warning("%s cannot be stopped, trying again: %s", handle.infrastructure, error)
                await asyncio.sleep(2.0)
            else:
                return

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


def _repeat(api: Api, namespace: str, pod: str) -> None:
    """Repeats what a container prints."""
    try:
        for data in api.follow(namespace, pod, names.CONTAINER):
            os.write(sys.stdout.fileno(), data)
    except OSError:
        pass  # it is gone, or nobody listens
