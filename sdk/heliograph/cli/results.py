"""`heliograph results`: where the results of a run are, from the ledger on the user's side."""

from __future__ import annotations

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column


@click.group(cls=LazyGroup, examples="heliograph results ls brave-otter")
def results() -> None:
    """Where results are. Read from your own storage, with your own credentials."""


@results.command(
    "ls", cls=Command, examples="heliograph results ls brave-otter\nheliograph results ls brave-otter -o json"
)
@click.argument("run")
@click.option("--project", metavar="PROJECT", help="Only this project. [all]")
@output_option()
@pass_session
def list_results(session: Session, run: str, project: str | None, output: str) -> None:
    """List where the results of a run are, or why they were not kept."""
    from heliograph.cli.times import size
    from heliograph.client.ledger import open_run

    ledger = open_run(session.client, session.find_run(run, project))
    emit_list(
        [row.as_dict() for row in ledger.results()],
        output,
        [Column("task"), Column("where"), Column("size", right=True), Column("kind")],
        lambda row: [
            row["task"],
            row["location"] or Cell(f"not kept: {row['reason']}", "dim"),
            size(row["size_bytes"]) if row["size_bytes"] else "",
            row["kind"].rpartition(".")[2],
        ],
        name=lambda row: row["location"] or "",
        color=session.color,
        empty="The ledger of this run has no results.",
    )
