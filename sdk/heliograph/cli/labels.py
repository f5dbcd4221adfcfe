"""`heliograph labels`: which agents could run a run, and what each of the others lacks."""

from __future__ import annotations

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_one, output_option
from heliograph.cli.session import Session, pass_session


@click.group(cls=LazyGroup, examples="heliograph labels explain brave-otter")
def labels() -> None:
    """Labels: a run goes to an agent that offers all that it needs. There are no hidden ones."""


@labels.command(
    cls=Command, examples="heliograph labels explain brave-otter\nheliograph labels explain brave-otter -o json"
)
@click.argument("run")
@click.option("--project", metavar="PROJECT", help="Project of RUN, when RUN is a name or the start of an id.")
@output_option("table", "json", "yaml")
@pass_session
def explain(session: Session, run: str, project: str | None, output: str) -> None:
    """Say what a run needs, and for each agent whether it fits or what it lacks, whatever the run's state is."""
    from heliograph.cli.delays import waiting_lines
    from heliograph.cli.text import clean
    from heliograph.cli.why import agent_lines

    found = session.find_run(run, project)
    answer = session.client.explain_flow_run(found.name)
    if emit_one(answer, output, name=found.name):
        return
    needs = [f"the label {label}" for label in answer.required_labels]
    needs += [f"host {answer.required_host}, where its bundle is"] if answer.required_host else []
    launcher = session.client.get_flow_version(found.flow_version).launch.launcher
    needs += [f"an agent of type {launcher}"] if launcher else []
    click.echo(clean(f"{found.run_name} needs {', '.join(needs) or 'no label and no host: any agent'}."))
    start = "heliograph agent start" + (f" --type {launcher}" if launcher else "")
    for line in agent_lines(answer) or [f"There is no agent. Start one with: {start}"]:
        click.echo(clean(f"  {line}"))
    for line in waiting_lines(answer):
        click.echo(clean(line))
