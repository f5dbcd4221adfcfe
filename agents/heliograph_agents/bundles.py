"""What is checked before any user code runs: launch settings, bundle, Python, requirements.

Runs in the supervisor, where the flow will run. What was fetched once is taken from the agent's cache by its digest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliograph.exceptions import BundleChangedError, ConfigurationError, StorageError
from heliograph.storage import BundleFormat, BundleRef, LaunchSettings, Manifest, from_reference
from heliograph.storage.cache import manifest_of
from heliograph.storage.load import preflight
from heliograph.storage.own_launch import complete
from heliograph.utilities.files import write_atomically
from heliograph_agents.launcher import BundleSpec
from heliograph_agents.run_directory import LaunchRecord

_STRICTNESS = ("local", "redacted", "full")


@dataclass(frozen=True, slots=True)
class Ready:
    """A checked bundle and what its run needs.

    Attributes:
        bundle: Folder with exactly the files of the bundle.
        settings: The launch settings.
        failure_text: What of a failure's text may cross: the stricter of the flow's wish and the agent's limit.
        log_mode: The same for log lines.
        remarks: What whoever reads the run's output should know of where the bundle came from.
    """

    bundle: Path
    settings: LaunchSettings
    failure_text: str
    log_mode: str
    remarks: tuple[str, ...] = ()

    def message(self) -> dict[str, Any]:
        """Returns what the flow process is told."""
        return {
            "bundle": str(self.bundle),
            "env": dict(self.settings.env),
            "working_dir": self.settings.working_dir,
            "ledger": dict(self.settings.ledger),
            "failure_text": self.failure_text,
            "log_mode": self.log_mode,
        }


@contextlib.contextmanager
def _unusable_is_unavailable() -> Iterator[None]:
    """Reports a library or a login that this agent lacks as what it means for the run: no bundle."""
    try:
        yield
    except ConfigurationError as error:
        raise StorageError(str(error), hint=error.hint) from error


@_unusable_is_unavailable()
def prepare(record: LaunchRecord) -> Ready:
    """Fetches and checks the bundle of an attempt.

    Raises:
        StorageError: Its class says what is wrong, its message what the bundle has and what is here.
    """
    spec, agent = record.spec.bundle, record.settings
    cache = Path(agent.cache)
    settings = settings_of(spec, cache)
    if settings.image != spec.image:
        raise BundleChangedError(
            f"the control plane names image {spec.image or 'none'}, the launch settings {settings.image or 'none'}",
            hint="The author did not choose that image. Register the flow again.",
        )
    storage = from_reference(spec.storage, spec.location, host=spec.host)
    folder = storage.fetch(reference(spec), cache)
    manifest = manifest_of(folder)
    _compare(record, manifest)
    preflight(manifest)
    return Ready(
        folder,
        settings,
        failure_text=stricter(settings.failure_text, agent.failure_text),
        log_mode=stricter(settings.log_mode, agent.log_mode),
        remarks=tuple(storage.remarks()),
    )


def _compare(record: LaunchRecord, manifest: Manifest) -> None:
    """Refuses a bundle that is not what was offered: the policy has judged the offer, the manifest is the fact."""
    flow, spec = record.spec.flow_version.split("/")[3], record.spec.bundle
    hint = "The control plane offers another bundle than the author registered. Register the flow again."
    if manifest.flow != flow:
        raise BundleChangedError(f"the bundle is of flow {manifest.flow!r}, the run of {flow!r}", hint=hint)
    if (manifest.format is BundleFormat.PICKLE) != spec.pickled:
        made = "a pickle" if manifest.format is BundleFormat.PICKLE else "source files"
        raise BundleChangedError(f"the bundle is {made}, which the control plane does not say", hint=hint)


def is_cached(record: LaunchRecord) -> bool:
    """True when `prepare` needs no storage: it takes milliseconds then, and no network."""
    spec, cache = record.spec.bundle, Path(record.settings.cache)
    return (cache / "bundles" / spec.digest.partition(":")[2]).is_dir() and launch_file(
        cache, spec.launch_digest
    ).is_file()


def launch_file(cache: Path, digest: str) -> Path:
    """Returns where a cache keeps launch settings."""
    return cache / "launch" / f"{digest.partition(':')[2]}.json"


@_unusable_is_unavailable()
def settings_of(spec: BundleSpec, cache: Path) -> LaunchSettings:
    """Returns the launch settings of a bundle, with what the agent's own file says.

    Raises:
        StorageError: They cannot be fetched, or are not those that were registered, or something is missing.
    """
    return complete(_registered_settings(spec, cache), spec.own_launch, "launch/<project>/<flow>.toml at home")


def _registered_settings(spec: BundleSpec, cache: Path) -> LaunchSettings:
    """Returns them from the cache when it has them."""
    path = launch_file(cache, spec.launch_digest)
    with contextlib.suppress(OSError):
        return LaunchSettings.from_json(path.read_bytes(), spec.launch_digest)
    settings = from_reference(spec.storage, spec.location, host=spec.host).fetch_launch(reference(spec))
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to refuse the run
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, settings.to_json(), 0o600)
    return settings


def reference(spec: BundleSpec) -> BundleRef:
    """Returns the bundle's reference as storage takes it."""
    return BundleRef(
        storage=spec.storage,
        location=spec.location,
        digest=spec.digest,
        launch_digest=spec.launch_digest,
        format=BundleFormat.PICKLE if spec.pickled else BundleFormat.SOURCE,
        python_version=spec.python_version,
        host=spec.host,
    )


def stricter(wish: str, limit: str) -> str:
    """Returns the mode that tells less: an agent's setting is a limit, a flow may only ask for less.

    For log lines `local` tells less than `redacted` and that less than `full`, as for texts of failures.
    """
    if not wish:
        return limit
    return min(wish, limit, key=_STRICTNESS.index)
