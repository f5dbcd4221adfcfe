"""The kind `docker`: runs are containers of a Docker Engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.launchers.docker.options import HOST_ALIAS, HOST_GATEWAY, KEEP, PULL_POLICIES, DockerOptions
from heliograph_agents.most import BOUNDLESS, Most

if TYPE_CHECKING:
    from heliograph_agents.launcher import Launcher
    from heliograph_agents.launchers.kinds import Ground

OPTIONS: Sequence[click.Option] = (
    click.Option(
        ["-b", "--base-url"],
        default="",
        metavar="URL",
        help="The engine: unix://, tcp://, ssh:// or npipe://. [default: DOCKER_HOST, then Docker's context]",
    ),
    click.Option(
        ["--advertise-address"],
        default="",
        metavar="HOST:PORT",
        help="The control plane as containers reach it. [default: the agent's own address]",
    ),
    click.Option(["--image"], default="", help="Image of flows that name none."),
    click.Option(
        ["--pull", "pull_policy"],
        type=click.Choice(PULL_POLICIES),
        help="When images are pulled. [default: Always for the tag latest, else IfNotPresent]",
    ),
    click.Option(["--no-pull"], is_flag=True, help="The same as --pull Never."),
    click.Option(
        ["--network", "networks"],
        multiple=True,
        help="Network of runs that name none, or host, bridge, none. May be repeated.",
    ),
    click.Option(
        ["--volume", "volumes"], multiple=True, metavar="SOURCE:TARGET[:ro]", help="Volume of every run. Repeatable."
    ),
    click.Option(
        ["--extra-host", "extra_hosts"], multiple=True, metavar="NAME:ADDRESS", help="Name for every run. Repeatable."
    ),
    click.Option(
        ["--host-gateway/--no-host-gateway"],
        default=True,
        show_default=True,
        help=f"Give containers the name {HOST_ALIAS} for this host.",
    ),
    click.Option(["--cpus"], type=click.FloatRange(0, min_open=True), help="Processors of runs that say nothing."),
    click.Option(["--memory"], default="", metavar="SIZE", help="Memory of runs that say nothing, as 512m or 2g."),
    click.Option(
        ["--keep"],
        type=click.Choice(KEEP),
        default="failed",
        show_default=True,
        help="Whose containers are kept for a while when they have ended.",
    ),
    click.Option(
        ["--keep-hours"], type=click.FloatRange(0), default=24.0, show_default=True, help="How long they are kept."
    ),
    click.Option(
        ["--crash-lines"],
        type=click.IntRange(0, 10_000),
        default=200,
        show_default=True,
        help="Lines of a container's output in this agent's log when it died before it was heard of.",
    ),
    click.Option(
        ["--docker-client-timeout"],
        type=click.FloatRange(1),
        default=60.0,
        show_default=True,
        help="Seconds that one answer of the engine may take.",
    ),
)
SHARES_HOST = False


def make(ground: Ground) -> Launcher:
    """Makes the launcher."""
    try:
        import docker  # noqa: F401 (says here what is missing, before anything needs it)
    except ImportError as error:
        raise InvalidArgumentError(
            "agents of type docker need the Docker SDK", hint="pip install 'heliograph[docker]'"
        ) from error
    from heliograph_agents.launchers.docker.launcher import DockerLauncher

    options = read_options(ground.options, show_logs=ground.settings.show_output, most=ground.most)
    return DockerLauncher(
        ground.settings, ground.places.runs, options, advertised=str(ground.options.get("advertise_address") or "")
    )


def read_options(given: Mapping[str, Any], *, show_logs: bool = False, most: Most = BOUNDLESS) -> DockerOptions:
    """Reads the options of the command.

    Raises:
        InvalidArgumentError: One is not possible.
    """
    from heliograph.run_configs.docker import size_in_bytes
    from heliograph_agents.launchers.docker.plan import parse_hosts
    from heliograph_agents.launchers.docker.volumes import parse_volume

    try:
        hosts = {HOST_ALIAS: HOST_GATEWAY} if given.get("host_gateway", True) else {}
        return DockerOptions(
            base_url=given.get("base_url") or "",
            timeout_seconds=given.get("docker_client_timeout") or 60.0,
            image=given.get("image") or "",
            pull_policy="Never" if given.get("no_pull") else given.get("pull_policy") or "",
            networks=tuple(given.get("networks") or ()),
            volumes=tuple(parse_volume(text) for text in given.get("volumes") or ()),
            extra_hosts=hosts | parse_hosts(given.get("extra_hosts") or ()),
            cpus=given.get("cpus") or 0.0,
            memory_bytes=size_in_bytes(given["memory"]) if given.get("memory") else 0,
            keep=given.get("keep") or "failed",
            keep_seconds=3600.0 * given.get("keep_hours", 24.0),
            show_logs=show_logs,
            most=most,
            crash_lines=given.get("crash_lines", 200),
        )
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
