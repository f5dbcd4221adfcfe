"""The outermost boundary: runs a command and turns each way to end into a message on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from heliograph.cli.text import clean
from heliograph.exceptions import HeliographError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run_command(command: click.Command, arguments: Sequence[str]) -> int:
    """Runs `command` and returns the exit code. Only `SystemExit` of a bug in Python itself passes through."""
    debug = "--debug" in arguments
    try:
        result = command.main(args=list(arguments), prog_name="heliograph", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe had enough (`| head`). Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HeliographError as error:
        if debug:
            raise
        show_error(error)
        return error.exit_code
    except Exception as error:
        # The last boundary: a person gets one line, `--debug` the traceback.
        if debug:
            raise
        print(f"Error: {clean(str(error) or type(error).__name__)}", file=sys.stderr)
        print("This looks like a fault in Heliograph; `heliograph --debug …` shows where.", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0


def show_error(error: HeliographError) -> None:
    """Prints what happened and what to do about it, and for `-o json` the same as an object."""
    if wants_json():
        import json

        body = {"code": error.reason, "message": str(error), "hint": error.hint}
        print(json.dumps({"error": body}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"Error: {clean(str(error), keep_lines=True)}", file=sys.stderr)
    if error.hint:
        print(f"Hint:  {clean(error.hint)}", file=sys.stderr)


def wants_json() -> bool:
    """True when the command that ran was asked for JSON."""
    from heliograph.cli.output import last_format

    return last_format() in ("json", "jsonl")
