"""`heliograph run`: creates a run and, if asked, follows it to its end."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heliograph.cli.lazy import Command
from heliograph.cli.output import emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.exceptions import MissingParameterError, NotFoundError

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2
    from heliograph.client.client import Client

NOT_SUCCESSFUL = 5
"""Exit code when the awaited run ended in another state than Success."""


@click.command(
    cls=Command,
    examples="""
    heliograph run covid/covid-cases --param country=France --watch
    heliograph run covid-cases --param days=7 --param 'countries=["DE","FR"]'
    heliograph run covid/covid-cases --at 2026-09-07T13:00 -o json
    """,
)
@click.argument("flow")
@click.option("--project", metavar="PROJECT", help="Project of FLOW, when FLOW is a name alone.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="JSON, or a bare word as text.")
@click.option(
    "--param-file", type=click.Path(dir_okay=False, path_type=Path), help="A file with a JSON object. `-` is stdin."
)
@click.option("--run-name", default="", help="Name of the run. [two words]")
@click.option("-l", "--label", "labels", multiple=True, help="Replaces the flow's labels. May be repeated.")
@click.option("--at", metavar="TIME", help="When to start: an ISO time, local when it names no zone. [now]")
@click.option("--idempotency-key", metavar="KEY", help="The same key gives the same run.")
@click.option("-w", "--watch", is_flag=True, help="Follow it to its end; exit with 5 when that is not Success.")
@click.option("--no-logs", is_flag=True, help="With --watch: states only.")
@output_option("table", "json", "jsonl", "name")
@pass_session
def run(
    session: Session,
    flow: str,
    project: str | None,
    params: tuple[str, ...],
    param_file: Path | None,
    run_name: str,
    labels: tuple[str, ...],
    at: str | None,
    idempotency_key: str | None,
    watch: bool,
    no_logs: bool,
    output: str,
) -> int:
    """Create a run of FLOW: a name, PROJECT/FLOW, or what `register` printed."""
    values = read_parameters(params, param_file)
    client = session.client
    start = read_time(at) if at else None
    name = session.find_flow(flow, project)
    try:
        run_id = client.create_flow_run(
            name,
            values,
            scheduled_start_time=start,
            run_name=run_name or None,
            labels=labels or None,
            idempotency_key=idempotency_key,
        )
    except NotFoundError as error:
        raise session.flow_not_found(name, error) from None
    except MissingParameterError as error:
        raise MissingParameterError(str(error), hint=missing_hint(client, name, values)) from None
    created = client.get_flow_run(run_id)
    if watch:
        return watch_run(session, created, output, logs=not no_logs)
    if not emit_one(created, output, name=created.name):
        click.echo(f"Created run {created.run_name} ({run_id}).")
        click.echo(f"Follow it with: heliograph runs watch {run_id}")
    return 0


def watch_run(session: Session, created: flow_run_service_pb2.FlowRun, output: str, *, logs: bool = True) -> int:
    """Follows a run to its end and tells what it did. Returns the command's exit code."""
    from heliograph.cli.live import Follower
    from heliograph.cli.outcome import print_outcome
    from heliograph.engine.codes import StateCode

    if output == "table":
        print(f"Run {created.run_name} ({created.name.rpartition('/')[2]})", flush=True)
    follower = Follower(session, created, output=output, logs=logs)
    try:
        ended = follower.follow()
    except KeyboardInterrupt:
        return _interrupted(session, created)
    if output == "table":
        print_outcome(session, ended)
    else:
        emit_one(ended, output, name=ended.name)
    return 0 if StateCode(ended.state).is_successful else NOT_SUCCESSFUL


def _interrupted(session: Session, run: flow_run_service_pb2.FlowRun) -> int:
    """After Ctrl-C: asks whether to cancel where there is somebody to ask, and says how to otherwise."""
    from heliograph.cli.boundary import INTERRUPTED
    from heliograph.exceptions import HeliographError

    run_id = run.name.rpartition("/")[2]
    cancel = False
    if sys.stdin.isatty():
        try:
            cancel = click.confirm(f"\nThe run {run.run_name} goes on. Cancel it?", default=False, err=True)
        except click.Abort:
            print(file=sys.stderr)
    if cancel:
        try:
            done = session.client.cancel_flow_run(run.name)
            print("Cancelled." if done else "Its agent is stopping it.", file=sys.stderr)
        except HeliographError as error:
            print(f"Not cancelled: {error}", file=sys.stderr)
    else:
        print(f"The run goes on. Cancel it with: heliograph runs cancel {run_id}", file=sys.stderr)
    return INTERRUPTED


def missing_hint(client: Client, flow: str, values: Mapping[str, Any]) -> str:
    """Returns what to add to the command line for the parameters that have no value."""
    parameters = client.get_flow_version(flow).graph.parameters
    missing = [p.name for p in parameters if p.required and p.name not in values]
    return f"add {' '.join(f'--param {shlex.quote(name)}=…' for name in missing)}" if missing else ""


def read_parameters(params: tuple[str, ...], param_file: Path | None) -> dict[str, Any]:
    """Reads `NAME=VALUE` words over a file's JSON object.

    Raises:
        click.BadParameter: A word has no `=`, or a file is no JSON object.
    """
    values: dict[str, Any] = {}
    if param_file is not None:
        try:
            text = sys.stdin.read() if str(param_file) == "-" else param_file.read_text("utf-8")
            loaded = json.loads(text)
        except OSError as error:
            raise click.BadParameter(f"cannot read {param_file}: {error.strerror}") from None
        except ValueError as error:
            raise click.BadParameter(f"{param_file} is no JSON: {error}") from None
        if not isinstance(loaded, dict):
            raise click.BadParameter(f"{param_file} holds no JSON object")
        values.update(loaded)
    for word in params:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE")
        values[name] = read_value(text)
    return values


def read_value(text: str) -> Any:
    """Returns the JSON value of a word, or the word itself when it is no JSON."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text


def read_time(text: str) -> datetime:
    """Reads an ISO time; one without a zone is local.

    Raises:
        click.BadParameter: It is none.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time; write 2026-09-07T13:00 or 2026-09-07T13:00+02:00") from None
