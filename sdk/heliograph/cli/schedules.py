"""`heliograph schedules`: list, pause, resume and preview schedules of flows."""

from __future__ import annotations

import shlex

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column

project_option = click.option("--project", metavar="PROJECT", help="Project of FLOW, when FLOW is a name alone.")


@click.group(cls=LazyGroup, examples="heliograph schedules ls\nheliograph schedules resume covid/covid-cases")
def schedules() -> None:
    """Schedules of flows. A schedule is registered with its flow; here it is paused and resumed."""


@schedules.command(
    "ls", cls=Command, examples="heliograph schedules ls --project covid\nheliograph schedules ls -o json"
)
@click.option("--project", metavar="PROJECT", help="Only this project. [all]")
@output_option()
@pass_session
def list_schedules(session: Session, project: str | None, output: str) -> None:
    """List schedules and their next times."""
    from heliograph.cli.flows import describe_schedule
    from heliograph.cli.times import ago
    from heliograph.client.refs import to_datetime

    emit_list(
        session.client.list_schedules(project),
        output,
        [Column("flow", flexible=True), Column("schedule", flexible=True), Column("state"), Column("next run")],
        lambda schedule: [
            "/".join(schedule.name.split("/")[1:4:2]),
            describe_schedule(schedule.spec),
            Cell("paused", "yellow") if schedule.paused else Cell("active", "green"),
            "" if schedule.paused else ago(to_datetime(schedule.next_time)),
        ],
        name=lambda schedule: schedule.name,
        color=session.color,
        empty='There is no schedule. Give a flow one: Flow("name", schedule=CronSchedule("0 6 * * *"))',
    )


@schedules.command(cls=Command, examples="heliograph schedules pause covid/covid-cases")
@click.argument("flow")
@project_option
@output_option("table", "json", "yaml", "name")
@pass_session
def pause(session: Session, flow: str, project: str | None, output: str) -> None:
    """Stop creating runs of FLOW by its schedule. Scheduled runs that have not started are removed."""
    schedule = session.client.pause_schedule(session.find_flow(flow, project))
    if not emit_one(schedule, output, name=schedule.name):
        name = "/".join(schedule.name.split("/")[1:4:2])
        click.echo(f"The schedule of {name} is paused. Go on with: heliograph schedules resume {shlex.quote(name)}")


@schedules.command(cls=Command, examples="heliograph schedules resume covid/covid-cases")
@click.argument("flow")
@project_option
@output_option("table", "json", "yaml", "name")
@pass_session
def resume(session: Session, flow: str, project: str | None, output: str) -> None:
    """Create runs of FLOW by its schedule again, from now on. What was missed meanwhile is not made up for."""
    from heliograph.cli.times import local
    from heliograph.client.refs import to_datetime

    schedule = session.client.resume_schedule(session.find_flow(flow, project))
    if not emit_one(schedule, output, name=schedule.name):
        time = local(to_datetime(schedule.next_time))
        name = "/".join(schedule.name.split("/")[1:4:2])
        click.echo(
            f"The schedule of {name} is active. {f'Its next run is at {time}.' if time else 'It has no time left.'}"
        )


@schedules.command(
    cls=Command,
    examples="heliograph schedules preview covid/covid-cases -n 3\nheliograph schedules preview covid/etl -o json",
)
@click.argument("flow")
@project_option
@click.option("-n", "--count", default=10, show_default=True, type=click.IntRange(1, 100), help="How many times.")
@output_option()
@pass_session
def preview(session: Session, flow: str, project: str | None, count: int, output: str) -> None:
    """Show the next times of FLOW's schedule; nothing is created."""
    from datetime import datetime

    from heliograph.cli.times import ago, local

    times = session.client.preview_schedule(session.find_flow(flow, project), count)
    emit_list(
        [{"time": time.isoformat()} for time in times],
        output,
        [Column("time"), Column("when")],
        lambda row: [local(datetime.fromisoformat(row["time"])), ago(datetime.fromisoformat(row["time"]))],
        name=lambda row: str(row["time"]),
        color=session.color,
        empty="The schedule has no time left.",
    )
