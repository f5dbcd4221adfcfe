"""`heliograph register`: finds flows in Python files and registers them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heliograph.cli.boundary import show_error
from heliograph.cli.lazy import Command
from heliograph.cli.output import output_option, print_json, to_plain
from heliograph.cli.session import Session, pass_session
from heliograph.exceptions import (
    HeliographError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from heliograph.client.registration import Registration
    from heliograph.core.flow import Flow

CALL_ENDS = (NotFoundError, PermissionDeniedError, UnauthenticatedError, UnavailableError)
"""Errors that no other flow of the files would escape: they are told once, and end the command with their code."""


@click.command(
    cls=Command,
    examples="""
    heliograph register flow.py --project covid
    heliograph register flows/ --project covid --label berlin
    heliograph register flow.py --project covid --name covid-cases --pickle
    """,
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE...")
@click.option("--project", required=True, metavar="PROJECT", help="A project that exists.")
@click.option("--name", "names", multiple=True, metavar="FLOW", help="Only flows of this name. May be repeated.")
@click.option("-l", "--label", "labels", multiple=True, help="A label that agents must offer. May be repeated.")
@click.option("--pickle", is_flag=True, help="Load a pickle of the flow on the agent, not its file.")
@click.option("--no-schedule", is_flag=True, help="Leave a new schedule paused.")
@output_option("table", "json", "name")
@pass_session
def register(
    session: Session,
    paths: tuple[Path, ...],
    project: str,
    names: tuple[str, ...],
    labels: tuple[str, ...],
    pickle: bool,
    no_schedule: bool,
    output: str,
) -> int:
    """Register the flows of Python FILEs, or of all files of a folder.

    The code goes to the flow's own storage. The control plane learns its graph, never the code or a value.
    """
    from heliograph.client.registration import register as register_one

    registered: list[Registration] = []
    codes: list[int] = []
    found_names: set[str] = set()
    for path in files_of(paths):
        try:
            flows = load_flows(path)
        except HeliographError as error:
            show_error(error)
            codes.append(error.exit_code)
            continue
        for flow in flows:
            found_names.add(flow.name)
            if names and flow.name not in names:
                continue
            try:
                done = register_one(
                    flow,
                    project,
                    labels=labels,
                    set_schedule_active=not no_schedule,
                    pickle=True if pickle else None,
                    client=session.client,
                )
            except CALL_ENDS:
                raise  # the same for every flow
            except HeliographError as error:
                show_error(error)
                codes.append(error.exit_code)
                continue
            registered.append(done)
            if output == "table":
                click.echo("\n".join(done.summary()))
            elif output == "name":
                click.echo(done.flow_id)
    if output == "json":
        print_json(
            [{"flow_version": r.flow_id, "created": r.created, "request": to_plain(r.request)} for r in registered]
        )
    missing = [name for name in names if name not in found_names]
    if missing:
        there = f" There are {', '.join(sorted(found_names))}." if found_names else ""
        print(f"Error: there is no flow named {', '.join(missing)} in these files.{there}", file=sys.stderr)
    if codes or missing or not registered:
        if not (codes or missing):
            print("Error: there is no flow in these files.", file=sys.stderr)
        return codes[0] if len(set(codes)) == 1 and not missing else 1
    if output == "table":
        name = shlex.quote(f"{project}/{registered[-1].request.flow_id}")
        click.echo(f"\nRun it with: heliograph run {name} --watch")
    return 0


def files_of(paths: tuple[Path, ...]) -> list[Path]:
    """Returns the Python files of folders, and files as they are."""
    found: list[Path] = []
    for path in paths:
        found.extend(sorted(path.glob("*.py")) if path.is_dir() else [path])
    return found


def load_flows(path: Path) -> list[Flow]:
    """Executes a Python file and returns the flows that it defines, in order of definition.

    Raises:
        LoadError: The file cannot be read, or raises.
    """
    from heliograph.storage.load import load_flows as load

    return list(load(path))
