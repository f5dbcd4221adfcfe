"""`heliograph agents`: list agents here; starting them belongs to the agents' part of the distribution."""

from __future__ import annotations

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column


class AgentGroup(LazyGroup):
    """Our commands, and those of `heliograph_agents.cli:agent`, as one group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of both."""
        theirs = self._theirs()
        names = theirs.list_commands(ctx) if theirs else []
        return [*names, *(name for name in super().list_commands(ctx) if name not in names)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Our command, or theirs."""
        theirs = self._theirs()
        return super().get_command(ctx, cmd_name) or (theirs.get_command(ctx, cmd_name) if theirs else None)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists both."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, cmd.get_short_help_str(limit=90)) for name, cmd in commands if cmd and not cmd.hidden]
            )

    def _theirs(self) -> click.Group | None:
        from importlib import import_module

        try:
            group = import_module("heliograph_agents.cli").agent
        except ModuleNotFoundError:
            return None
        assert isinstance(group, click.Group)
        return group


@click.group(cls=AgentGroup, examples="heliograph agent start --type local --label berlin\nheliograph agents ls")
def agents() -> None:
    """Start agents, and see those that are there."""


@agents.command("ls", cls=Command, examples="heliograph agents ls\nheliograph agents ls -o json")
@output_option()
@pass_session
def list_agents(session: Session, output: str) -> None:
    """List agents: those that live, and those last seen."""
    from heliograph.cli.times import ago
    from heliograph.client.refs import to_datetime

    emit_list(
        session.client.list_agents(),
        output,
        [
            Column("agent", flexible=True), Column("type"), Column("status"), Column("runs", right=True),
            Column("labels", flexible=True), Column("host", flexible=True), Column("version"), Column("last seen"),
        ],
        lambda agent: [
            agent.name.partition("/")[2],
            agent.launcher,
            Cell("draining", "yellow") if agent.online and agent.draining
            else Cell("online", "green") if agent.online
            else Cell("offline", "red"),
            f"{agent.running}/{agent.capacity}",
            ", ".join(agent.labels),
            agent.host,
            agent.version,
            ago(to_datetime(agent.last_seen_time)),
        ],
        name=lambda agent: agent.name,
        color=session.color,
        empty="No agent was seen yet. Start one with: heliograph agent start --type local",
    )  # fmt: skip
