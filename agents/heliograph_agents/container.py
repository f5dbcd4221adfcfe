"""The first process of a container: takes what the agent laid there for it, and supervises that attempt.

`python -m heliograph_agents.container OFFER [--runs DIR] [--termination-log FILE]`. OFFER is a folder with
`launch.json` and `token`, mounted or copied there by the agent; it may be read-only. With a file `holder` it is for one
container alone, with a file `withdrawn` for none any more. The run directory is made below
DIR. Nothing secret comes by argument or environment.

With `--start` there is no folder: the variable `HELIOGRAPH_START` has a start code, which is exchanged for both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from heliograph.engine.codes import StateCode
from heliograph.utilities.files import write_atomically
from heliograph_agents.run_directory import (
    ExitRecord,
    RunDirectory,
    exit_record_text,
    parse_launch_record,
)
from heliograph_agents.start_code import VARIABLE, RefusedError, Start, collect_apart

OFFER = "/heliograph/offer"
"""Where launchers lay `launch.json` and `token`."""

RUNS = "/heliograph/runs"
"""Where the run directory is made."""

EXIT_GOOD = 0
"""The run ended well, or was cancelled, and the control plane knows."""
EXIT_FAILED = 1
"""The run failed, and the control plane knows."""
EXIT_CRASHED = 2
"""The run crashed, and the control plane knows."""
EXIT_TOLD_FAILED = 70
"""As `EXIT_FAILED`, with `--start`: nothing but this code is seen there, and any program may exit with 1."""
EXIT_TOLD_CRASHED = 71
"""As `EXIT_CRASHED`, with `--start`."""
EXIT_UNSHIPPED = 75
"""The control plane does not know all of it: the rest is in the outbox."""
EXIT_LEASE_LOST = 76
"""The run belongs to another attempt."""
EXIT_STARTED_BEFORE = 77
"""This attempt was started before; it is never started twice."""
EXIT_NO_OFFER = 78
"""There is nothing to run here."""
EXIT_CODE_SPENT = 79
"""Somebody else exchanged its start code."""
EXIT_CODE_REFUSED = 80
"""Its start code was not exchanged: it had ended, or its lease had, or nobody could be reached."""
EXIT_SUPERVISOR_FAILED = 81
"""The supervisor itself failed, and nobody knows what became of the run."""
EXIT_WITHDRAWN = 82
"""The offer was taken back before anything began."""

POD_VARIABLE = "HELIOGRAPH_POD_UID"
"""Variable with what tells this container from another one that is given the same offer."""

MAX_TERMINATION_BYTES = 4096


def main(arguments: list[str] | None = None) -> int:
    """Supervises the attempt and returns the container's exit code: one of this module."""
    parser = argparse.ArgumentParser(prog="heliograph_agents.container", description="Supervises one attempt.")
    parser.add_argument("offer", type=Path, nargs="?", default=Path(OFFER), metavar="OFFER")
    parser.add_argument("--runs", type=Path, default=Path(RUNS), metavar="DIR")
    parser.add_argument("--termination-log", type=Path, metavar="FILE")
    parser.add_argument("--start", action="store_true")
    given = parser.parse_args(arguments)
    if (given.offer / "withdrawn").exists():
        print("heliograph: this attempt was given back before it began", file=sys.stderr)
        return EXIT_WITHDRAWN
    holder = given.offer / "holder"
    if holder.exists() and holder.read_text() != os.environ.get(POD_VARIABLE, ""):
        print("heliograph: this attempt is of another pod, and is not started again", file=sys.stderr)
        return EXIT_STARTED_BEFORE
    try:
        if given.start:
            given.offer = _collect(given.runs)
        record = parse_launch_record((given.offer / "launch.json").read_text())
        token = (given.offer / "token").read_text()
        given.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = RunDirectory.create(given.runs, record, token)
    except RefusedError as error:
        print(f"heliograph: the start code is not exchanged: {error}", file=sys.stderr)
        return EXIT_CODE_SPENT if error.spent else EXIT_CODE_REFUSED
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"heliograph: there is nothing to run in {given.offer}: {error}", file=sys.stderr)
        return EXIT_NO_OFFER
    if directory is None:
        print("heliograph: this attempt was started before, and is not started again", file=sys.stderr)
        return EXIT_STARTED_BEFORE
    with contextlib.suppress(OSError):  # a mounted secret is read-only
        (given.offer / "token").unlink()
    # Here, and not in the container's configuration, which shows them: the supervisor fetches the bundle with them.
    os.environ.update({**record.settings.env, "HELIOGRAPH_HOME": record.settings.home})
    from heliograph_agents.supervisor import start

    start(directory, fork=True)
    ended = directory.exit()
    if ended is not None and not ended.unshipped:
        directory.token_file.unlink(missing_ok=True)
    if ended is not None and given.termination_log is not None:
        _leave_word(given.termination_log, ended)
    code = exit_code(ended)
    return _TOLD.get(code, code) if given.start else code


_TOLD = {EXIT_FAILED: EXIT_TOLD_FAILED, EXIT_CRASHED: EXIT_TOLD_CRASHED}


def _collect(runs: Path) -> Path:
    """Exchanges the start code, and lays what it gives into a folder as an agent does elsewhere."""
    # Nothing of the flow has begun: whoever ends it now may have it started again. (The first process of a container
    # would not hear of it otherwise.)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_CODE_REFUSED))
    # No child of this process has it, the flow above all.
    start = Start.parse(os.environ.pop(VARIABLE, ""))
    found = collect_apart(start, tell=lambda sentence: print(f"heliograph: {sentence}", file=sys.stderr, flush=True))
    offer = runs.parent / "offer"
    offer.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in {"launch.json": found.launch.encode(), "token": found.run_token.encode(), **found.files}.items():
        write_atomically(offer / Path(name).name, data, 0o600)
    return offer


def exit_code(record: ExitRecord | None) -> int:
    """Returns what the container's exit code says of the attempt."""
    if record is None:
        return EXIT_SUPERVISOR_FAILED
    if record.lease_lost:
        return EXIT_LEASE_LOST
    if record.unshipped:
        return EXIT_UNSHIPPED
    state = StateCode(record.state)
    if state is StateCode.CRASHED:
        return EXIT_CRASHED
    return EXIT_FAILED if state.is_failed else EXIT_GOOD


def _leave_word(path: Path, record: ExitRecord) -> None:
    """Writes `exit.json` where the infrastructure shows it. It may not be there: then the exit code has to do."""
    text = exit_record_text(record)
    with contextlib.suppress(OSError):
        if len(text.encode()) <= MAX_TERMINATION_BYTES:
            path.write_text(text)


def run() -> NoReturn:
    """Ends the process with the exit code, without waiting for threads."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
