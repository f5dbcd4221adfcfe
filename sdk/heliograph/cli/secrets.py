"""`heliograph secrets`: secrets of this machine, by name. Values are never printed, and nothing of them crosses."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column
from heliograph.exceptions import ConfigurationError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

MAX_BYTES = 1024 * 1024
MISSING = 3


@click.group(
    cls=LazyGroup,
    examples="""
    heliograph secrets set DB_PASSWORD
    heliograph secrets ls
    heliograph secrets check flow.py
    """,
)
def secrets() -> None:
    """Secrets of this machine, for the flows that its agents run.

    A flow names a secret, with PrefectSecret("DB_PASSWORD") or Secret("DB_PASSWORD").get() in a task. The value is
    looked up where the flow runs: in the variable HELIOGRAPH__SECRETS__DB_PASSWORD, the file secrets/DB_PASSWORD of the
    home, the table secrets.toml there, then the stores of the setting storage.secret_stores. The control plane has no
    place for secrets and learns neither value nor name.
    """


@secrets.command(
    "set",
    cls=Command,
    examples="""
    heliograph secrets set DB_PASSWORD
    heliograph secrets set TLS_KEY --file server.key
    openssl rand -hex 32 | heliograph secrets set API_KEY --stdin
    """,
)
@click.argument("name")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take the value from a file."
)
@click.option("--stdin", is_flag=True, help="Take the value from standard input.")
def set_secret(name: str, file: Path | None, stdin: bool) -> None:
    """Keep a secret in a file of this home that you alone can read.

    Without an option the value is asked for, and not shown. It is no argument, since those are seen by all processes.
    """
    from heliograph.client.secrets import ENV_PREFIX, Secret
    from heliograph.utilities.files import write_atomically

    secret = Secret(name)
    if file is not None and stdin:
        raise click.UsageError("Give one of --file and --stdin.")
    if file is not None:
        value = _text(file.read_bytes())
    elif stdin:
        value = _text(sys.stdin.buffer.read(MAX_BYTES + 1))
    elif sys.stdin.isatty():
        value = click.prompt("Value", hide_input=True, err=True)
    else:
        raise click.UsageError("There is no terminal to ask on: use --stdin or --file.")
    path = _folder() / secret.name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, value.encode(), 0o600)
    click.echo(f"{name} is kept in {path}.")
    if any(ENV_PREFIX + one in os.environ for one in (name, name.upper())):
        click.echo(f"The variable {ENV_PREFIX}{name} is set here and comes first.", err=True)


@secrets.command("ls", cls=Command, examples="heliograph secrets ls\nheliograph secrets ls -o json")
@output_option()
@pass_session
def list_secrets(session: Session, output: str) -> None:
    """List the names of this machine's secrets, and where each is found first. Values are not read.

    Stores are not listed: a run may read single secrets there, and need not see the others' names.
    """
    emit_list(
        [{"name": name, "source": source} for name, source in sorted(known_names().items())],
        output,
        [Column("name"), Column("source", flexible=True)],
        lambda row: [row["name"], row["source"]],
        name=lambda row: row["name"],
        color=session.color,
        empty="There is no secret here. Keep one with: heliograph secrets set NAME",
    )


@secrets.command(cls=Command, examples="heliograph secrets rm DB_PASSWORD\nheliograph secrets ls")
@click.argument("name")
def rm(name: str) -> None:
    """Remove a secret that `secrets set` keeps."""
    from heliograph.client.secrets import Secret

    path = _folder() / Secret(name).name
    try:
        path.unlink()
    except FileNotFoundError:
        source = known_names().get(name)
        hint = f"It is in {source}: remove it there." if source else "`heliograph secrets ls` lists them."
        raise NotFoundError(f"no file keeps a secret {name}", hint=hint) from None
    click.echo(f"{name} is removed.")


@secrets.command(cls=Command, examples="heliograph secrets check flow.py\nheliograph secrets check flow.py -o json")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option("table", "json")
@pass_session
def check(session: Session, file: Path, output: str) -> int:
    """Say which secrets the flows of FILE name, and whether they are found from here. It ends with 3 when one is not.

    Looked at are this machine and the stores of the setting storage.secret_stores, with the rights of this process:
    call it where and as the agent's runs are. Found are the secrets of secret tasks. Those that a task asks for in its
    own code show when it runs.
    """
    from heliograph.cli.register import load_flows

    known = known_names()
    rows = []
    for flow in load_flows(file):
        for name, variable in named_by(flow):
            if variable:
                source, problem = f"variable {variable}" if variable in os.environ else "", ""
            else:
                source, problem = (known[name], "") if name in known else _store_of(name)
            rows.append({"flow": flow.name, "name": name, "source": source, "problem": problem})
    emit_list(
        rows,
        output,
        [Column("flow", flexible=True), Column("secret"), Column("found in", flexible=True)],
        lambda row: [row["flow"], row["name"], row["source"] or Cell(row["problem"] or "missing", "red")],
        name=lambda row: row["name"],
        color=session.color,
        empty="These flows have no secret tasks.",
    )
    return 0 if all(row["source"] for row in rows) else MISSING


def known_names() -> dict[str, str]:
    """Returns the names of this machine's secrets, with where each is found first."""
    from heliograph.client.secrets import ENV_PREFIX
    from heliograph.config import home

    found: dict[str, str] = {}
    table = home() / "secrets.toml"
    if table.is_file():
        try:
            found |= dict.fromkeys(tomllib.loads(table.read_text("utf-8")), str(table))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise InvalidArgumentError(f"{table} is not TOML") from None  # the parser's words quote the line
    if _folder().is_dir():
        found |= {path.name: str(path) for path in _folder().iterdir() if path.is_file() and path.name[0] != "."}
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX):
            bare = variable.removeprefix(ENV_PREFIX)
            name = next((name for name in found if bare in (name, name.upper())), bare)
            found[name] = f"variable {variable}"
    return found


def _store_of(name: str) -> tuple[str, str]:
    """Returns the store that has a secret, or what keeps it from being read there."""
    from heliograph.client.secret_stores import store_with
    from heliograph.config import config

    try:
        return store_with(config().storage.secret_stores, name) or "", ""
    except ConfigurationError as error:
        return "", str(error)


def named_by(flow: Flow) -> list[tuple[str, str]]:
    """Returns the secrets that a flow's tasks name, each with its variable when it is one of the environment."""
    from heliograph.tasks.secrets import EnvVarSecret, SecretBase

    named = {
        (str(task.secret_name), str(task.secret_name) if isinstance(task, EnvVarSecret) else "")
        for task in flow.tasks
        if isinstance(task, SecretBase) and task.secret_name
    }
    return sorted(named)


def _folder() -> Path:
    from heliograph.config import home

    return home() / "secrets"


def _text(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise InvalidArgumentError(f"the value is larger than {MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgumentError("the value is no text", hint="Encode it, as base64 for example.") from None
    if not text.strip():
        raise InvalidArgumentError("the value is empty")
    return text
