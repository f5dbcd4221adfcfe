"""The commands `heliograph agent start` and, as Prefect 1 spelled it, `heliograph agent local start`."""

from __future__ import annotations

from typing import Any

import click

from heliograph_agents.launchers.kinds import NAMES, kind

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
                "-p",
                "--import-path",
                "import_paths",
                multiple=True,
                help="A folder of this host, put on the sys.path of local runs. May be repeated.",
            ),
            click.option(
                "-f", "--show-flow-logs", is_flag=True, help="Repeat the flows' output here (not that of ECS tasks)."
            ),
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
                "--policy",
                type=click.Path(exists=True, dir_okay=False),
                help="What may run here. [default: policy.toml of the home, where there is one]",
            ),
            click.option(
                "--work-dir",
                type=click.Path(exists=True, file_okay=False),
                help="Folder of this host in which local runs start. [default: this one]",
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
            click.option(
                "--start-timeout",
                type=click.FloatRange(1),
                default=900.0,
                show_default=True,
                help="Seconds that a run's infrastructure may take to start, where its run config says nothing.",
            ),
            click.option("--max-polls", type=click.IntRange(0), default=0, help="Leave after this many polls."),
        )
    ):
        command = option(command)
    return command


class _StartCommand(click.Command):
    """Has the options of one type of agent besides those of all: of the type that its arguments name.

    Args:
        fixed: The type, where the command itself is for one.
    """

    def __init__(self, *args: Any, fixed: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fixed = fixed

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        # Which options there are depends on an option, so it is looked for before anything is parsed.
        chosen = self.fixed or _type_in(args)
        shared = self.params
        if chosen in NAMES:  # an unknown one is refused by --type itself
            self.params = [*shared, *kind(chosen).OPTIONS]
        try:
            return super().make_context(info_name, args, parent, **extra)
        finally:
            self.params = shared


def _type_in(args: list[str]) -> str:
    chosen = "local"
    for at, word in enumerate(args):
        if word == "--":
            break
        if word in ("-t", "--type"):
            chosen = args[at + 1] if at + 1 < len(args) else chosen
        elif word.startswith("--type="):
            chosen = word.partition("=")[2]
        elif word.startswith("-t") and not word.startswith("--"):
            chosen = word[2:]
    return chosen


@agent.command("start", cls=_StartCommand)
@click.option(
    "-t",
    "--type",
    "launcher",
    type=click.Choice(NAMES),
    default="local",
    show_default=True,
    help="Where runs go. Name it beside --help to see its own options.",
)
@_start_options
def start(launcher: str, **options: Any) -> None:
    """Start an agent. It runs until SIGTERM or Ctrl-C: then it takes no new runs and waits for those it has.

    A second signal makes it leave at once; runs go on, and the next agent of its name adopts them. It ends with 4 when
    the control plane refuses its token, with 70 when it is stuck: what starts it again need not know why.
    """
    _start(launcher, **options)


@agent.command("healthcheck")
@click.option("--health-port", type=click.IntRange(1, 65535), help="The agent's port on this machine's loopback.")
@click.option("--agent-address", default="", metavar="http://HOST:PORT", help="The same, with the address.")
@click.option("--ready", is_flag=True, help="Ask whether it takes runs, not only whether it is well.")
@click.option("--timeout", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds to wait.")
def healthcheck(health_port: int | None, agent_address: str, ready: bool, timeout: float) -> None:
    """Ask a running agent whether it is well: for probes of containers and service managers, without curl.

    Give the address that the agent was started with; by default it is that of the setting agent.health_address. It
    prints what the agent says, and ends with 0 when it is well, with 1 when it is not or does not answer.
    """
    from heliograph_agents.health import ask

    host, port = _health_address(health_port, agent_address)
    if not port:
        raise click.UsageError("give --health-port or --agent-address, as the agent has it")
    good, words = ask(host, port, "/readyz" if ready else "/healthz", timeout)
    click.echo(words, err=not good)
    raise SystemExit(0 if good else 1)


def _add_group(name: str) -> click.Group:
    """Adds `agent NAME start`, as Prefect 1 spelled it. Returns the group."""

    @agent.group(name, help=f"`start` is the same as `heliograph agent start --type {name}`.")
    def group() -> None:
        """Has one command."""

    @group.command("start", cls=_StartCommand, fixed=name, help=f"The same as `heliograph agent start --type {name}`.")
    @_start_options
    def start_kind(**options: Any) -> None:
        _start(name, **options)

    return group


_groups = {name: _add_group(name) for name in NAMES}


@_groups["kubernetes"].command("rbac")
@click.option("--namespace", "namespaces", multiple=True, required=True, help="Namespace of Jobs. May be repeated.")
@click.option("--service-account", default="heliograph-agent", show_default=True, help="The agent's service account.")
@click.option("--agent-namespace", default="", help="Where the agent runs. [default: the first namespace of Jobs]")
@click.option("--least", is_flag=True, help="Leave out what it only tells more with: events and logs of pods.")
def rbac(namespaces: tuple[str, ...], service_account: str, agent_namespace: str, least: bool) -> None:
    """Print the rights that a Kubernetes agent needs, for kubectl apply -f -.

    A Role in each namespace, none in the whole cluster. Secrets are made and removed, and none can be read.
    """
    from heliograph_agents.launchers.kubernetes.rbac import as_yaml, manifests

    found = manifests(namespaces, service_account, agent_namespace or namespaces[0], least=least)
    click.echo(as_yaml(found), nl=False)


def _start(
    launcher: str,
    env: tuple[str, ...],
    health_port: int | None,
    agent_address: str,
    drain_timeout: float,
    grace: float,
    start_timeout: float,
    **options: Any,
) -> None:
    from heliograph_agents.agent import Agent
    from heliograph_agents.start import StartOptions, log_to_terminal, run_agent

    host, port = _health_address(health_port, agent_address)
    log_to_terminal()
    options["capacity"] = options["capacity"] or 0
    own = {str(option.name): options.pop(str(option.name)) for option in kind(launcher).OPTIONS}
    given = {name: value for name, value in options.items() if value is not None}
    run_agent(
        StartOptions(
            launcher=launcher,
            env=_variables(env),
            health_host=host,
            health_port=port,
            drain_seconds=drain_timeout,
            grace_seconds=grace,
            start_timeout_seconds=start_timeout,
            options=own,
            **given,
        ),
        on_ready=Agent.handle_signals,
        watched=True,
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
