"""Settings: their fields, defaults, documentation, and where each value comes from.

One place reads them: `config()` returns a frozen tree. A value is taken from the first of

1. `set_temporary_config({...})` (flags of a command use it as well),
2. the environment, `HELIOGRAPH__SECTION__KEY`,
3. the project file, the nearest `heliograph.toml` in this folder or above it,
4. the user file, `$HELIOGRAPH_HOME/config.toml` (`~/.heliograph/config.toml`),
5. the default below.

A setting that does not exist is an error that names its source, so a typing mistake is never silently a default.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast, get_type_hints

from heliograph.exceptions import ConfigurationError

ENV_PREFIX = "HELIOGRAPH__"
PROJECT_FILE = "heliograph.toml"
USER_FILE = "config.toml"

_NOT_SETTINGS = ("HELIOGRAPH__SECRETS__",)  # secrets' values are no settings: `heliograph.client.secrets` reads them


def _doc(text: str, default: Any) -> Any:
    if isinstance(default, list):
        raise TypeError("defaults are immutable: use a tuple")
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How a control plane is reached."""

    address: str = _doc("Host and port of the control plane.", "127.0.0.1:4480")
    token: str = field(default="", repr=False, metadata={"doc": "API token; better kept in a file (see token_file)."})
    token_file: str = _doc("File that holds the token; empty: $HELIOGRAPH_HOME/tokens/<address>.", "")
    tls_ca: str = _doc("PEM file with the certificate authority; empty: the system's.", "")
    tls_cert: str = _doc("PEM file with a client certificate.", "")
    tls_key: str = _doc("PEM file with the key of tls_cert.", "")
    insecure: bool = _doc("Allows plain text to an address that is not loopback.", False)
    timeout_seconds: float = _doc("Deadline of a call.", 10.0)
    signing_key: str = _doc(
        "Private key that signs what is registered; empty: $HELIOGRAPH_HOME/keys/signing.key, where there is one.", ""
    )


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """What is logged, and how a line looks."""

    level: str = _doc("Lowest level of the product's loggers: DEBUG, INFO, WARNING, ERROR or CRITICAL.", "INFO")
    format: str = _doc(
        "Format of a line, with %-style attributes of the record.",
        "[%(asctime)s] %(levelname)s - %(name)s | %(message)s",
    )
    datefmt: str = _doc("strftime format of the time of a line.", "%Y-%m-%d %H:%M:%S%z")
    extra_loggers: tuple[str, ...] = _doc("Names of other loggers whose lines are shown and sent as well.", ())


@dataclass(frozen=True, slots=True)
class ResultsConfig:
    """Where results go when a flow does not say."""

    dir: str = _doc("Folder of LocalResult; empty: $HELIOGRAPH_HOME/results.", "")


@dataclass(frozen=True, slots=True)
class TaskDefaultsConfig:
    """What a task has when it does not say."""

    max_retries: int = _doc("Retries after the first attempt.", 0)
    retry_delay_seconds: float = _doc("Pause before a retry; 0: none is set.", 0.0)
    timeout_seconds: float = _doc("Limit of one attempt; 0: none.", 0.0)


@dataclass(frozen=True, slots=True)
class TasksConfig:
    """Tasks."""

    defaults: TaskDefaultsConfig = field(default_factory=TaskDefaultsConfig)


@dataclass(frozen=True, slots=True)
class FlowDefaultsConfig:
    """What a flow has when it does not say."""

    executor: str = _doc("Dotted class path of the executor.", "heliograph.executors.LocalExecutor")


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """Building flows."""

    eager_edge_validation: bool = _doc("Looks for cycles at every new edge, not only when the flow is used.", False)
    defaults: FlowDefaultsConfig = field(default_factory=FlowDefaultsConfig)


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """An agent on this machine."""

    name: str = _doc("Name of the agent; empty: made from its kind and the host's name.", "")
    labels: tuple[str, ...] = _doc("Labels that the agent offers.", ())
    max_runs: int = _doc("Most runs at one time; 0: as many as there are processors, and at least 4.", 0)
    dir: str = _doc("Folder of run directories and cached bundles; empty: $HELIOGRAPH_HOME/agent.", "")
    health_address: str = _doc("Host and port of /healthz; empty: none.", "")
    failure_text: str = _doc("Most text of failures that may leave this machine: local, redacted or full.", "local")
    log_mode: str = _doc("Most of log lines that may leave this machine: local, redacted or full.", "redacted")
    environments: tuple[str, ...] = _doc(
        "Python environments that local runs may ask for, `NAME=PATH`: a venv, a conda environment, a uv project or an "
        "interpreter.",
        (),
    )
    policy: str = _doc("Policy file of agents; empty: $HELIOGRAPH_HOME/policy.toml, where there is one.", "")


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Bundles."""

    dir: str = _doc("Folder of Local storage; empty: $HELIOGRAPH_HOME/storage.", "")
    soft_limit_bytes: int = _doc("Size of a bundle above which registration warns.", 10 * 1024 * 1024)
    hard_limit_bytes: int = _doc(
        "Size of a bundle above which it is refused, when made and when fetched.", 100 * 1024 * 1024
    )
    requirements: str = _doc(
        "How installed packages are compared with the bundle's: strict, compatible or off.", "compatible"
    )
    graph_check: str = _doc("What another graph than the registered one is, after loading: error or warn.", "error")
    cache_limit_bytes: int = _doc(
        "Size of the cache of fetched bundles; the ones unused longest go first.", 2 * 1024**3
    )
    tokens: tuple[str, ...] = _doc(
        "Which secret is the login at which host, `git.example.org=GIT_TOKEN`; a host may have a path's beginning. "
        "`ssh://git.example.org=KEY` is a private key for ssh.",
        (),
    )
    git_protocols: tuple[str, ...] = _doc(
        "Protocols that Git storage may use: https, ssh, http, file. http to this machine is always allowed.",
        ("https", "ssh"),
    )
    git_timeout_seconds: float = _doc("Limit of one command of Git storage.", 300.0)
    http_timeout_seconds: float = _doc("Limit of one storing or fetching in a registry or by HTTP.", 300.0)
    insecure_hosts: tuple[str, ...] = _doc(
        "Registries and servers of bundles, `host:port`, that may be spoken to without TLS. This machine always may.",
        (),
    )
    archive_limit_bytes: int = _doc(
        "Size of the archive of a whole repository, unpacked, above which GitHub, GitLab and Bitbucket refuse it.",
        1024**3,
    )
    s3_endpoint_url: str = _doc("Endpoint for s3:// storage; empty: AWS_ENDPOINT_URL, or Amazon's.", "")
    secret_stores: tuple[str, ...] = _doc(
        "Where secrets are looked for after this machine: aws-secrets-manager:PREFIX, aws-ssm:PREFIX, "
        "vault:MOUNT/PREFIX, kubernetes:NAMESPACE/SECRET.",
        (),
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    client: ClientConfig = field(default_factory=ClientConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, for documentation and `config view`: its dotted name, variable, default and meaning."""

    name: str
    env_name: str
    kind: Any
    default: Any
    doc: str


_CHOICES: dict[str, tuple[str, ...]] = {
    "logging.level": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "agent.failure_text": ("local", "redacted", "full"),
    "agent.log_mode": ("local", "redacted", "full"),
    "storage.requirements": ("strict", "compatible", "off"),
    "storage.graph_check": ("error", "warn"),
}


def _walk(section: Any, prefix: str = "") -> Iterator[Setting]:
    hints = get_type_hints(type(section))
    for item in fields(section):
        name = f"{prefix}{item.name}"
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from _walk(value, f"{name}.")
        else:
            env_name = ENV_PREFIX + name.upper().replace(".", "__")
            yield Setting(name, env_name, hints[item.name], value, item.metadata.get("doc", ""))


SETTINGS: dict[str, Setting] = {setting.name: setting for setting in _walk(Config())}
"""All settings by dotted name."""

_lock = threading.RLock()
_temporary: list[dict[str, Any]] = []
_cached: tuple[dict[Any, Any], Config, dict[str, str]] | None = None


def home() -> Path:
    """Returns the product's folder: `$HELIOGRAPH_HOME`, or `~/.heliograph`. It is not created."""
    value = os.environ.get("HELIOGRAPH_HOME", "")
    return Path(value).expanduser().absolute() if value else Path.home() / ".heliograph"


def config() -> Config:
    """Returns the settings as they are now.

    Files are read once; a changed variable is seen at the next call. A call costs two microseconds: callers on a hot
    path keep the tree that they got.

    Raises:
        ConfigurationError: If a setting is unknown, malformed, or a file is no TOML.
    """
    return _load()[0]


def origins() -> dict[str, str]:
    """Returns where each setting's value comes from: dotted name to `default`, a file's path or a variable's name."""
    return dict(_load()[1])


def reload() -> None:
    """Forgets what was read from files."""
    global _cached
    with _lock:
        _cached = None


@contextmanager
def set_temporary_config(values: Mapping[str, Any]) -> Iterator[Config]:
    """Sets settings by dotted name, in the whole process, until the block ends.

    Example:
        >>> with set_temporary_config({"tasks.defaults.max_retries": 2}):
        ...     config().tasks.defaults.max_retries
        2
    """
    layer = {_known(name, "set_temporary_config"): value for name, value in values.items()}
    checked = {name: _cast(SETTINGS[name], value, "set_temporary_config") for name, value in layer.items()}
    with _lock:
        _temporary.append(checked)
        reload()
    try:
        yield config()
    finally:
        with _lock:
            _temporary.remove(checked)
            reload()


def _load() -> tuple[Config, dict[str, str]]:
    global _cached
    # The mapping below os.environ, where there is one: comparing it costs a microsecond, decoding all names forty.
    environment: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
    with _lock:
        if _cached is not None and _cached[0] == environment:
            return _cached[1], _cached[2]
        seen = dict(environment)
        variables = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
        values: dict[str, Any] = {}
        found: dict[str, str] = dict.fromkeys(SETTINGS, "default")
        for source, layer in _layers(variables):
            for name, value in layer.items():
                values[name] = value
                found[name] = source[name] if isinstance(source, dict) else source
        tree = cast("Config", _build(Config(), values))
        _cached = (seen, tree, found)
        return tree, found


def _layers(variables: Mapping[str, str]) -> Iterator[tuple[str | dict[str, str], dict[str, Any]]]:
    """Yields sources with their values, weakest first."""
    paths = [home() / USER_FILE]
    project = _project_file()
    if project is not None:
        paths.append(project)
    for path in paths:
        if path.is_file():
            yield str(path), _read_file(path)
    by_variable = {setting.env_name: setting for setting in SETTINGS.values()}
    layer: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for variable, text in variables.items():
        if not variable.startswith(ENV_PREFIX) or variable.startswith(_NOT_SETTINGS):
            continue
        setting = by_variable.get(variable.upper())
        if setting is None:
            raise _unknown(variable, by_variable, "the environment")
        layer[setting.name] = _cast(setting, text, variable)
        sources[setting.name] = variable
    yield sources, layer
    for temporary in _temporary:
        yield "set_temporary_config", temporary


def _project_file() -> Path | None:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder was removed under the process
        return None
    return next((path for folder in (here, *here.parents) if (path := folder / PROJECT_FILE).is_file()), None)


def _read_file(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    values: dict[str, Any] = {}

    def flatten(table: Mapping[str, Any], prefix: str) -> None:
        for key, value in table.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                flatten(value, f"{name}.")
            else:
                setting = SETTINGS[_known(name, str(path))]
                values[name] = _cast(setting, value, str(path))

    flatten(document, "")
    return values


def _known(name: str, source: str) -> str:
    if name not in SETTINGS:
        raise _unknown(name, SETTINGS, source)
    return name


def _unknown(name: str, known: Mapping[str, object], source: str) -> ConfigurationError:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "`heliograph.config.SETTINGS` lists all settings."
    return ConfigurationError(f"{source} has the setting {name}, which does not exist", hint=hint)


_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


def _cast(setting: Setting, value: Any, source: str) -> Any:
    """Makes a value of the setting's type from text of the environment or a TOML value."""
    result: Any = None
    if setting.kind is bool:
        text = str(value).lower()
        result = True if text in _TRUE else False if text in _FALSE else None
    elif setting.kind is str:
        result = value if isinstance(value, str) else None
        if result is not None and setting.name == "logging.level":
            result = result.upper()
    elif setting.kind in (int, float):
        try:
            result = None if isinstance(value, bool) else setting.kind(value)
        except (TypeError, ValueError):
            result = None
    elif isinstance(value, str):
        result = tuple(part.strip() for part in value.split(",") if part.strip())
    elif isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        result = tuple(value)
    choices = _CHOICES.get(setting.name)
    if result is None or (choices and result not in choices):
        wanted = f"one of {', '.join(choices)}" if choices else _KIND_NAMES.get(setting.kind, "a list of texts")
        shown = "its value" if setting.name == "client.token" else repr(value)
        raise ConfigurationError(f"{setting.name} (from {source}) must be {wanted}, not {shown}")
    return result


_KIND_NAMES: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _build(section: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    changes: dict[str, Any] = {}
    for item in fields(section):
        name = f"{prefix}{item.name}"
        current = getattr(section, item.name)
        if is_dataclass(current):
            changes[item.name] = _build(current, values, f"{name}.")
        elif name in values:
            changes[item.name] = values[name]
    return replace(section, **changes)
