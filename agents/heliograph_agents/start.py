"""Puts an agent together from its settings and runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliograph_agents.agent import START_TIMEOUT_SECONDS, Agent, AgentOptions
from heliograph_agents.bundles import stricter
from heliograph_agents.ended import Ended
from heliograph_agents.gate import Gate
from heliograph_agents.host import Folders, folders, host_name, lock_name, tls_settings
from heliograph_agents.launchers.kinds import Ground, Kind, kind
from heliograph_agents.link import Link
from heliograph_agents.notify import Notifier
from heliograph_agents.offers import Offers
from heliograph_agents.policy import Policy, load_policy
from heliograph_agents.run_directory import RunSettings
from heliograph_agents.watchdog import Watchdog

LEAST_CAPACITY = 4
"""Capacity where none is set: one run for each processor, and at least this many, since runs also wait."""


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What `heliograph agent start` takes. Empty values mean: as the settings say, then the default.

    Attributes:
        launcher: Kind of launcher.
        name: Name of the agent; by default the kind and the host's name.
        labels: What it offers.
        capacity: Most runs at once; 0 means one for each processor, at least four.
        env: Variables of flow processes.
        import_paths: Folders put on the flows' `sys.path`.
        show_flow_logs: True to repeat the flows' output on the agent's.
        health_host, health_port: Where `/healthz` is served; port 0 means nowhere.
        failure_text: Most of a failure's text that may cross.
        log_mode: Most of a log line that may cross.
        work_dir: Working folder of flows that name none.
        drain_seconds: How long to wait for runs when told to stop.
        grace_seconds: How long a cancelled flow has to end by itself.
        start_timeout_seconds: How long a run's infrastructure may take until its supervisor is heard of.
        max_polls: Polls after which it leaves; 0 means none.
        policy: Its policy file; empty: that of the settings, then `policy.toml` of the home, where there is one.
        options: Options of the launcher's own, by parameter name.
    """

    launcher: str = "local"
    name: str = ""
    labels: tuple[str, ...] = ()
    capacity: int = 0
    env: dict[str, str] = field(default_factory=dict)
    import_paths: tuple[str, ...] = ()
    show_flow_logs: bool = False
    health_host: str = "127.0.0.1"
    health_port: int = 0
    failure_text: str = ""
    log_mode: str = ""
    work_dir: str = ""
    drain_seconds: float = 60.0
    grace_seconds: float = 10.0
    start_timeout_seconds: float = START_TIMEOUT_SECONDS
    max_polls: int = 0
    policy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def run_agent(options: StartOptions, *, on_ready: Callable[[Agent], None] | None = None, watched: bool = False) -> None:
    """Runs an agent until it is told to leave: by SIGTERM or SIGINT, or through `Agent.drain`.

    Args:
        options: What it is.
        on_ready: Called with the agent on its event loop, before it starts.
        watched: True to end this process when the agent's event loop is stuck. For processes that are agents only.

    Raises:
        AgentRunningError: An agent of this name runs here already.
        AgentRefusedError: The control plane refuses its token.
        InvalidArgumentError: There is no such type, or an option is not possible.
    """
    from heliograph.config import config

    chosen = kind(options.launcher)

    name = options.name or config().agent.name or f"{options.launcher}-{host_name()}"
    places = folders(name)
    lock = lock_name(places.agent, name)
    notifier = Notifier()
    try:
        agent = _put_together(chosen, options, name, places)

        async def run() -> None:
            if on_ready is not None:
                on_ready(agent)
            watchdog = Watchdog(asyncio.get_running_loop())
            if watched:
                watchdog.start()
            following = asyncio.create_task(notifier.follow(agent))
            try:
                await agent.run()
            finally:
                following.cancel()
                watchdog.stop()

        asyncio.run(run())
    finally:
        os.close(lock)


def _put_together(chosen: Kind, options: StartOptions, name: str, places: Folders) -> Agent:
    from heliograph.client.channel import TlsFiles, normalize_address
    from heliograph.client.credentials import find_token
    from heliograph.config import config

    settings = config()
    address, tls = settings.client.address, tls_settings()
    token = find_token(normalize_address(address)[0])
    files = TlsFiles(tls.get("tls_ca", ""), tls.get("tls_cert", ""), tls.get("tls_key", ""))
    policy = find_policy(options.policy, places.home)
    link = Link(address, token.token if token else None, files, insecure=bool(tls.get("insecure")))
    how = RunSettings(
        address=address,
        agent=name,
        home=str(places.home),
        cache=str(places.cache),
        tls=tls,
        env=options.env,
        import_paths=tuple(str(Path(path).absolute()) for path in options.import_paths),
        work_dir=str(Path(options.work_dir).absolute()) if options.work_dir else str(Path.cwd()),
        show_output=options.show_flow_logs,
        failure_text=stricter(policy.failure_text, options.failure_text or settings.agent.failure_text),
        log_mode=stricter(policy.log_mode, options.log_mode or settings.agent.log_mode),
        grace_seconds=options.grace_seconds,
    )
    what = AgentOptions(
        name=name,
        labels=tuple(dict.fromkeys((*settings.agent.labels, *options.labels))),
        capacity=options.capacity or settings.agent.max_runs or max(LEAST_CAPACITY, os.cpu_count() or 1),
        host=host_name() if chosen.SHARES_HOST else "",
        drain_seconds=options.drain_seconds,
        health_host=options.health_host,
        health_port=options.health_port,
        start_timeout_seconds=options.start_timeout_seconds,
        max_polls=options.max_polls,
    )
    launcher = chosen.make(Ground(how, places, options.options, link, options.start_timeout_seconds, policy.most))
    gate = Gate(places.cache, needs_settings=launcher.needs_settings, policy=policy)
    return Agent(what, link, launcher, Offers(places.agent / "offers"), gate, Ended(places.agent / "ended"))


def find_policy(named: str, home: Path) -> Policy:
    """Returns the agent's policy: that of a file that is named, else of the home; else one that allows everything.

    Raises:
        ConfigurationError: The file is not there, or says what cannot be.
    """
    from heliograph.config import config

    named = named or config().agent.policy
    path = Path(named).expanduser() if named else home / "policy.toml"
    return load_policy(path) if named or path.exists() else Policy()


def log_to_terminal(level: str = "INFO") -> None:
    """Sends the agent's own lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s - %(name)s | %(message)s"))
    logger = logging.getLogger("heliograph.agent")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)
