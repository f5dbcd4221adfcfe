"""`heliograph errors`: texts of failures, which stay on the user's side."""

from __future__ import annotations

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_one, output_option
from heliograph.cli.session import Session, pass_session


@click.group(cls=LazyGroup, examples="heliograph errors show 0199c0de-1a2b-7c3d-8e4f-5a6b7c8d9e0f.4f1d22ab")
def errors() -> None:
    """Texts of failures. They are read from your own storage, with your own credentials."""


@errors.command(
    cls=Command,
    examples="heliograph errors show 0199c0de-1a2b-7c3d-8e4f-5a6b7c8d9e0f.4f1d22ab\nheliograph runs why brave-otter",
)
@click.argument("error_id", metavar="ID")
@output_option("table", "json", "yaml")
@pass_session
def show(session: Session, error_id: str, output: str) -> None:
    """Print the text of one failure. `runs why RUN` tells the ids."""
    from heliograph.cli.text import clean
    from heliograph.client.ledger import find_error

    error = find_error(session.client, error_id)
    if not emit_one(error.as_dict(), output, name=error.error_id):
        click.echo(clean(error.text, keep_lines=True).rstrip("\n"))
