"""`heliograph auth`: sign in to a control plane, sign out, see who one is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import render_pairs


@click.group(cls=LazyGroup, examples="heliograph auth login\nheliograph auth whoami")
def auth() -> None:
    """Sign in to a control plane. A token is kept per address, in a file that only you can read."""


@auth.command(
    cls=Command,
    examples="""
    heliograph auth login
    heliograph auth login --address heliograph.example.org:4480 --token-file ann.token
    vault read -field=token secret/heliograph | heliograph auth login --token-stdin
    """,
)
@click.option("--address", metavar="HOST:PORT", help="Control plane to sign in to. [setting client.address]")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="Read the token from a file.")
@pass_session
def login(session: Session, address: str | None, token_stdin: bool, token_file: Path | None) -> None:
    """Check a token and keep it."""
    from heliograph.client.client import Client
    from heliograph.client.credentials import check_token, save_token
    from heliograph.exceptions import ConfigurationError

    if token_stdin and token_file:
        raise click.UsageError("Give one of --token-stdin and --token-file.")
    if token_stdin:
        text = sys.stdin.readline()
    elif token_file:
        try:
            text = token_file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text file"
            raise ConfigurationError(f"cannot read {token_file}: {reason}") from None
    elif sys.stdin.isatty():
        text = click.prompt("Token", hide_input=True, err=True)
    else:
        raise click.UsageError("There is no terminal to ask on: use --token-stdin or --token-file.")
    token = check_token(text, "the input")
    with Client(address or session.address, token) as client:
        who = client.whoami()
        path = save_token(client.address, token)
        click.echo(f"Signed in to {client.address} as {who.principal}; the token is kept in {path}.")


@auth.command(cls=Command, examples="heliograph auth logout")
@click.option("--address", metavar="HOST:PORT", help="Control plane to sign out from. [setting client.address]")
@pass_session
def logout(session: Session, address: str | None) -> None:
    """Forget the kept token. It stays valid until it expires or is revoked."""
    from heliograph.client.credentials import forget_token
    from heliograph.config import config

    where = address or session.address or config().client.address
    path = forget_token(where)
    click.echo(f"Removed {path}." if path else f"There is no kept token for {where}.")


@auth.command(cls=Command, examples="heliograph auth whoami\nheliograph auth whoami -o json")
@output_option("table", "json", "yaml", "name")
@pass_session
def whoami(session: Session, output: str) -> None:
    """Show whom the token stands for."""
    from heliograph.api.v1 import options_pb2
    from heliograph.cli.times import local
    from heliograph.client.credentials import find_token
    from heliograph.client.refs import to_datetime

    who = session.client.whoami()
    if emit_one(who, output, name=who.principal):
        return
    found = find_token(session.client.address)
    for line in render_pairs(
        [
            ("Signed in as", who.principal),
            ("Control plane", session.client.address),
            ("Roles", ", ".join(options_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in who.roles)),
            ("Projects", ", ".join(name.partition("/")[2] for name in who.projects) or "all"),
            ("Token expires", local(to_datetime(who.expire_time)) or "never"),
            ("Token from", found.source if found else ""),
        ]
    ):
        click.echo(line)
