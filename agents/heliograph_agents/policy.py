"""The agent's policy: what its owner lets others run here. A file on this side; nothing remote can change it.

`policy.toml`, every key optional; what is not named is allowed. Patterns are those of file names: `*` any text, `?` one
character.

    projects = ["etl", "team-*"]
    flows = ["etl/*"]                               # project/flow
    storages = ["s3://bundles/prod/", "local:/srv/flows/"]   # kind and beginning of the location
    images = ["registry.internal/flows/*"]
    require_image_digest = true
    env = ["APP_*"]                                 # names that run configs may set
    mounts = ["/data/*:ro"]                         # what of the host runs may see
    max_cpu = 4                                     # cores
    max_memory = "8 GiB"
    privileged = []                                 # none by default, even when the key is missing
    identities = ["arn:aws:iam::1:role/flows-*"]    # service accounts, roles
    options = ["networks"]                          # the launcher's own options that run configs may use
    require_signature = true
    pickles = false                                 # flows that are loaded from a pickle
    failure_text = "local"                          # most that may cross
    log_mode = "redacted"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from heliograph.exceptions import ConfigurationError
from heliograph.storage.places import is_below
from heliograph_agents.launcher import PlanFacts, RunSpec
from heliograph_agents.most import Most

MODES = ("local", "redacted", "full")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")

Patterns = tuple[str, ...] | None
"""What may be; None means anything."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What may run. See the module for what each key means."""

    projects: Patterns = None
    flows: Patterns = None
    storages: Patterns = None
    images: Patterns = None
    require_image_digest: bool = False
    env: Patterns = None
    mounts: Patterns = None
    max_cpu_millis: int = 0
    max_memory_bytes: int = 0
    privileged: tuple[str, ...] = ()
    identities: Patterns = None
    options: Patterns = None
    require_signature: bool | None = None
    pickles: bool = True
    failure_text: str = ""
    log_mode: str = ""

    @property
    def wants_settings(self) -> bool:
        """True when a rule is about launch settings: they are fetched before a launch then."""
        rules = (self.images, self.env, self.mounts, self.identities, self.options)
        return any(rule is not None for rule in rules) or bool(self.max_cpu_millis or self.max_memory_bytes)

    @property
    def most(self) -> Most:
        """What a run may take at most, for launchers to hold it to."""
        return Most(self.max_cpu_millis, self.max_memory_bytes)

    def refuse_origin(self, spec: RunSpec) -> list[str]:
        """Judges what is known before anything is fetched. Returns a sentence for each refusal."""
        project, flow = spec.flow_run.split("/")[1], _flow_of(spec.flow_version)
        refusals = []
        if spec.flow_version.split("/")[1] != project:
            refusals.append(f"the run is of project {project}, its flow of another one")
        if not _matches(self.projects, project):
            refusals.append(f"project {project} is not among projects")
        if not _matches(self.flows, f"{project}/{flow}"):
            refusals.append(f"flow {project}/{flow} is not among flows")
        if self.storages is not None and not any(
            is_below(spec.bundle.storage, spec.bundle.location, allowed) for allowed in self.storages
        ):
            refusals.append(f"storage {spec.bundle.storage} at {spec.bundle.location} is not among storages")
        if spec.bundle.pickled and not self.pickles:
            refusals.append("its bundle is a pickle, which pickles forbids")
        return refusals

    def refuse_plan(self, facts: PlanFacts) -> list[str]:
        """Judges what would be started. Returns a sentence for each refusal."""
        refusals = []
        for image in (facts.image, *facts.more_images):
            if image and not _matches(self.images, image):
                refusals.append(f"image {image} is not among images")
            if image and self.require_image_digest and not _DIGEST.search(image):
                refusals.append(f"image {image} has no digest")
        refusals += [f"variable {name} is not among env" for name in facts.env if not _matches(self.env, name)]
        refusals += [f"mount {mount} is not among mounts" for mount in facts.mounts if not self._may_mount(mount)]
        refusals += [f"{word} is not among privileged" for word in facts.privileged if word not in self.privileged]
        refusals += [f"identity {one} is not among identities" for one in facts.identities
                     if not _matches(self.identities, one)]  # fmt: skip
        refusals += [f"option {one} is not among options" for one in facts.options if not _matches(self.options, one)]
        if self.max_cpu_millis and "cpu" in facts.unlimited:
            refusals.append(f"it could take more cores than max_cpu, {self.max_cpu_millis / 1000:g}")
        elif self.max_cpu_millis and facts.cpu_millis > self.max_cpu_millis:
            refusals.append(f"{facts.cpu_millis / 1000:g} cores are more than max_cpu, {self.max_cpu_millis / 1000:g}")
        if self.max_memory_bytes and "memory" in facts.unlimited:
            refusals.append(f"it could take more bytes than max_memory, {self.max_memory_bytes:,}")
        elif self.max_memory_bytes and facts.memory_bytes > self.max_memory_bytes:
            refusals.append(f"{facts.memory_bytes:,} bytes are more than max_memory, {self.max_memory_bytes:,}")
        return refusals

    def _may_mount(self, mount: str) -> bool:
        if self.mounts is None:
            return True
        path, read_only = mount.removesuffix(":ro"), mount.endswith(":ro")
        if ".." in PurePosixPath(path).parts:
            return False
        for allowed in self.mounts:
            if allowed.endswith(":ro") and not read_only:
                continue
            if fnmatchcase(path, allowed.removesuffix(":ro")):
                return True
        return False


def load_policy(path: Path) -> Policy:
    """Reads a policy file.

    Raises:
        ConfigurationError: It is not there, or says what cannot be: an agent does not start with a policy that its
            owner did not mean.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the policy {path} cannot be read: {error}") from error
    try:
        return parse_policy(document)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the policy {path}: {error}") from error


def parse_policy(document: Mapping[str, Any]) -> Policy:
    """Makes a policy from what a file says.

    Raises:
        ValueError, TypeError: A key is unknown, or its value is not what it takes.
    """
    names = {field.name for field in fields(Policy)} - {"max_cpu_millis", "max_memory_bytes"}
    given: dict[str, Any] = {}
    for key, value in document.items():
        if key == "max_cpu":
            given["max_cpu_millis"] = _cores(value)
        elif key == "max_memory":
            given["max_memory_bytes"] = parse_bytes(value)
        elif key not in names:
            known = ", ".join(sorted({*names, "max_cpu", "max_memory"}))
            raise ValueError(f"{key!r} is not known; known: {known}")
        elif key in ("require_image_digest", "require_signature", "pickles"):
            if not isinstance(value, bool):
                raise TypeError(f"{key} is true or false")
            given[key] = value
        elif key in ("failure_text", "log_mode"):
            if value not in MODES:
                raise ValueError(f"{key} is one of {', '.join(MODES)}")
            given[key] = value
        else:
            if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
                raise TypeError(f"{key} is a list of texts")
            given[key] = tuple(value)
    return Policy(**given)


def parse_bytes(value: Any) -> int:
    """Reads `8 GiB`, `500 MB` or a number of bytes.

    Raises:
        ValueError: It is none of them.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
    if isinstance(value, bool) or match is None or match[2] not in _UNITS:
        raise ValueError(f"{value!r} is no size; write 8 GiB, 500 MB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def _cores(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"max_cpu is a number of cores, not {value!r}")
    return int(value * 1000)


def _flow_of(flow_version: str) -> str:
    """`projects/P/flows/F/versions/N` → F."""
    return flow_version.split("/")[3]


def _matches(patterns: Iterable[str] | None, text: str) -> bool:
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)
