"""`heliograph tokens`: issue, list and revoke tokens of users and services."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column

ROLES = ("admin", "author", "operator", "viewer", "agent")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.group(
    cls=LazyGroup,
    examples="""
    heliograph tokens create --user ann --role author
    heliograph tokens create --service berlin --role agent
    """,
)
def tokens() -> None:
    """Tokens of users and services."""


def parse_lifetime(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    """Reads `90d`, `12h`, `30m`, `2w`."""
    if value is None or value == "never":
        return None
    match = re.fullmatch(r"(\d{1,5})([mhdw])", value)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is no lifetime; write 30m, 12h, 90d, 2w or never")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@tokens.command(
    cls=Command,
    examples="""
    heliograph tokens create --user ann --role author --project covid --expires 90d
    heliograph tokens create --service berlin --role agent --quiet > agent.token
    """,
)
@click.option("--user", metavar="NAME", help="The person it stands for.")
@click.option("--service", metavar="NAME", help="The service it stands for, for example an agent.")
@click.option("--role", "roles", multiple=True, required=True, type=click.Choice(ROLES), help="May be repeated.")
@click.option("--project", "projects", multiple=True, metavar="PROJECT", help="Limits it to projects. [all]")
@click.option("--expires", metavar="TIME", default="never", callback=parse_lifetime, help="30m, 12h, 90d or never.")
@click.option("-q", "--quiet", is_flag=True, help="Print the token alone, for a file.")
@output_option("table", "json")
@pass_session
def create(
    session: Session,
    user: str | None,
    service: str | None,
    roles: tuple[str, ...],
    projects: tuple[str, ...],
    expires: timedelta | None,
    quiet: bool,
    output: str,
) -> None:
    """Issue a token. Its text is shown once."""
    if (user is None) == (service is None):
        raise click.UsageError("Say whom the token stands for: --user NAME or --service NAME.")
    from heliograph.api.v1 import options_pb2

    answer = session.client.create_token(
        f"users/{user}" if user is not None else f"services/{service}",
        [options_pb2.Role.Value(f"ROLE_{role.upper()}") for role in roles],
        projects=projects,
        lifetime=expires,
    )
    if quiet:
        click.echo(answer.secret)
    elif not emit_one(answer, output, name=answer.token.name):
        click.echo(answer.secret)
        click.echo(
            f"This is the token of {answer.token.principal} ({', '.join(roles)}). It is not shown again.\n"
            f"Its holder signs in with: heliograph auth login --address {session.client.address}",
            err=True,
        )


@tokens.command("ls", cls=Command, examples="heliograph tokens ls\nheliograph tokens ls -o json")
@output_option()
@pass_session
def list_tokens(session: Session, output: str) -> None:
    """List tokens, newest first, without their texts."""
    from datetime import UTC, datetime

    from heliograph.api.v1 import options_pb2, token_service_pb2
    from heliograph.cli.times import ago
    from heliograph.client.refs import to_datetime

    now = datetime.now(UTC)

    def status(token: token_service_pb2.Token) -> Cell:
        expires = to_datetime(token.expire_time)
        if token.HasField("revoke_time"):
            return Cell("revoked", "red")
        return Cell("expired", "yellow") if expires and expires <= now else Cell("valid", "green")

    emit_list(
        session.client.list_tokens(),
        output,
        [
            Column("token"), Column("holder", flexible=True), Column("roles"), Column("projects", flexible=True),
            Column("status"), Column("created"), Column("expires"), Column("last used"),
        ],
        lambda token: [
            token.name.partition("/")[2],
            token.principal,
            ", ".join(options_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in token.roles),
            ", ".join(name.partition("/")[2] for name in token.projects) or "all",
            status(token),
            ago(to_datetime(token.create_time), now),
            ago(to_datetime(token.expire_time), now) or "never",
            ago(to_datetime(token.last_used_time), now) or "never",
        ],
        name=lambda token: token.name,
        color=session.color,
    )  # fmt: skip


@tokens.command(cls=Command, examples="heliograph tokens revoke 5f1c0a\nheliograph tokens ls")
@click.argument("token")
@pass_session
def revoke(session: Session, token: str) -> None:
    """End a token at once. TOKEN is its id, as `tokens ls` shows it."""
    ended = session.client.revoke_token(token)
    click.echo(f"Token {ended.name.partition('/')[2]} of {ended.principal} is revoked.")
