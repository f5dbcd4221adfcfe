"""`heliograph keys`: the author's signing key, and the keys that agents of this home trust."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heliograph.cli.lazy import Command, LazyGroup
from heliograph.cli.output import emit_list, emit_one, output_option
from heliograph.cli.session import Session, pass_session
from heliograph.cli.table import Cell, Column
from heliograph.cli.text import clean
from heliograph.exceptions import HeliographError, InvalidArgumentError

if TYPE_CHECKING:
    from heliograph.signing import PublicKey

MAX_FILE_BYTES = 4096


@click.group(
    cls=LazyGroup,
    examples="""
    heliograph keys new --comment ann@example.org
    heliograph keys trust ann.pub --name ann
    heliograph keys ls
    """,
)
def keys() -> None:
    """Sign what you register, and say whose flows agents run.

    An author makes a key once with `keys new`: from then on `heliograph register` signs every flow. Whoever keeps an
    agent gets the author's public key, signing.pub, and says `keys trust` on the agent's machine. As soon as an agent
    trusts one key it runs nothing that is not signed by a trusted one, whatever the control plane offers.

    A signature covers project, flow, every byte of the bundle and of the launch settings, where they are, the image,
    and whether a pickle is loaded. The control plane stores it and cannot make one. Agents read the trusted keys at
    every run: nothing needs to be restarted.
    """


@keys.command(
    cls=Command,
    examples="""
    heliograph keys new
    heliograph keys new --comment ann@example.org --path ~/ci/signing.key
    """,
)
@click.option("--comment", default="", metavar="TEXT", help="Whose key it is, for people. It is part of the .pub line.")
@click.option(
    "--path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of the private key. [setting client.signing_key: keys/signing.key of the home]",
)
@output_option("table", "json", "name")
def new(comment: str, path: Path | None, output: str) -> None:
    """Make a signing key. Its private half stays in the file, readable by you alone.

    From now on what you register is signed. The public half is printed, and beside the key as .pub: give it to those
    who keep agents.
    """
    from heliograph.signing import SigningKey
    from heliograph.signing.keys import signing_key_path

    if comment != clean(comment):
        raise click.BadParameter("it has characters that cannot be seen", param_hint="--comment")
    target = path.expanduser() if path is not None else signing_key_path()
    key = SigningKey.create(target, comment.strip())
    public, file = key.public, target.with_suffix(".pub")
    if emit_one({**_plain(public), "path": str(target)}, output, name=public.key_id):
        return
    click.echo(public.to_text())
    others = (
        "" if path is None else f"\nRegister with it: HELIOGRAPH__CLIENT__SIGNING_KEY={target} heliograph register …"
    )
    click.echo(
        f"This is the public half of {public.key_id}, also in {file}.\n"
        f"Where an agent runs, have it trusted: heliograph keys trust {file.name} --name NAME{others}",
        err=True,
    )


@keys.command(
    cls=Command,
    examples="""
    heliograph keys trust signing.pub --name ann
    ssh ann@laptop cat .heliograph/keys/signing.pub | heliograph keys trust - --name ann
    """,
)
@click.argument("file", metavar="FILE")
@click.option("--name", metavar="NAME", default="", help="What to call it. [the key's comment, else the file's name]")
@output_option("table", "json", "name")
def trust(file: str, name: str, output: str) -> None:
    """Trust a public key on this machine: its agents run what it has signed.

    FILE is a .pub file as `keys new` writes it, or - for standard input. With the first key, this home's agents begin
    to refuse what is not signed; `require_signature` of their policy decides otherwise.
    """
    from heliograph.signing import PublicKey, TrustStore

    store = TrustStore()
    first = not store.keys()
    key = PublicKey.from_text(_text_of(file))
    called = name or _name_of(key, file)
    path = store.add(called, key)
    if emit_one({"name": called, **_plain(key), "path": str(path)}, output, name=key.key_id):
        return
    click.echo(f"{called} is trusted: {key.key_id}")
    if first:
        click.echo("It is the first key: from now on the agents of this home refuse what is not signed.", err=True)


@keys.command(cls=Command, examples="heliograph keys untrust ann\nheliograph keys ls")
@click.argument("name")
def untrust(name: str) -> None:
    """Trust a key no more. What it has signed is refused from the next run on; runs that go on are left alone."""
    from heliograph.signing import TrustStore

    store = TrustStore()
    store.remove(name)
    click.echo(f"{name} is trusted no more.")
    if not store.keys():
        click.echo(
            "It was the last key: the agents of this home take unsigned flows again, unless their policy says"
            " require_signature = true.",
            err=True,
        )


@keys.command("ls", cls=Command, examples="heliograph keys ls\nheliograph keys ls -o json")
@output_option()
@pass_session
def list_keys(session: Session, output: str) -> None:
    """List your signing key and the keys that are trusted here."""
    from heliograph.signing import TrustStore
    from heliograph.signing.keys import signing_key_path

    rows: list[dict[str, Any]] = []
    private = signing_key_path()
    public = private.with_suffix(".pub")
    if private.exists():
        rows.append({"use": "sign", "name": "", **_own(public), "path": str(private)})
    store = TrustStore()
    for name, key in store.keys().values():
        rows.append({"use": "trust", "name": name, **_plain(key), "path": str(store.folder / f"{name}.pub")})
    emit_list(
        rows,
        output,
        [Column("use"), Column("name", flexible=True), Column("key"), Column("comment", flexible=True)],
        lambda row: [
            Cell("signs", "cyan") if row["use"] == "sign" else Cell("trusted", "green"),
            row["name"],
            row["key_id"],
            row["comment"],
        ],
        name=lambda row: row["key_id"],
        color=session.color,
        empty="There is no key. Make one with: heliograph keys new\n"
        "Trust another's with: heliograph keys trust FILE --name NAME",
    )


def _own(public: Path) -> dict[str, str]:
    """Describes the author's key by its public half; the private one is not read for a list."""
    from heliograph.signing import PublicKey

    try:
        return _plain(PublicKey.from_text(public.read_text()))
    except (OSError, HeliographError):
        return {"key_id": "", "comment": f"{public.name} is missing or damaged", "public_key": ""}


def _plain(key: PublicKey) -> dict[str, str]:
    return {"key_id": key.key_id, "comment": key.comment, "public_key": key.to_text()}


def _text_of(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read(MAX_FILE_BYTES)
        with Path(file).open(encoding="utf-8") as stream:
            text = stream.read(MAX_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidArgumentError(f"{file} cannot be read: {reason}", hint="Name the .pub file of a key.") from error
    if "PRIVATE KEY" in text:
        raise InvalidArgumentError(
            f"{file} is a private key", hint="It stays with its author. Trust the .pub file beside it."
        )
    return text


def _name_of(key: PublicKey, file: str) -> str:
    """Chooses a name: the comment's, when it can be that of a file; else the file's own."""
    comment = key.comment.split()[0] if key.comment.split() else ""
    if comment and "/" not in comment and "\\" not in comment and not comment.startswith("."):
        return comment
    stem = Path(file).stem
    if file == "-" or stem == "signing":
        raise InvalidArgumentError("the key has no comment to be called by", hint="Say whose it is: --name NAME.")
    return stem
