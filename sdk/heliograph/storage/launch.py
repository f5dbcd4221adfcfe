"""Launch settings: what an agent needs to start a run. They lie beside the bundle; only names and digests are told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import BundleChangedError, StorageError

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

__all__ = ["LaunchSettings", "launch_settings"]

VERSION = 1
MODES = ("", "local", "redacted", "full")


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What `launch.json` holds.

    Attributes:
        labels: Labels that an agent must offer, all of them.
        launcher: Kind of launcher asked for: `local`, `docker`, `ecs`, `kubernetes`; empty means any.
        env: Environment variables of the run, with their values.
        image: Container image with digest; empty means none.
        cpu_millis: Processor share in thousandths of a core; 0 means not said.
        memory_bytes: Memory; 0 means not said.
        working_dir: Folder in which the run starts; empty means the agent's.
        ledger: Where the run's ledger is: `{"kind": "local", "dir": …}` (an empty folder means the default one of the
            machine it runs on) or `{"kind": "s3", "bucket": …, "prefix": …}` with endpoint and region.
        failure_text: How much of a failure's text may be told, `local`, `redacted` or `full`; empty means the agent's.
        log_mode: How much of log lines may be told; empty means the agent's.
        start_timeout_seconds: How long its infrastructure may take to start; 0 means the agent's.
        options: What else its kind of launcher is asked for, as JSON: networks, a job template, a role. Each launcher
            documents and checks its own.
        from_agent: Names of what the agent's own file must give: `env.API_KEY`, `options.networks`, `working_dir`,
            `ledger`. See `heliograph.storage.own_launch`.
        salt: Random text kept in the storage. It makes the digest, which is told, useless for guessing values.
    """

    labels: tuple[str, ...] = ()
    launcher: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    image: str = ""
    cpu_millis: int = 0
    memory_bytes: int = 0
    working_dir: str = ""
    ledger: Mapping[str, str] = field(default_factory=dict)
    failure_text: str = ""
    log_mode: str = ""
    start_timeout_seconds: int = 0
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    from_agent: tuple[str, ...] = ()
    salt: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.failure_text not in MODES or self.log_mode not in MODES:
            raise ValueError(f"failure_text and log_mode are one of {MODES[1:]}, or empty")

    @property
    def digest(self) -> str:
        """`sha256:` and the digest of `launch.json`."""
        return f"sha256:{hashlib.sha256(self.to_json()).hexdigest()}"

    def with_salt(self, salt: str) -> LaunchSettings:
        """Returns the settings with the storage's salt."""
        return replace(self, salt=salt)

    def to_json(self) -> bytes:
        """Returns `launch.json`: the same bytes for the same settings."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, expected_digest: str) -> LaunchSettings:
        """Reads `launch.json`.

        Raises:
            BundleChangedError: If it is not the one that was registered.
            StorageError: If it is malformed or of a newer format.
        """
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest != expected_digest:
            raise BundleChangedError(
                f"the launch settings were registered with {expected_digest}, but those in the storage have {digest}",
                hint="Somebody changed the storage after registration. Register the flow again.",
            )
        try:
            document = json.loads(data)
            version = document.pop("version")
            if version != VERSION or document.keys() - {item.name for item in fields(cls)}:
                raise StorageError("the launch settings are of a newer format", hint="Upgrade heliograph here.")
            for name in ("labels", "from_agent"):
                document[name] = tuple(document[name])
            return cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"the launch settings are malformed: {error}") from error


def launch_settings(flow: Flow, storage: Any) -> LaunchSettings:
    """Makes the settings of a flow from its run config, its result and its storage."""
    run_config = flow.run_config
    base = run_config.launch_settings() if run_config is not None else LaunchSettings()
    if storage is not None and storage.image and not base.image:
        base = replace(base, image=storage.image)
    if run_config is None and base.image:
        base = replace(base, launcher="docker")
    return replace(base, ledger=_ledger(getattr(flow, "result", None), storage))


def _ledger(result: Any, storage: Any) -> dict[str, str]:
    """The ledger is where the flow's results are; else beside the bundle in a bucket, or at home."""
    from heliograph.engine.results import AzureResult, GCSResult, LocalResult, S3Result, default_results_dir

    if isinstance(result, S3Result):
        return {"kind": "s3", "prefix": "", **result.describe_config()}
    if isinstance(result, GCSResult):
        return {"kind": "gcs", "prefix": "", **result.describe_config()}
    if isinstance(result, AzureResult) and result.account_url:
        return {"kind": "azure", "prefix": "", "account_url": result.account_url, "container": result.container}
    if isinstance(result, LocalResult):
        return {"kind": "local", "dir": "" if result.dir == default_results_dir() else result.dir}
    described: dict[str, str] = storage.ledger()
    return described
