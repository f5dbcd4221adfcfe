"""Command groups that know their commands by a static table and import one when it is called.

`heliograph --help` imports no command module, and no command imports another's libraries. An unknown command names
the nearest known ones.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """One command of a group.

    Attributes:
        target: `module:attribute` of the click command.
        help: Its line in the group's help.
        section: Heading under which the help lists it.
    """

    target: str
    help: str
    section: str = "Commands"


class LazyGroup(click.Group):
    """A group of commands from a manifest.

    Args:
        manifest: The commands by name, in the order of the help.
        aliases: Other spellings of commands; the help does not list them.
        examples: Lines at the end of the help.
        footer: What stands before the examples, printed as it is.
    """

    def __init__(
        self,
        *args: Any,
        manifest: dict[str, Entry] | None = None,
        aliases: dict[str, str] | None = None,
        examples: str = "",
        footer: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.manifest = manifest or {}
        self.aliases = aliases or {}
        self.examples = examples
        self.footer = footer

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the manifest, then those added by decorators."""
        return [*self.manifest, *(name for name in super().list_commands(ctx) if name not in self.manifest)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns a command; None when there is none of that name.

        Raises:
            click.ClickException: A part of the distribution that the command needs is not installed.
        """
        name = self.aliases.get(cmd_name, cmd_name)
        entry = self.manifest.get(name)
        if entry is None:
            return super().get_command(ctx, name)
        module, _, attribute = entry.target.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] == "heliograph":
                raise
            raise _missing_part(name, error) from error
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command; for an unknown one the error names the nearest."""
        known = [*self.list_commands(ctx), *self.aliases]
        if args and not args[0].startswith("-") and args[0] not in known:
            near = difflib.get_close_matches(args[0], known, n=3, cutoff=0.5)
            told = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{told}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands by section, from the manifest alone."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            entry = self.manifest.get(name)
            if entry is not None:
                sections.setdefault(entry.section, []).append((name, entry.help))
                continue
            command = super().get_command(ctx, name)
            if command is not None and not command.hidden:
                sections.setdefault("Commands", []).append((name, command.get_short_help_str(limit=200)))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Ends the help with the footer and the examples."""
        super().format_epilog(ctx, formatter)
        if self.footer:
            formatter.write_paragraph()
            formatter.write(self.footer.strip("\n") + "\n")
        write_examples(formatter, self.examples)


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Ends the help with the examples."""
        super().format_epilog(ctx, formatter)
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Writes examples as they are, indented."""
    lines = [line.strip() for line in examples.strip().splitlines() if line.strip()]
    if lines:
        formatter.write_paragraph()
        formatter.write("Examples:\n" + "".join(f"  {line}\n" for line in lines))


def _missing_part(name: str, error: ModuleNotFoundError) -> click.ClickException:
    extra = "server" if name == "server" else "all"
    return click.ClickException(
        f"`heliograph {name}` needs a part that is not installed (no module {error.name!r}).\n"
        f"Install it with: pip install 'heliograph[{extra}]'"
    )
