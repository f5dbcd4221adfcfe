"""`heliograph projects`: create and list."""

from __future__ import annotations

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Column


@click.group(cls=LazyGroup, examples="heliograph projects create covid\nheliograph projects ls")
def projects() -> None:
    """Namespaces of flows."""


@projects.command(cls=Command, examples='heliograph projects create covid --description "Case numbers"')
@click.argument("name")
@click.option("--description", default="", help="What it is for. Kept by the control plane.")
@output_option()
@pass_session
def create(session: Session, name: str, description: str, output: str) -> None:
    """Create a project. One that exists with the same description is no error."""
    import shlex
    from datetime import timedelta

    began = session.client.get_server_info().time.ToDatetime()
    project = session.client.create_project_message(name, description)
    new = project.create_time.ToDatetime() >= began - timedelta(milliseconds=1)
    if not emit_one(project, output, name=project.name):
        is_there = "is created" if new else "was there already"
        click.echo(
            f"Project {name} {is_there}. Register flows with: heliograph register FILE --project {shlex.quote(name)}"
        )


@projects.command("ls", cls=Command, examples="heliograph projects ls\nheliograph projects ls -o json")
@output_option()
@pass_session
def list_projects(session: Session, output: str) -> None:
    """List projects."""
    from heliograph.cli.times import local
    from heliograph.client.refs import to_datetime

    emit_list(
        session.client.list_projects(),
        output,
        [Column("project"), Column("flows", right=True), Column("created"), Column("description", flexible=True)],
        lambda p: [
            p.name.partition("/")[2], str(p.flow_count), local(to_datetime(p.create_time)), p.description,
        ],
        name=lambda p: p.name,
        color=session.color,
        empty="There is no project. Make one with: heliograph projects create NAME",
    )  # fmt: skip
