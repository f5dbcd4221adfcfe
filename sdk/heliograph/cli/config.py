"""`heliograph config`: the settings in force."""

from __future__ import annotations

from typing import Any

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Column

SECRET = "client.token"  # noqa: S105 - the name of a setting


@click.group(cls=LazyGroup, examples="heliograph config view\nheliograph config view client")
def config() -> None:
    """Settings, and where each one comes from."""


@config.command(cls=Command, examples="heliograph config view\nheliograph config view client -o json")
@click.argument("section", default="")
@output_option()
@pass_session
def view(session: Session, section: str, output: str) -> None:
    """Show settings, of one SECTION or all. Secrets are hidden."""
    from functools import reduce

    from heliograph.config import SETTINGS, origins
    from heliograph.config import config as load

    settings, sources = load(), origins()
    rows = []
    for name, setting in SETTINGS.items():
        if section and name != section and not name.startswith(f"{section}."):
            continue
        value: Any = reduce(getattr, name.split("."), settings)
        if name == SECRET and value:
            value = "(hidden)"
        plain = list(value) if isinstance(value, tuple) else value
        rows.append({"name": name, "value": plain, "origin": sources[name], "variable": setting.env_name})
    if not rows:
        raise click.UsageError(f"There is no section {section!r}; sections are {', '.join(_sections(SETTINGS))}.")
    emit_list(
        rows,
        output,
        [Column("setting"), Column("value", flexible=True), Column("from", flexible=True)],
        lambda row: [row["name"], _shown(row["value"]), row["origin"]],
        name=lambda row: str(row["name"]),
        color=session.color,
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sections(names: object) -> list[str]:
    assert isinstance(names, dict)
    return list(dict.fromkeys(str(name).partition(".")[0] for name in names))
