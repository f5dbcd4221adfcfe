"""`python -m tests.bench.peers VENV…`: other orchestrators beside this one, each from an environment that holds it.

Every scenario is a process of its own, and its cost is the CPU time of that process and of all that it started. The
cost of one more task is the difference between 1,000 tasks and one, so that starting and importing are left out of it;
they are told for themselves.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.calibration import calibration

FOLDER = Path(__file__).parent
TASKS = 1_000
SMALL = 50
ROUND_SECONDS, MOST_ROUNDS = 3.0, 12
"""CPU time that is spent on one scenario, over as many rounds as that allows."""
SECONDS = 300.0
_PR_SET_CHILD_SUBREAPER = 36

# Version by import name, so that Prefect's generations are told apart.
_WHO = (
    "import importlib.metadata as m\n"
    "for n in ('heliograph', 'prefect', 'dagster', 'luigi', 'dbos', 'dask'):\n"
    "    try:\n        print(n, m.version(n)); break\n"
    "    except m.PackageNotFoundError: pass\n"
)

PEERS = {
    "heliograph": "Heliograph",
    "prefect1": "Prefect 1",
    "prefect": "Prefect 3",
    "dagster": "Dagster",
    "luigi": "Luigi",
    "dbos": "DBOS",
    "dask": "Dask, threads",
}


@dataclass(frozen=True)
class Cost:
    """What one process and all that it started cost, and the process itself until user code was reached. Seconds."""

    cpu: float
    first_line: float


@dataclass(frozen=True)
class Figures:
    """One peer's figures: ms of CPU for one more task, CPU seconds of a small flow and to the first user line."""

    name: str
    chain: float
    mapped: float
    small: float
    first_line: float


def spend(python: Path, peer: str, scenario: str, count: int) -> Cost:
    """Runs a scenario in an empty home.

    Raises:
        subprocess.CalledProcessError: It failed; its last words are printed.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": home, "PEER_HOME": home, "PYTHONPATH": str(FOLDER),
            "PREFECT_HOME": f"{home}/prefect", "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "PREFECT__LOGGING__LEVEL": "ERROR",
            "DO_NOT_TRACK": "1", "DAGSTER_HOME": "", "DAGSTER_DISABLE_TELEMETRY": "1",
            "HELIOGRAPH__LOGGING__LEVEL": "ERROR",
        }  # fmt: skip
        command = [str(python), str(FOLDER / f"{peer}_peer.py"), scenario, str(count)]
        before = _children()
        with (Path(home) / "output").open("w+") as output:
            process = subprocess.Popen(command, env=environment, cwd=home, stdout=output, stderr=output)
            try:
                code = process.wait(SECONDS)
            finally:
                process.kill()
                _reap_the_rest()
            if code:
                output.seek(0)
                print(output.read()[-2000:], file=sys.stderr)
                raise subprocess.CalledProcessError(code, command)
        return Cost(_children() - before, float((Path(home) / "first-line").read_text()))


def _children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _reap_the_rest() -> None:
    """Ends servers that the peer left behind; they came to this process, their reaper, and their time counts."""
    limit = time.monotonic() + 10.0
    while time.monotonic() < limit:
        for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def measure(python: Path, peer: str, version: str) -> Figures:
    """Takes the figures of one peer: of each the least of some rounds."""

    def least(scenario: str, count: int) -> Cost:
        costs = [spend(python, peer, scenario, count)]
        while sum(cost.cpu for cost in costs) < ROUND_SECONDS and len(costs) < MOST_ROUNDS:
            costs.append(spend(python, peer, scenario, count))
        return Cost(min(cost.cpu for cost in costs), min(cost.first_line for cost in costs))

    spend(python, peer, "chain", 1)  # compiles what was not yet
    one = least("chain", 1)
    return Figures(
        name=f"{PEERS[peer]} {version}",
        chain=(least("chain", TASKS).cpu - one.cpu) / (TASKS - 1) * 1e3,
        mapped=(least("map", TASKS).cpu - least("map", 1).cpu) / (TASKS - 1) * 1e3,
        small=least("chain", SMALL).cpu,
        first_line=one.first_line,
    )


def find(venv: Path) -> tuple[Path, str, str]:
    """Returns the interpreter of an environment, which peer it holds, and its version."""
    python = venv.absolute() / "bin" / "python"
    if not python.exists():
        raise LookupError(f"{venv} is no environment: it has no bin/python")
    name, _, version = subprocess.run(
        [python, "-c", _WHO], capture_output=True, text=True, check=True
    ).stdout.strip().partition(" ")  # fmt: skip
    if not name:
        raise LookupError(f"{venv} holds none of {', '.join(PEERS.values())}")
    if name == "prefect" and version.startswith(("0.", "1.")):
        name = "prefect1"
    return python, name, version


def table(rows: list[Figures]) -> list[str]:
    """Returns the figures as lines of a Markdown table; ratios are to the first row."""
    ours = rows[0]
    lines = [
        "| | chain, CPU a task | map, CPU a child | flow of 50 tasks, CPU of all | until the first line, CPU |",
        "|---|---|---|---|---|",
    ]

    def ratio(value: float, base: float) -> str:
        times = value / base
        return f" ({times:,.0f} times)" if times >= 10 else f" ({times:.1f} times)" if value is not base else ""

    for row in rows:
        cells = [
            f"{row.chain:,.3f} ms{ratio(row.chain, ours.chain)}",
            f"{row.mapped:,.3f} ms{ratio(row.mapped, ours.mapped)}",
            f"{row.small:.2f} s{ratio(row.small, ours.small)}",
            f"{row.first_line:.2f} s{ratio(row.first_line, ours.first_line)}",
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Measures this one and every environment that is given; says which peers are not there."""
    parser = argparse.ArgumentParser(prog="make bench-peers")
    parser.add_argument("venvs", nargs="*", type=Path, metavar="VENV")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    found = [find(Path(sys.prefix)), *(find(venv) for venv in options.venvs)]
    print(f"calibration {calibration():.3f} µs")
    rows, failed = [], 0
    for python, peer, version in found:
        try:
            rows.append(measure(python, peer, version))
        except (subprocess.SubprocessError, OSError) as error:
            failed += 1
            print(f"{PEERS[peer]} {version}: not measured: {error}", file=sys.stderr)
            if peer == "heliograph":
                return 1
        else:
            print(f"{rows[-1].name} is done", flush=True)
    print("\n".join(table(rows)))
    missing = [name for peer, name in PEERS.items() if peer not in {which for _, which, _ in found}]
    if missing:
        print(f"not given, so not measured: {', '.join(missing)}. PEERS= takes environments that hold them.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
