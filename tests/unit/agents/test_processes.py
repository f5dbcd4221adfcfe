"""Children: whose exit code is whose."""

from __future__ import annotations

import os
import subprocess
import sys

from heliograph_agents import processes


def test_reaping_one_child_leaves_the_others_their_exit_codes() -> None:
    program = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    # It has ended, and is not collected.
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    child = os.fork()
    if not child:
        os._exit(5)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    ended = processes.reap(child)
    assert {pid: os.waitstatus_to_exitcode(status) for pid, status in ended.items()} == {child: 5}
    assert program.wait() == 3
    assert processes.reap(child) == {}
