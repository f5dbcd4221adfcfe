"""The Secret of an attempt: its offer, made to one pod alone, or the word that there will be none.

The Job is made first, so that all there is can be found by listing Jobs, and goes with them. Its pod waits for the
Secret, which names the pod that it is for: a second one that the cluster makes, as when somebody deletes the first,
finds that it is not meant, and leaves. Whoever creates the Secret first decides: an agent that comes after one that
died writes a withdrawal under the same name, after which no offer can be made any more.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from heliograph_agents.launchers.address import certificates
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.api import Api, ApiRefusedError
from heliograph_agents.launchers.kubernetes.phases import is_live
from heliograph_agents.launchers.kubernetes.view import View, owner_of
from heliograph_agents.launchers.labels import LABEL
from heliograph_agents.run_directory import LaunchRecord, launch_record_text

LOOK_SECONDS = 2.0
"""How often pods are listed while one is waited for: the watch tells sooner."""


def contents(record: LaunchRecord, token: str, holder: str) -> dict[str, bytes]:
    """Returns the files of an offer.

    Raises:
        OSError: A certificate cannot be read.
    """
    inside, files = certificates(record.settings.tls, names.OFFER)
    record = replace(record, settings=replace(record.settings, tls=inside))
    return {
        "launch.json": launch_record_text(record).encode(),
        "token": token.encode(),
        "holder": holder.encode(),
    } | files


def make(api: Api, job: Mapping[str, Any], files: Mapping[str, bytes]) -> bool:
    """Creates the Secret of a Job. Returns False when there is one.

    Raises:
        OSError: It was not created, or nobody knows.
    """
    meta = job["metadata"]
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": meta["name"],
            "labels": {key: value for key, value in meta["labels"].items() if key.startswith(LABEL)},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]},
            ],
        },
        "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
    }
    try:
        api.create("secrets", meta["namespace"], body)
    except ApiRefusedError as error:
        if error.reason == "AlreadyExists":
            return False
        raise
    return True


def withdraw(api: Api, job: Mapping[str, Any]) -> bool:
    """Sees to it that no offer can be made any more. Returns False when one was made.

    Raises:
        OSError: Nobody knows.
    """
    return make(api, job, {"withdrawn": b""})


def await_pod(
    api: Api, view: View, job: Mapping[str, Any], until: float, stopped: Callable[[], bool] = lambda: False
) -> str:
    """Waits for the pod of a Job. Returns its uid; empty when there is none by that time.

    Args:
        api: The API.
        view: What the watches have seen.
        job: The Job.
        until: Moment of the monotonic clock.
        stopped: True when nobody waits any more; whoever makes it so wakes the view.
    """
    meta = job["metadata"]
    name = names.infrastructure(meta["namespace"], meta["name"])
    wanted = f"{LABEL}run-id={meta['labels'][LABEL + 'run-id']}"
    look_at = time.monotonic() + LOOK_SECONDS / 2
    while True:
        _, pods = view.seen(name)
        now = time.monotonic()
        if now >= look_at:
            found, _ = api.list("pods", meta["namespace"], labelSelector=wanted)
            pods = [pod for pod in found if owner_of(pod) == name]
            look_at = now + LOOK_SECONDS
        live = sorted((pod for pod in pods if is_live(pod)), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        if live:
            return str(live[0]["metadata"]["uid"])
        if now >= until or stopped():
            return ""
        view.wait(min(until, look_at) - now)
