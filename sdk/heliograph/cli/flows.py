"""`heliograph flows`: list flows, and look at one version."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from heliograph.cli.lazy import Command, Entry, LazyGroup
from heliograph.cli.output import emit_list, emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Column, render_pairs

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_service_pb2, schedule_service_pb2


@click.group(
    cls=LazyGroup,
    manifest={"check": Entry("heliograph_agents.check:check", "Say what an agent would say of a file's flows.")},
    examples="""
    heliograph flows ls
    heliograph flows inspect covid/covid-cases
    heliograph flows check flow.py --project covid
    """,
)
def flows() -> None:
    """Registered flows and their versions."""


@flows.command("ls", cls=Command, examples="heliograph flows ls --project covid\nheliograph flows ls -o name")
@click.option("--project", metavar="PROJECT", help="Only this project. [all]")
@output_option()
@pass_session
def list_flows(session: Session, project: str | None, output: str) -> None:
    """List flows."""
    from heliograph.cli.times import ago
    from heliograph.client.refs import to_datetime

    emit_list(
        session.client.list_flows(project),
        output,
        [
            Column("project"), Column("flow", flexible=True), Column("version", right=True),
            Column("schedule", flexible=True), Column("next run"), Column("labels", flexible=True), Column("updated"),
        ],
        lambda flow: [
            flow.name.split("/")[1],
            flow.name.split("/")[3],
            str(flow.latest_version),
            describe_schedule(flow.schedule.spec) + (" (paused)" if flow.schedule.paused else ""),
            ago(to_datetime(flow.schedule.next_time)),
            ", ".join(flow.labels),
            ago(to_datetime(flow.update_time)),
        ],
        name=lambda flow: flow.name,
        color=session.color,
        empty="There is no flow. Register one with: heliograph register FILE --project PROJECT",
    )  # fmt: skip


@flows.command(
    cls=Command, examples="heliograph flows inspect covid/covid-cases\nheliograph flows inspect covid/etl -o json"
)
@click.argument("flow")
@click.option("--project", metavar="PROJECT", help="Project of FLOW, when FLOW is a name alone.")
@output_option()
@pass_session
def inspect(session: Session, flow: str, project: str | None, output: str) -> None:
    """Show what the control plane knows of a flow's newest version."""
    from heliograph.cli.text import use_color

    version = session.client.get_flow_version(session.find_flow(flow, project))
    if emit_one(version, output, name=version.name):
        return
    color = use_color(session.color, sys.stdout)
    for line in render_pairs(_facts(version), color=color):
        click.echo(line)
    click.echo("\nTasks")
    edges = version.graph.edges
    for number, task in enumerate(version.graph.tasks):
        upstream = [version.graph.tasks[e.upstream].slug for e in edges if e.downstream == number]
        after = f"  after {', '.join(dict.fromkeys(upstream))}" if upstream else ""
        click.echo(f"  {task.slug}{' (mapped)' if task.mapped else ''}{after}")


def _facts(version: flow_service_pb2.FlowVersion) -> list[tuple[str, str]]:
    from heliograph.cli.times import local
    from heliograph.client.refs import to_datetime

    bundle, launch = version.bundle, version.launch
    parameters = [f"{p.name}{' (required)' if p.required else ''}" for p in version.graph.parameters]
    return [
        ("Version", version.name),
        ("Registered", f"{local(to_datetime(version.create_time))} by {version.created_by}"),
        ("Bundle", f"{bundle.storage} {bundle.location}"),
        ("Digest", bundle.digest),
        ("Python", bundle.python_version),
        ("Host", bundle.host),
        ("Labels", ", ".join(launch.labels)),
        ("Launcher", launch.launcher),
        ("Image", launch.image),
        ("Environment", ", ".join(launch.env_names)),
        ("Parameters", ", ".join(parameters)),
        ("Schedule", describe_schedule(version.schedule)),
    ]


def describe_schedule(spec: schedule_service_pb2.ScheduleSpec) -> str:
    """Returns clocks in words: `cron 00 13 * * *`, `every 15 min`."""
    from heliograph.cli.times import duration

    words = []
    for clock in spec.clocks:
        kind = clock.WhichOneof("kind")
        if kind == "cron":
            words.append(f"cron {clock.cron.cron}{f' {clock.cron.timezone}' if clock.cron.timezone else ''}")
        elif kind == "interval":
            words.append(f"every {duration(clock.interval.interval_micros / 1e6)}")
        elif kind == "dates":
            words.append(f"{len(clock.dates.times)} dates")
    return ", ".join(words)
