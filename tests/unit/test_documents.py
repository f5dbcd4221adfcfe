"""The documents say what is so: commands and options exist, blocks compile, flows run, links and names resolve."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from heliograph import run_configs
from heliograph.cli.main import EXIT_CODES, cli
from heliograph_agents.launchers.kinds import NAMES, kind

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for folder in (
        ".",
        "docs",
        "docs/agents",
        "docs/storages",
        "sdk",
        "agents",
        "control_plane",
        "proto",
        "tests",
        "examples/covid",
    )
    for path in (ROOT / folder).glob("*.md")
)
PACKAGES = {
    "heliograph": ROOT / "sdk/heliograph",
    "heliograph_agents": ROOT / "agents/heliograph_agents",
    "heliograph_control_plane": ROOT / "control_plane/heliograph_control_plane",
    "tests": ROOT / "tests",
    "examples": ROOT / "examples",
}
WORDS_OF_A_SHELL = {"&&", "||", "|", ">", "&", ";"}


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """Returns the fenced blocks of a document."""
    found, start, language = [], 0, ""
    lines = document.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if start:
            found.append(Block(document, start, language, "\n".join(lines[start : number - 1])))
            start = 0
        else:
            start, language = number, line[3:].strip()
    assert not start, f"{document}: the block of line {start} does not end"
    return found


def prose(document: Path) -> str:
    """Returns a document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def typed(block: Block) -> list[str]:
    """Returns the `heliograph` commands that are typed in a console block."""
    text = re.sub(r"\\\n\s*", "", block.text)  # a command may go on in the next line
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return [line for line in lines if line.startswith("heliograph ")]


def named(document: Path) -> list[str]:
    """Returns the commands named in prose, in backticks; alternatives as `runs ls|why` are several."""
    found: list[str] = []
    for command in re.findall(r"`(heliograph [^`]+)`", prose(document)):
        words = command.split(" ")
        at = next((n for n, word in enumerate(words) if "|" in word), 0)
        found += [" ".join([*words[:at], choice, *words[at + 1 :]]) for choice in words[at].split("|")]
    return found


COMMANDS = sorted(
    {(block.name, command) for block in BLOCKS if block.language == "console" for command in typed(block)}
    | {(str(document.relative_to(ROOT)), command) for document in DOCUMENTS for command in named(document)}
)


def complaint(command: str) -> str:
    """Walks a command line down the groups. Returns what is wrong with it, or nothing."""
    words = shlex.split(command, comments=True)[1:]
    words = words[: next((n for n, word in enumerate(words) if word in WORDS_OF_A_SHELL), len(words))]
    here: click.Command = cli
    context = click.Context(cli, info_name="heliograph")
    options = options_of(here)
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            if name not in options:
                return f"{here.name} has no option {name}"
            skip = not equals and not options[name].is_flag and not options[name].count
        elif isinstance(here, click.Group) and word != "…":
            below = here.get_command(context, word)
            if below is None:
                return f"there is no command {word!r} in {here.name!r}"
            here = below
            options = options_of(here)
            if here.name == "start" and "agent" in words:  # it has those of the type of agent, too
                kinds = [word for word in words if word in NAMES] or ["local"]
                options |= {name: item for item in kind(kinds[0]).OPTIONS for name in item.opts}
    return ""


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Returns the options of a command by their spellings."""
    own = {name: item for item in command.params if isinstance(item, click.Option) for name in item.opts}
    own["--help"] = own["-h"] = click.Option(["--help", "-h"], is_flag=True)
    return own


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_commands_exist_with_their_options(where: str, command: str) -> None:
    assert not complaint(command), f"{where}: {command}"


def commands(group: click.Group, above: str) -> list[str]:
    """Returns the commands below a group, as they are typed."""
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        below = group.get_command(context, name)
        words = f"{above} {name}"
        found += commands(below, words) if isinstance(below, click.Group) else [words]
    return found


def test_every_command_is_in_the_list() -> None:
    listed = " ".join(named(ROOT / "docs" / "cli.md")).replace("heliograph agent ", "heliograph agents ")
    assert not [command for command in commands(cli, "heliograph") if command not in listed]


def test_exit_codes_are_those_of_the_help() -> None:
    told = set(re.findall(r"\b(\d+)  +\w", EXIT_CODES))
    table = re.findall(r"^\| (\d+) \| .+ \|$", (ROOT / "docs" / "cli.md").read_text("utf-8"), re.MULTILINE)
    assert set(table) == told


@pytest.mark.parametrize(
    "command",
    ["heliograph run-it", "heliograph runs wy comma", "heliograph runs ls --stat Failed", "heliograph dev -z"],
)
def test_the_check_of_commands_finds_mistakes(command: str) -> None:
    assert complaint(command)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path / "home"))
    (tmp_path / "flow.py").write_text(block.text)
    compile(block.text, block.name, "exec")
    done = subprocess.run(
        [sys.executable, "flow.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    if "flow.run(" in block.text:
        assert "ended: Success." in done.stderr + done.stdout


def test_the_quickstarts_flow_gives_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path / "home"))
    flow = next(block.text for block in PYTHON if block.text.startswith("# orders.py"))
    shown = next(block.text for block in BLOCKS if "$ python orders.py" in block.text).splitlines()[-1]
    for _ in range(2):  # the second time from its target
        (tmp_path / "orders.py").write_text(flow)
        done = subprocess.run(
            [sys.executable, "orders.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines()[-1] == shown
    assert (tmp_path / "home" / "results" / "total-2026-09-07.txt").is_file()


def anchors(document: Path) -> set[str]:
    """Returns the anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(file), f"{target}: there is no such heading"


def crooked_tables(text: str) -> list[str]:
    """Returns the rows of tables that have not as many cells as their header: such a table is shown as text."""
    found: list[str] = []
    cells = 0
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            cells = 0
            continue
        here = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line)))
        cells = cells or here
        if here != cells:
            found.append(line)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_tables(document: Path) -> None:
    assert crooked_tables(prose(document)) == []


def test_a_table_with_a_cell_too_few_is_found() -> None:
    assert crooked_tables("| a | b |\n|---|\n| 1 | 2 |") == ["|---|"]


@cache
def definitions(file: Path) -> dict[str, ast.AST]:
    """Returns what a module or a class of it defines, by dotted name; read, not imported."""
    found: dict[str, ast.AST] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for item in body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[prefix + item.name] = item
            if isinstance(item, ast.ClassDef):
                walk(item.body, f"{prefix}{item.name}.")
            if isinstance(item, ast.Assign):
                found.update({prefix + name.id: item for name in item.targets if isinstance(name, ast.Name)})

    walk(ast.parse(file.read_text("utf-8")).body, "")
    return found


def is_there(dotted: str) -> bool:
    """True when a dotted name is a module of ours, or something that one defines."""
    package, *rest = dotted.split(".")
    place = PACKAGES[package]
    while rest and (place / rest[0]).is_dir():
        place /= rest.pop(0)
    module = f"{rest[0]}.py" if rest else ""
    if module and (place / module).is_file():
        del rest[0]
    else:
        module = "__init__.py"
    file = place / module
    return not rest or (file.is_file() and ".".join(rest) in definitions(file))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_functions_are_there(document: Path) -> None:
    names = re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", prose(document))
    assert not [name for name in names if not name.endswith((".toml", ".py")) and not is_there(name)]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_an_agent_has_each_of_its_options_and_arguments(name: str) -> None:
    page = (ROOT / "docs" / "agents" / f"{name}.md").read_text("utf-8")
    options = {part for option in kind(name).OPTIONS for part in option.opts if part.startswith("--")}
    run_config = next(found for found in vars(run_configs).values() if getattr(found, "launcher", "") == name)
    arguments = set(inspect.signature(run_config).parameters) - {"prefect"}
    assert {option for option in options if not re.search(rf"`{option}\b", page)} == set()
    assert {argument for argument in arguments if not re.search(rf"\b{argument}\b", page)} == set()


@pytest.mark.parametrize("folder", ["sdk", "agents", "control_plane", "proto", "tests", "examples/covid"])
def test_each_top_folder_shows_the_path_of_a_run(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text("utf-8")
    path = text.partition("## The path of one run\n")[2]
    steps = [int(number) for number in re.findall(r"^(\d+)\. ", path, flags=re.MULTILINE)]
    assert len(steps) >= 5
    assert steps == list(range(1, len(steps) + 1))
    assert re.search(r"`(heliograph|tests|examples)\w*\.", path)


def test_the_readme_shows_the_demo() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = text.partition("<!-- demo output -->")[2].partition("<!-- end of demo output -->")[0]
    assert "$ make demo" in shown
    assert "year_month,cases,deaths" in shown
    assert "Done in" in shown


def test_every_target_of_make_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert not [target for target in targets if target != "help" and f"`make {target}`" not in text]
