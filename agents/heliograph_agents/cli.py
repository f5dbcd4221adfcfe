"""The commands `heliograph agent start` and, as Prefect 1 spelled it, `heliograph agent local start`."""

from __future__ import annotations

from typing import Any

import click

TYPES = ("local",)
MODES = ("local", "redacted", "full")


@click.group()
def agent() -> None:
    """Agents: they take runs from a control plane and launch them here."""


def _start_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("-l", "--label", "labels", multiple=True, help="A label that it offers. May be repeated."),
            click.option("-n", "--name", default="", help="Name of the agent. [default: its type and the host's name]"),
            click.option(
                "--capacity",
                type=click.IntRange(1, 10_000),
                help="Most runs at once. [default: processors, at least 4]",
            ),
            click.option(
                "-e", "--env", multiple=True, metavar="KEY=VALUE", help="A variable of flow processes. May be repeated."
            ),
            click.option(
                "-p", "--import-path", "import_paths", multiple=True, help="A folder put on the flows' sys.path."
            ),
            click.option("-f", "--show-flow-logs", is_flag=True, help="Repeat the flows' output here."),
            click.option(
                "--health-port",
                type=click.IntRange(1, 65535),
                help="Serve /healthz and /readyz on this port of loopback.",
            ),
            click.option(
                "--agent-address",
                default="",
                metavar="http://HOST:PORT",
                help="The same, with the address to serve on.",
            ),
            click.option(
                "--failure-text",
                type=click.Choice(MODES),
                help="Most of a failure's text that may leave this side. [default: local]",
            ),
            click.option(
                "--log-mode",
                type=click.Choice(MODES),
                help="Most of a log line that may leave this side. [default: redacted]",
            ),
            click.option(
                "--work-dir",
                type=click.Path(exists=True, file_okay=False),
                help="Folder in which flows start. [default: this one]",
            ),
            click.option(
                "--drain-timeout",
                type=click.FloatRange(0),
                default=60.0,
                show_default=True,
                help="Seconds to wait for runs when told to stop; they go on after that.",
            ),
            click.option(
                "--grace",
                type=click.FloatRange(0),
                default=10.0,
                show_default=True,
                help="Seconds that a cancelled flow has before it is terminated.",
            ),
            click.option("--max-polls", type=click.IntRange(0), default=0, help="Leave after this many polls."),
        )
    ):
        command = option(command)
    return command


@agent.command("start")
@click.option(
    "-t", "--type", "launcher", type=click.Choice(TYPES), default="local", show_default=True, help="Where runs go."
)
@_start_options
def start(launcher: str, **options: Any) -> None:
    """Start an agent. It runs until SIGTERM or Ctrl-C: then it takes no new runs and waits for those it has.

    A second signal makes it leave at once; runs go on, and the next agent of its name adopts them.
    """
    _start(launcher, **options)


@agent.group("local")
def local() -> None:
    """Agents that run flows as processes of this host."""


@local.command("start")
@_start_options
def start_local(**options: Any) -> None:
    """The same as `heliograph agent start --type local`."""
    _start("local", **options)


def _start(
    launcher: str,
    env: tuple[str, ...],
    health_port: int | None,
    agent_address: str,
    drain_timeout: float,
    grace: float,
    **options: Any,
) -> None:
    from heliograph_agents.agent import Agent
    from heliograph_agents.start import StartOptions, log_to_terminal, run_agent

    host, port = _health_address(health_port, agent_address)
    log_to_terminal()
    options["capacity"] = options["capacity"] or 0
    given = {name: value for name, value in options.items() if value is not None}
    run_agent(
        StartOptions(
            launcher=launcher,
            env=_variables(env),
            health_host=host,
            health_port=port,
            drain_seconds=drain_timeout,
            grace_seconds=grace,
            **given,
        ),
        on_ready=Agent.handle_signals,
    )


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is not KEY=VALUE", param_hint="--env")
        variables[name] = value
    return variables


def _health_address(port: int | None, address: str) -> tuple[str, int]:
    from heliograph.config import config

    address = address or config().agent.health_address
    if port is not None or not address:
        return "127.0.0.1", port or 0
    host, colon, number = address.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not number.isdecimal() or not 0 < int(number) < 65536:
        raise click.BadParameter(f"{address!r} is not http://HOST:PORT", param_hint="--agent-address")
    return host.strip("[]") or "127.0.0.1", int(number)
