"""`heliograph version`: this client and the control plane."""

from __future__ import annotations

import platform

import click

import heliograph
from heliograph.cli.lazy import Command
from heliograph.cli.output import emit_one, output_option
from heliograph.cli.session import Session, pass_session


@click.command(cls=Command, examples="heliograph version\nheliograph version --client -o json")
@click.option("--client", "client_only", is_flag=True, help="Do not ask the control plane.")
@output_option("table", "json", "yaml")
@pass_session
def version(session: Session, client_only: bool, output: str) -> None:
    """Show the versions of this client and of the control plane."""
    from heliograph.cli.output import to_plain
    from heliograph.exceptions import HeliographError

    shown: dict[str, object] = {
        "client": {
            "version": heliograph.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
    }
    told = ""
    if not client_only:
        try:
            server = session.client.get_server_info()
            shown["server"] = to_plain(server)
            told = f"control plane {server.version} at {session.client.address} ({server.store})"
        except HeliographError as error:
            # Not a failure of this command: which client is here is known all the same.
            shown["server"] = None
            told = f"control plane not asked: {error}"
    if not emit_one(shown, output, name=heliograph.__version__):
        click.echo(f"heliograph {heliograph.__version__}, Python {platform.python_version()}")
        if told:
            click.echo(told)
