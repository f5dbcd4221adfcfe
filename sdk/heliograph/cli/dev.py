"""`heliograph dev`: a control plane and a local agent on one machine, for development."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heliograph.cli.lazy import Command

if TYPE_CHECKING:
    from heliograph.cli.children import Child
    from heliograph.client.client import Client

AGENT = "dev"
POLL_SECONDS = 0.25
DRAIN_SECONDS = 15.0


@click.command(
    cls=Command,
    examples="""
    heliograph dev
    heliograph dev --port 4490 --label gpu
    heliograph register flow.py --project dev && heliograph run dev/my-flow --watch
    """,
)
@click.option("--port", default=4480, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 chooses one.")
@click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help="[default: $HELIOGRAPH_HOME/dev]")
@click.option("-l", "--label", "labels", multiple=True, help="A label of the agent. May be repeated.")
@click.option("--project", default="dev", show_default=True, help="A project that is made at the start.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show what the parts say later.")
def dev(port: int, state_dir: Path | None, labels: tuple[str, ...], project: str, quiet: bool) -> int:
    """Run a control plane and a local agent here until Ctrl-C.

    Nothing leaves this machine, so failures and log lines are shared in full.
    """
    from heliograph.cli.children import Children, start_control_plane, stop_on_sigterm, wait_for
    from heliograph.client.client import Client
    from heliograph.client.credentials import save_token
    from heliograph.config import home

    stop_on_sigterm()
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "HELIOGRAPH__AGENT__FAILURE_TEXT": "full",
        "HELIOGRAPH__AGENT__LOG_MODE": "full",
    }
    up = threading.Event()

    def on_line(name: str, line: str) -> None:
        # What the parts say while they start is told when they fail to, and then once.
        if up.is_set() and not quiet:
            print(f"{name:6} | {line}", flush=True)

    try:
        with Children() as children:
            folder = (state_dir or home() / "dev").absolute()
            address, token = start_control_plane(children, folder, environment, port=port, on_line=on_line)
            if token:
                save_token(address, token)
            environment["HELIOGRAPH__CLIENT__ADDRESS"] = address
            with Client(address, token or None) as client:
                client.create_project(project)
                environment["HELIOGRAPH__CLIENT__TOKEN_FILE"] = str(_agent_token(client, folder))
                environment.pop("HELIOGRAPH__CLIENT__TOKEN", None)
                arguments = ["agent", "start", "--type", "local", "--name", AGENT]
                arguments += [word for label in labels for word in ("--label", label)]
                agent = children.start("agent", arguments, environment, on_line)
                wait_for(lambda: _is_online(client), agent, "agent")
                _tell(address, project, folder)
                up.set()
                try:
                    return _stay(children.ended)
                finally:
                    _end_runs(client)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 0


def _agent_token(client: Client, folder: Path) -> Path:
    """Returns the file with a token that can do what an agent does and nothing else; made once."""
    from heliograph.api.v1 import options_pb2

    path = folder / "agent.token"
    if not path.exists():
        secret = client.create_token(f"services/{AGENT}-agent", [options_pb2.ROLE_AGENT]).secret
        path.touch(mode=0o600)
        path.write_text(secret + "\n", "ascii")
    return path


def _stay(ended: object) -> int:
    """Waits until a part ends by itself. Returns the exit code for that."""
    assert callable(ended)
    while True:
        child: Child | None = ended()
        if child is not None:
            print(f"Error: the {child.name} ended with {child.process.returncode}; stopping.", file=sys.stderr)
            return 1
        time.sleep(POLL_SECONDS)


def _is_online(client: Client) -> bool:
    return any(agent.online and agent.name == f"agents/{AGENT}" for agent in client.list_agents())


def _end_runs(client: Client) -> None:
    """Cancels what runs, so that no flow process outlives the command that started its agent."""
    from heliograph.engine.codes import StateCode
    from heliograph.exceptions import HeliographError

    going = (StateCode.SUBMITTED, StateCode.RUNNING, StateCode.CANCELLING)
    deadline = time.monotonic() + DRAIN_SECONDS
    try:
        for run in client.list_flow_runs(states=going, limit=None):
            print(f"Cancelling {run.run_name}.", file=sys.stderr)
            client.cancel_flow_run(run.name)
        while client.list_flow_runs(states=going, limit=1) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    except HeliographError as error:
        print(f"Could not cancel runs: {error}", file=sys.stderr)


def _tell(address: str, project: str, folder: Path) -> None:
    """Says what is there and what to do next."""
    from heliograph.cli.text import paint, use_color

    color = use_color("auto", sys.stdout)
    command = "heliograph" if address == "127.0.0.1:4480" else f"heliograph --address {address}"
    lines = [
        paint(f"Heliograph is up: a control plane on {address} and the agent {AGENT!r}.", "bold", color)
        + " Ctrl-C stops both.",
        "",
        f"  {command} register FILE --project {project}",
        f"  {command} run {project}/FLOW --watch",
        f"  {command} runs ls",
        "",
        paint(f"You are signed in on this machine. Data: {folder}", "dim", color),
    ]
    print("\n".join(lines), flush=True)
