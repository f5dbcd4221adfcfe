"""`heliograph runs`: list, inspect, watch, explain and cancel flow runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, emit_one, output_option, print_table
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column, render_pairs

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2
    from heliograph.engine.codes import StateCode

LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}

project_option = click.option("--project", metavar="PROJECT", help="Only this project. [all]")


@click.group(
    cls=LazyGroup,
    examples="""
    heliograph runs ls --state Failed
    heliograph runs logs brave-otter --follow
    heliograph runs why brave-otter
    """,
)
def runs() -> None:
    """Flow runs. RUN is an id, the start of one (6 characters or more), or a run's name."""


@runs.command(
    "ls",
    cls=Command,
    examples="""
    heliograph runs ls --flow covid/covid-cases --limit 5
    heliograph runs ls --upcoming
    heliograph runs ls --state Failed --state Crashed -o name
    """,
)
@project_option
@click.option("--flow", metavar="FLOW", help="Only runs of this flow.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only runs in this state. May be repeated.")
@click.option("--upcoming", is_flag=True, help="Only runs that wait or are scheduled, the next one first.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="Most runs to list.")
@output_option()
@pass_session
def list_runs(
    session: Session,
    project: str | None,
    flow: str | None,
    states: tuple[str, ...],
    upcoming: bool,
    limit: int,
    output: str,
) -> None:
    """List runs: those that go on first, then the newest. Of the scheduled future, `--upcoming` shows more.

    Without --state and --upcoming, a table shows the next 3 scheduled runs at most, and formats for scripts all that
    --limit has room for.
    """
    from heliograph.cli.overview import overview, soonest_first
    from heliograph.cli.report import run_id, run_length
    from heliograph.cli.states import state_cell
    from heliograph.cli.times import ago
    from heliograph.cli.why import lateness
    from heliograph.client.refs import to_datetime
    from heliograph.engine.codes import StateCode

    if upcoming and states:
        raise click.UsageError("--upcoming and --state exclude each other.")
    wanted = [StateCode.SCHEDULED] if upcoming else _states(states)
    flow_name = session.find_flow(flow, project).partition("/versions/")[0] if flow else ""
    if flow_name:
        project = flow_name.split("/")[1]

    def fetch(of: Sequence[StateCode], most: int | None) -> list[flow_run_service_pb2.FlowRun]:
        return session.client.list_flow_runs(project, flow=flow_name, states=of, limit=most)

    more = ""
    if upcoming:
        # The API lists by creation: the soonest are only known when all are there.
        found = soonest_first(fetch(wanted, None))[:limit]
    elif wanted or output != "table":
        found = fetch(wanted, limit)
    else:
        found, more = overview(fetch, limit)

    def state(run: flow_run_service_pb2.FlowRun) -> Cell:
        cell = state_cell(run.state)
        notes = [note for note in ("lost" if run.lost else "", lateness(run)) if note]
        return Cell(f"{cell.text} ({', '.join(notes)})", "red") if notes else cell

    emit_list(
        found,
        output,
        [
            Column("run", flexible=True), Column("flow", flexible=True), Column("state"), Column("start"),
            Column("duration", right=True), Column("agent", flexible=True), Column("id"),
        ],
        lambda run: [
            run.run_name,
            "/".join(run.flow_version.split("/")[1:4:2]),
            state(run),
            ago(to_datetime(run.start_time) or to_datetime(run.scheduled_time)),
            run_length(run),
            run.agent.removeprefix("agents/"),
            run_id(run),
        ],
        name=run_id,
        color=session.color,
        empty="There is no such run. Create one with: heliograph run FLOW",
    )  # fmt: skip
    if more:
        print(more, file=sys.stderr)


@runs.command(
    cls=Command, examples="heliograph runs inspect brave-otter\nheliograph runs inspect 0199c0de-1a2b -o json"
)
@click.argument("run")
@project_option
@output_option()
@pass_session
def inspect(session: Session, run: str, project: str | None, output: str) -> None:
    """Show one run: its facts, its states, its tasks, its results."""
    from heliograph.cli.outcome import print_outcome
    from heliograph.cli.report import run_id
    from heliograph.cli.states import state_name
    from heliograph.cli.text import clean, use_color
    from heliograph.cli.times import clock, local
    from heliograph.cli.why import lateness
    from heliograph.client.refs import to_datetime

    found = session.find_run(run, project)
    if emit_one(found, output, name=found.name):
        return
    flow = found.flow_version.split("/")
    facts: list[tuple[str, Cell | str]] = [
        ("Run", found.run_name),
        ("Id", run_id(found)),
        ("Flow", f"{flow[1]}/{flow[3]}, version {flow[5]}"),
        ("Parameters", found.parameters_json if found.parameters_json not in ("", "{}") else ""),
        ("Labels", ", ".join(found.labels)),
        ("Created", f"{local(to_datetime(found.create_time))} by {found.created_by}"),
        ("Scheduled", local(to_datetime(found.scheduled_time))),
        ("Late", lateness(found)),
        ("Agent", found.agent.removeprefix("agents/")),
        ("Attempt", str(found.attempt) if found.attempt > 1 else ""),
        ("Missing", f"{found.missing_events} events" if found.missing_events else ""),
    ]
    for line in render_pairs(facts, color=use_color(session.color, sys.stdout)):
        click.echo(line)
    click.echo("\nStates")
    for record in session.client.list_flow_run_states(found.name):
        time = to_datetime(record.time)
        by = record.set_by.removeprefix("agents/")
        click.echo(f"  {clock(time) if time else '':12}  {state_name(record.state):11}  set by {clean(by)}")
    print_outcome(session, found)


@runs.command(cls=Command, examples="heliograph runs tasks brave-otter\nheliograph runs tasks brave-otter -o json")
@click.argument("run")
@project_option
@output_option()
@pass_session
def tasks(session: Session, run: str, project: str | None, output: str) -> None:
    """List the task runs of a run."""
    from heliograph.cli.report import TASK_COLUMNS, task_rows
    from heliograph.client.refs import task_labels

    found = session.find_run(run, project)
    items = session.client.list_task_runs(found.name)
    if output == "table":
        graph = session.client.get_flow_version(found.flow_version).graph
        print_table(TASK_COLUMNS, task_rows(found, items, task_labels(graph), graph), session.color)
    else:
        emit_list(items, output, [], lambda _: [], name=lambda task: task.name)


@runs.command(
    cls=Command,
    examples="""
    heliograph runs logs brave-otter --follow
    heliograph runs logs brave-otter --level WARNING -n 50
    """,
)
@click.argument("run")
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run is finished.")
@click.option("--level", type=click.Choice(list(LEVELS), case_sensitive=False), help="Only lines at least so grave.")
@click.option("-n", "--tail", "last", type=click.IntRange(1), help="Only the last N lines.")
@output_option("table", "json", "jsonl")
@pass_session
def logs(
    session: Session, run: str, project: str | None, follow: bool, level: str | None, last: int | None, output: str
) -> None:
    """Print the log lines of a run that the control plane has."""
    from heliograph.cli.loglines import print_entries
    from heliograph.client.refs import task_labels

    found = session.find_run(run, project)
    least = LEVELS[level.upper()] if level else 0
    if follow and last:
        raise click.UsageError("--follow and --tail exclude each other.")
    if follow and output == "json":
        raise click.UsageError("A stream is no JSON document: use -o jsonl.")
    labels = task_labels(session.client.get_flow_version(found.flow_version).graph)
    if follow:
        print_entries(session.client.tail_logs(found.name, min_level=least), labels, output, session.color)
        return
    entries = session.client.list_logs(found.name, min_level=least)
    print_entries(entries[-last:] if last else entries, labels, output, session.color)


@runs.command(cls=Command, examples="heliograph runs watch brave-otter")
@click.argument("run")
@project_option
@click.option("--no-logs", is_flag=True, help="States only.")
@output_option("table", "json", "jsonl")
@pass_session
def watch(session: Session, run: str, project: str | None, no_logs: bool, output: str) -> int:
    """Follow a run to its end; exit with 5 when that is not Success."""
    from heliograph.cli.run import watch_run

    return watch_run(session, session.find_run(run, project), output, logs=not no_logs)


@runs.command(cls=Command, examples="heliograph runs why brave-otter\nheliograph runs why brave-otter -o json")
@click.argument("run")
@project_option
@output_option("table", "json", "yaml")
@pass_session
def why(session: Session, run: str, project: str | None, output: str) -> None:
    """Say why a run has not started, or how it ended."""
    from heliograph.cli.text import clean
    from heliograph.cli.why import explanation_lines

    found = session.find_run(run, project)
    answer = session.client.explain_flow_run(found.name)
    if not emit_one(answer, output, name=found.name):
        version = session.client.get_flow_version(found.flow_version)
        for line in explanation_lines(answer, version.graph, version.launch.launcher):
            click.echo(clean(line))


@runs.command(
    cls=Command,
    examples="""
    heliograph runs cancel brave-otter
    heliograph runs ls --state Scheduled -o name | heliograph runs cancel -
    """,
)
@click.argument("run", nargs=-1, required=True)
@project_option
@pass_session
def cancel(session: Session, run: tuple[str, ...], project: str | None) -> int:
    """Ask for the end of runs. `-` reads ids from standard input, one a line."""
    from heliograph.cli.boundary import show_error
    from heliograph.exceptions import HeliographError

    code = 0
    for text in _words(run):
        try:
            found = session.find_run(text, project)
            done = session.client.cancel_flow_run(found.name)
        except HeliographError as error:
            show_error(error)
            code = error.exit_code
            continue
        click.echo(f"{found.run_name}: {'Cancelled.' if done else 'Cancelling; its agent is stopping it.'}")
    return code


@runs.command("confirm-dead", cls=Command, examples="heliograph runs confirm-dead brave-otter --yes")
@click.argument("run")
@project_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def confirm_dead(session: Session, run: str, project: str | None, yes: bool) -> None:
    """Declare that the process of a lost run is certainly dead, which frees its slot. Who said so is recorded."""
    found = session.find_run(run, project)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask on: use --yes.")
        click.confirm(f"Is the process of {found.run_name} certainly dead?", abort=True, err=True)
    session.client.confirm_flow_run_dead(found.name)
    click.echo(f"{found.run_name} is declared dead.")


def _words(words: tuple[str, ...]) -> Iterator[str]:
    for word in words:
        if word == "-":
            yield from (line.strip() for line in sys.stdin if line.strip())
        else:
            yield word


def _states(words: tuple[str, ...]) -> list[StateCode]:
    from heliograph.cli.states import parse_state

    try:
        return [parse_state(word) for word in words]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
