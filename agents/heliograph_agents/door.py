"""What an agent checks of a lease before it believes anything in it. Pure.

The control plane is somebody else's. Whatever it says becomes paths, headers, arguments and log lines here, so each
part has to have its form before it is used: a lease that has not is refused whole, and one that cannot even be named
is dropped. What may run at all is the policy's and the signature's to say, in `gate`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.engine.codes import FailureCode
from heliograph.utilities.names import name_problem

MAX_PARAMETER_BYTES = 1024 * 1024
MAX_LOCATION_BYTES = 2048
MAX_LABELS = 256

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_KIND = re.compile(r"[a-z][a-z0-9_+-]{0,31}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_PLAIN = re.compile(r"[A-Za-z0-9_.:+/=@-]{0,128}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,1023}")
_PARTS = re.compile(r"[/\\]|%2f|%5c", re.IGNORECASE)
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_MAX_EPOCH = 2**63 - 1
_MAX_ATTEMPT = 2**31 - 1
_LAST_SECOND = 253_402_300_799
_RENEW_SECONDS = (1.0, 60.0)
_HEARTBEAT_SECONDS = (1.0, 60.0)
_LONGEST_SPREAD_SECONDS = 3600.0


class BadLeaseError(ValueError):
    """A lease that is refused at the door.

    Args:
        message: What is wrong with it, without quoting it.
        failure: What the run is given back with.
    """

    def __init__(self, message: str, failure: FailureCode = FailureCode.POLICY) -> None:
        super().__init__(message)
        self.failure = failure


def is_named(lease: pb.FlowRunLease) -> bool:
    """True when the lease says which run it is for, and under which epoch: only then can it be given back."""
    return _run_of(lease.flow_run.name) is not None and 0 < lease.epoch <= _MAX_EPOCH


def check_lease(lease: pb.FlowRunLease) -> None:
    """Refuses a lease whose parts do not have their form.

    Raises:
        BadLeaseError: One has not.
    """
    for problem in _problems(lease):
        raise BadLeaseError(problem)
    _check_parameters(lease.flow_run.parameters_json)


def check_token(text: str) -> bool:
    """True when a run token can be one: it becomes a file and a header."""
    return _TOKEN.fullmatch(text) is not None


def check_incarnation(text: str) -> bool:
    """True when the identity of a store can be one."""
    return len(text) <= 128 and _PLAIN.fullmatch(text) is not None


def renew_seconds(asked: float) -> float:
    """Returns how often a lease is renewed: what the control plane asks for, within reason."""
    return _within(asked, _RENEW_SECONDS, 15.0)


def heartbeat_seconds(asked: float, default: float) -> float:
    """Returns the pause before the next heartbeat: what the control plane asks for, within reason."""
    return _within(asked, _HEARTBEAT_SECONDS, default)


def spread_seconds(asked: float) -> float:
    """Returns over how long this agent spreads its return."""
    return min(max(asked, 0.0), _LONGEST_SPREAD_SECONDS)


def _within(asked: float, limits: tuple[float, float], default: float) -> float:
    return min(max(asked, limits[0]), limits[1]) if asked else default


def _run_of(name: str) -> str | None:
    """Returns the project of a run's name; None when it is no name of a run."""
    parts = name.split("/")
    if len(parts) != 4 or (parts[0], parts[2]) != ("projects", "flowRuns") or not _RUN_ID.fullmatch(parts[3]):
        return None
    return None if name_problem(parts[1], slash=False) else parts[1]


def _problems(lease: pb.FlowRunLease) -> Iterator[str]:
    run, version = lease.flow_run, lease.flow_version
    bundle = version.bundle
    project = _run_of(run.name)
    parts = version.name.split("/")
    if project is None or not 0 < lease.epoch <= _MAX_EPOCH:
        yield "it names no run"
    if (
        len(parts) != 6
        or (parts[0], parts[2], parts[4]) != ("projects", "flows", "versions")
        or name_problem(parts[1], slash=False)
        or name_problem(parts[3], slash=False)
        or not _VERSION.fullmatch(parts[5])
    ):
        yield "it names no version of a flow"
    elif parts[1] != project:
        yield "its flow is of another project than the run"
    if run.run_name and name_problem(run.run_name):
        yield f"the run's name {name_problem(run.run_name)}"
    if not 0 < lease.attempt <= _MAX_ATTEMPT:
        yield "its attempt has no number"
    if len(run.labels) > MAX_LABELS or any(name_problem(label) for label in run.labels):
        yield "its labels are none"
    if run.HasField("scheduled_time") and not (
        0 <= run.scheduled_time.seconds <= _LAST_SECOND and 0 <= run.scheduled_time.nanos < 10**9
    ):
        yield "it is due at no time"
    if not _KIND.fullmatch(bundle.storage):
        yield "it names no kind of storage"
    yield from _location_problems(bundle.storage, bundle.location)
    if not _DIGEST.fullmatch(bundle.digest) or not _DIGEST.fullmatch(bundle.launch_digest):
        yield "its digests are none"
    if not _PLAIN.fullmatch(version.graph.graph_hash) or not _PLAIN.fullmatch(bundle.python_version):
        yield "its graph hash or its Python version is none"
    if bundle.host and name_problem(bundle.host, slash=False):
        yield "its host is none"
    if version.launch.image and not _IMAGE.fullmatch(version.launch.image):
        yield "its image is none"
    if len(bundle.signature) > 1024 or not _PLAIN.fullmatch(bundle.signing_key_id):
        yield "its signature is none"


def _location_problems(storage: str, location: str) -> Iterator[str]:
    if not location or len(location.encode("utf-8", "replace")) > MAX_LOCATION_BYTES:
        yield "the bundle's location is empty or too long"
    elif not location.isprintable() or location != location.strip():
        yield "the bundle's location has characters that cannot be seen"
    elif any(part.lower().replace("%2e", ".") in ("..", ".") for part in _PARTS.split(location)):
        yield "the bundle's location leads back"
    elif storage == "local" and not (PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()):
        yield "the bundle's folder is not absolute"


def _check_parameters(text: str) -> None:
    if len(text) > MAX_PARAMETER_BYTES:
        raise BadLeaseError("its parameters are too large", FailureCode.PARAMETERS)
    try:
        value: Any = json.loads(text or "{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadLeaseError("its parameters are no JSON object", FailureCode.PARAMETERS)


def _no_number(_: str) -> NoReturn:
    raise ValueError("no JSON number")
