"""Output of reading commands: tables for people, JSON of the API's messages for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from heliograph.cli.table import Cell, Column, render_plain, render_table
from heliograph.cli.text import clean, terminal_columns, use_color

if TYPE_CHECKING:
    from google.protobuf.message import Message

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl", "yaml", "name")
_last_format = "table"


def last_format() -> str:
    """Returns the format that the command of this process was asked for."""
    return _last_format


def output_option(*formats: str) -> Callable[[Decorated], Decorated]:
    """Adds `-o/--output` to a command; `HELIOGRAPH_OUTPUT` sets its default."""

    def remember(_: click.Context, __: click.Parameter, value: str) -> str:
        global _last_format
        _last_format = value
        return value

    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(formats or FORMATS),
        default="table",
        envvar="HELIOGRAPH_OUTPUT",
        callback=remember,
        is_eager=True,
        help="Format: a table for people, or one for scripts.",
    )


def to_plain(item: Message | dict[str, Any]) -> dict[str, Any]:
    """Returns a message as proto3 JSON with the names of the API's fields; dictionaries stay as they are."""
    if isinstance(item, dict):
        return item
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(item, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def emit_list(
    items: Sequence[Any],
    output: str,
    columns: Sequence[Column],
    row: Callable[[Any], Sequence[Cell | str]],
    *,
    name: Callable[[Any], str],
    color: str = "auto",
    empty: str = "",
) -> None:
    """Prints a list of messages or dictionaries.

    Args:
        items: What to print.
        output: The format.
        columns: Columns of the table.
        row: Cells of one item.
        name: What `-o name` prints of one item.
        color: `auto`, `always` or `never`.
        empty: What to say on stderr when the table would have no row.
    """
    if output == "json":
        print_json([to_plain(item) for item in items])
    elif output == "jsonl":
        for item in items:
            print(json.dumps(to_plain(item), ensure_ascii=False))
    elif output == "yaml":
        print(to_yaml([to_plain(item) for item in items]))
    elif output == "name":
        for item in items:
            print(clean(name(item)))
    elif items or not empty:
        print_table(columns, [row(item) for item in items], color)
    else:
        print(empty, file=sys.stderr)


def emit_one(item: Message | dict[str, Any], output: str, *, name: str) -> bool:
    """Prints one item in a format for scripts. Returns False for `table`: the command prints its own."""
    if output in ("json", "jsonl"):
        plain = to_plain(item)
        print(json.dumps(plain, ensure_ascii=False, indent=2 if output == "json" else None))
    elif output == "yaml":
        print(to_yaml(to_plain(item)))
    elif output == "name":
        print(clean(name))
    else:
        return False
    return True


def print_json(value: Any) -> None:
    """Prints one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], color: str = "auto") -> None:
    """Prints a table: aligned on a terminal, tab-separated in a pipe."""
    if sys.stdout.isatty():
        lines = render_table(
            columns, rows, max_columns=terminal_columns(sys.stdout), color=use_color(color, sys.stdout)
        )
    else:
        lines = render_plain(columns, rows)
    for line in lines:
        print(line)


def to_yaml(value: Any, indent: int = 0) -> str:
    """Returns a value as YAML: block style for what has content, JSON (which YAML includes) for scalars."""
    space = "  " * indent
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                lines.append(f"{space}{_yaml_key(key)}:")
                lines.append(to_yaml(item, indent + 1))
            else:
                lines.append(f"{space}{_yaml_key(key)}: {json.dumps(item, ensure_ascii=False)}")
        return "\n".join(lines)
    if isinstance(value, list) and value:
        return "\n".join(f"{space}- {to_yaml(item, indent + 1).lstrip()}" for item in value)
    return space + json.dumps(value, ensure_ascii=False)


def _yaml_key(key: str) -> str:
    """Quotes what is no plain word, and words that YAML takes for values."""
    plain = key.isidentifier() and key.lower() not in ("on", "off", "yes", "no", "y", "n", "true", "false", "null")
    return key if plain else json.dumps(key, ensure_ascii=False)
