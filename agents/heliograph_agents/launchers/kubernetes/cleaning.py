"""What is removed of attempts whose end is reported, and when."""

from __future__ import annotations

import contextlib
import time

from heliograph.engine.codes import StateCode
from heliograph_agents.launcher import Handle
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.api import Api
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.view import View
from heliograph_agents.launchers.records import Records
from heliograph_agents.run_directory import RunDirectory


def remove_secret(api: Api, handle: Handle) -> None:
    """Removes an attempt's Secret, while its Job is kept. Best effort: all of it is over, and it goes with the Job."""
    namespace, name = names.namespace_and_name(handle)
    with contextlib.suppress(OSError):
        api.delete("secrets", namespace, name, {})


def clean(api: Api, view: View, records: Records, options: KubernetesOptions) -> None:
    """Removes the Jobs of reported attempts that were kept long enough, and their folders here.

    Raises:
        OSError: The API is away; what is left is removed the next time.
    """
    jobs = {names.infrastructure(job["metadata"]["namespace"], job["metadata"]["name"]): job for job in view.jobs()}
    for handle, folder in records.all():
        if not folder.has("forgotten"):
            continue
        job = jobs.get(handle.infrastructure)
        if job is None:
            folder.remove()  # not before: without it the Job would be taken for one that nobody knows
        elif not job["metadata"].get("deletionTimestamp") and _is_due(folder, options):
            namespace, name = names.namespace_and_name(handle)
            api.delete("jobs", namespace, name, {"propagationPolicy": "Background"})


def _is_due(folder: RunDirectory, options: KubernetesOptions) -> bool:
    record = folder.exit()
    failed = record is None or StateCode(record.state).is_failed
    keep = options.keep_failed_seconds if failed else options.keep_success_seconds
    if folder.has("lingers"):
        keep = 0.0  # what runs beside it would run for nobody
    try:
        return (folder.path / "forgotten").stat().st_mtime + keep <= time.time()
    except OSError:
        return False
