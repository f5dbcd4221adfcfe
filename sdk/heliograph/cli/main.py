"""The root of the command line: its manifest, its help, and how every error ends."""

from __future__ import annotations

import sys

import click

from heliograph.cli.lazy import Entry, LazyGroup

EXIT_CODES = """
Exit codes:
  0  done                          5  the awaited run did not succeed
  1  failed                        6  refused: the state or a limit does not allow it
  2  wrong usage or bad input      7  no control plane answers
  3  not found                     8  no answer in time
  4  not signed in, not allowed    130  interrupted
"""

_RUN, _LOOK, _HOST, _SET = "Build and run", "Look", "Host", "Set up"

MANIFEST = {
    "register": Entry("heliograph.cli.register:register", "Register the flows of Python files.", _RUN),
    "run": Entry("heliograph.cli.run:run", "Create a run of a flow, and watch it.", _RUN),
    "flows": Entry("heliograph.cli.flows:flows", "Registered flows and their versions.", _LOOK),
    "runs": Entry("heliograph.cli.runs:runs", "Flow runs: list, inspect, watch, logs, why, cancel.", _LOOK),
    "schedules": Entry("heliograph.cli.schedules:schedules", "Schedules: list, pause, resume, preview.", _LOOK),
    "errors": Entry("heliograph.cli.errors:errors", "Texts of failures, from your own storage.", _LOOK),
    "results": Entry("heliograph.cli.results:results", "Where the results of a run are, from your own storage.", _LOOK),
    "labels": Entry("heliograph.cli.labels:labels", "Which agents could run a run, and what others lack.", _LOOK),
    "agents": Entry("heliograph.cli.agents:agents", "Start agents, and see those that are there.", _HOST),
    "server": Entry("heliograph_control_plane.cli:server", "Run a control plane.", _HOST),
    "dev": Entry("heliograph.cli.dev:dev", "Control plane and local agent on this machine, for development.", _HOST),
    "auth": Entry("heliograph.cli.auth:auth", "Sign in to a control plane.", _SET),
    "projects": Entry("heliograph.cli.projects:projects", "Namespaces of flows.", _SET),
    "tokens": Entry("heliograph.cli.tokens:tokens", "Tokens of users and services.", _SET),
    "keys": Entry("heliograph.cli.keys:keys", "Sign what you register; say whose flows agents run.", _SET),
    "doctor": Entry("heliograph.cli.doctor:doctor", "Find out why a control plane or storage is not reached.", _SET),
    "secrets": Entry("heliograph.cli.secrets:secrets", "Secrets of this machine, by name.", _SET),
    "config": Entry("heliograph.cli.config:config", "Settings, and where each one comes from.", _SET),
    "version": Entry("heliograph.cli.version:version", "Versions of this client and of the control plane.", _SET),
}  # fmt: skip

ALIASES = {
    "flow": "flows", "flow-runs": "runs", "flow-run": "runs", "error": "errors", "result": "results",
    "agent": "agents", "project": "projects", "schedule": "schedules",
    "token": "tokens", "key": "keys", "secret": "secrets", "label": "labels",
}  # fmt: skip


@click.group(
    cls=LazyGroup,
    manifest=MANIFEST,
    aliases=ALIASES,
    footer=EXIT_CODES,
    examples="""
    heliograph dev
    heliograph register flow.py --project covid
    heliograph run covid/covid-cases --param country=France --watch
    """,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.option(
    "--address", metavar="HOST:PORT", help="Control plane to talk to. [setting client.address: 127.0.0.1:4480]"
)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour of the output.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="heliograph", prog_name="heliograph", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, address: str | None, color: str, debug: bool) -> None:
    """Heliograph runs workflows in your own infrastructure; its control plane sees metadata only."""
    from heliograph.cli.session import Session

    ctx.obj = Session(address=address, color=color, debug=debug)


def main() -> None:
    """Runs the command line and exits with its code."""
    from heliograph.cli.boundary import run_command

    sys.exit(run_command(cli, sys.argv[1:]))
