"""The demo: a control plane and an agent on this machine, one flow registered, run and watched. `make demo` runs it.

Every step is a `heliograph` command as a person would type it. Everything it writes is in one temporary folder, which
is removed at the end, also after Ctrl-C.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from examples.covid.server import CaseServer, document

from heliograph.cli.children import Children, start_control_plane, stop_on_sigterm, wait_for
from heliograph.cli.text import use_color
from heliograph.exceptions import HeliographError

FLOW_FILE = Path(__file__).with_name("flow.py")
COUNTRY = "Italy"
HEAD_LINES = 6


def main() -> int:
    """Runs the demo. Returns its exit code."""
    stop_on_sigterm()
    began = time.monotonic()
    threading.Thread(target=document, name="case records", daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="heliograph-demo-", ignore_cleanup_errors=True) as folder:
        try:
            code = _demo(Path(folder))
        except KeyboardInterrupt:
            print("\nStopped; everything is cleaned up.", file=sys.stderr)
            return 130
        except HeliographError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    if code == 0:
        print(f"\nDone in {time.monotonic() - began:.1f} s; processes and files are cleaned up.")
    return code


def _demo(root: Path) -> int:
    project, output = root / "project", root / "output"
    project.mkdir()
    shutil.copy(FLOW_FILE, project)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH")},
        "HELIOGRAPH_HOME": str(root / "home"),
        "PYTHONUNBUFFERED": "1",
    }
    with CaseServer() as cases, Children() as children:
        _title("A control plane and a local agent start")
        address, _ = start_control_plane(children, root / "control-plane", environment)
        environment["HELIOGRAPH__CLIENT__ADDRESS"] = address
        environment["HELIOGRAPH__CLIENT__TOKEN_FILE"] = str(root / "control-plane" / "admin.token")
        agent_ready: list[bool] = []

        def note_ready(_name: str, line: str) -> None:
            if "is registered" in line:
                agent_ready.append(True)

        agent = children.start(
            "agent", ["agent", "start", "--type", "local", "--name", "demo"], environment, note_ready
        )
        print(f"control plane on {address}, agent 'demo', files in {root}")

        _title("A project, and a flow in it")
        _run(environment, "projects", "create", "covid")
        code = _run(environment, "register", str(project / "flow.py"), "--project", "covid")
        wait_for(lambda: bool(agent_ready), agent, "agent")
        if code == 0:
            _title("A run, watched to its end")
            code = _run(
                environment, "run", "covid/covid-cases", "--param", f"country={COUNTRY}",
                "--param", f"url={cases.url}", "--param", f"folder={output}", "--watch",
            )  # fmt: skip
        if code == 0:
            _title("Its output")
            _show_output(output)
        return code


def _run(environment: dict[str, str], *arguments: str) -> int:
    """Runs one `heliograph` command in the terminal and shows what was typed."""
    color = use_color("auto", sys.stdout)
    typed = f"$ heliograph {shlex.join(arguments)}"
    print(f"\x1b[2m{typed}\x1b[0m" if color else typed, flush=True)
    process = subprocess.Popen([sys.executable, "-m", "heliograph.cli", *arguments], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # It got the same Ctrl-C and ends by itself; nothing of ours may be left behind.
        process.terminate()
        process.wait()
        raise


def _show_output(folder: Path) -> None:
    for path in sorted(folder.glob("*.csv")):
        lines = path.read_text().splitlines()
        print(f"{path.name}, {len(lines)} lines:")
        for line in lines[:HEAD_LINES]:
            print(f"  {line}")


def _title(text: str) -> None:
    color = use_color("auto", sys.stdout)
    print(f"\n\x1b[1m{text}\x1b[0m" if color else f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
