"""`heliograph server …`: runs a control plane and looks after its store."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heliograph.config import home

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from heliograph_control_plane.server import ServerSettings

DEFAULT_PORT = 4480

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder of the embedded store and of the first token.  [default: $HELIOGRAPH_HOME/control-plane]",
)
_database = click.option(
    "--database", metavar="URL", default="", help="sqlite:///… or postgresql://…  [default: SQLite in the data folder]"
)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def server() -> None:
    """Run a control plane."""


@server.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="Port to listen on; 0 chooses a free one.")
@_data_dir
@_database
@click.option("--tls-cert", type=_file, help="PEM file with the certificate chain.")
@click.option("--tls-key", type=_file, help="PEM file with its key.")
@click.option("--tls-client-ca", type=_file, help="PEM file with the authorities of client certificates; demands them.")
@click.option("--insecure", is_flag=True, help="Allow plaintext on an address other than loopback.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="File that gets host:port when ready."
)
def start(
    host: str,
    port: int,
    data_dir: Path | None,
    database: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    insecure: bool,
    log_format: str,
    ready_file: Path | None,
) -> None:
    """Start a control plane. SIGTERM or Ctrl-C stops it gracefully."""
    from heliograph_control_plane.server import ServerSettings

    _configure_log(log_format)
    settings = ServerSettings(
        data_dir=(data_dir or _default_data_dir()).absolute(),
        host=host,
        port=port,
        database=database,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        insecure=insecure,
    )
    _run(_serve(settings, ready_file))


@server.command()
@_data_dir
@_database
def migrate(data_dir: Path | None, database: str) -> None:
    """Bring the store's schema to this version."""
    from heliograph_control_plane.server import ServerSettings
    from heliograph_control_plane.store import migrate_store

    settings = ServerSettings(data_dir=(data_dir or _default_data_dir()).absolute(), database=database)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrate_store(settings.url)
    click.echo(f"migrated {_without_password(settings.url)}")


@server.command("mark-restored")
@_data_dir
@_database
@click.option(
    "--hold",
    default=120,
    show_default=True,
    type=click.IntRange(0),
    help="Seconds for which runs of the backup are not given out: their agents say first what became of them.",
)
def mark_restored(data_dir: Path | None, database: str, hold: int) -> None:
    """Say that the store was restored from a backup. Before the control plane is started again."""
    from heliograph_control_plane.server import ServerSettings
    from heliograph_control_plane.store import open_store

    settings = ServerSettings(data_dir=(data_dir or _default_data_dir()).absolute(), database=database)
    store = open_store(settings.url)
    try:
        incarnation = store.mark_restored(hold * 1_000_000).result()
    finally:
        store.close()
    click.echo(f"incarnation  {incarnation}")
    click.echo(f"Runs that wait in the backup are not given out for {hold} s. Start the control plane now.")


@server.command()
def status() -> None:
    """Ask the control plane that the client is configured for what it is."""
    from heliograph.api.v1 import admin_service_pb2 as pb
    from heliograph.client.client import Client

    with Client() as client:
        info = client.call(client.services.admin.GetServerInfo, pb.GetServerInfoRequest())
    click.echo(f"version      {info.version}")
    click.echo(f"store        {info.store}")
    click.echo(f"incarnation  {info.incarnation}")
    click.echo(f"time         {info.time.ToJsonString()}")


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Runs the server on uvloop where it is installed: a call costs a third less there."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(settings: ServerSettings, ready_file: Path | None) -> None:
    from heliograph_control_plane.server import ControlPlane

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    plane = ControlPlane(settings)
    await plane.start()
    scheme = "TLS" if settings.tls_cert else "plaintext"
    click.echo(f"Heliograph control plane on {plane.address} ({scheme})")
    click.echo(f"  store        {_without_password(settings.url)}")
    if plane.admin_token_file is not None:
        click.echo(f"  admin token  {plane.admin_token_file}")
    click.echo("Ready.")
    sys.stdout.flush()
    if ready_file is not None:
        draft = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
        draft.write_text(plane.address + "\n", encoding="ascii")
        draft.replace(ready_file)
    try:
        await stop.wait()
    finally:
        click.echo("Stopping.")
        await plane.stop()


def _default_data_dir() -> Path:
    return home() / "control-plane"


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    if not at:
        return url
    scheme, _, user = before.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{after}"


def _configure_log(log_format: str) -> None:
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if log_format == "json":
        last = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
