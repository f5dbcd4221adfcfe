"""A process that works on the real embedded store and notes each acknowledgement when it has it.

`python -m tests.fault.store_load FOLDER CALLS`: acknowledgements are appended to FOLDER/acks, one JSON list a line. It
ends with exit code 0 when all calls were answered, 3 when the store took no more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from tests.contract.store.helpers import Bench, task

from heliograph.engine.codes import StateCode
from heliograph.exceptions import HeliographError
from heliograph_control_plane.store import database
from heliograph_control_plane.store.records import EventBatch, LogLine

THREADS = 4
EVENTS = 3
LINES = 2


def main(folder: Path, calls: int) -> int:
    """Works with four threads."""
    database._CHECKPOINT_PAGES = 150  # type: ignore[misc]  # checkpoints come often, as they do in a busy week
    acks = os.open(folder / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def acked(*what: Any) -> None:
        os.write(acks, (json.dumps(what) + "\n").encode())

    try:
        bench = Bench(f"sqlite:///{folder / 'main.db'}")
        runs = [bench.submitted() for _ in range(THREADS)]
    except HeliographError as error:
        print(type(error).__name__, error, flush=True)
        return 3
    failed: list[str] = []

    def work(run_id: str) -> None:
        try:
            for number in range(calls):
                first = number * EVENTS + 1
                events = tuple(task(n % 40, StateCode.SUCCESS, n) for n in range(first, first + EVENTS))
                ack = bench.store.apply_event_batch(EventBatch(run_id, 1, first, events)).result()
                acked("events", run_id, ack.acked_sequence)
                if number % 3 == 0:
                    acked("created", bench.create().run_id)
                line = number * LINES + 1
                lines = [LogLine(n, n, 20, "load", f"line {n}", -1, -1) for n in range(line, line + LINES)]
                logged = bench.store.write_log_lines(run_id, 1, lines).result()
                acked("lines", run_id, logged.acked_sequence)
        except HeliographError as error:
            failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(run.run_id,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(*sorted(set(failed)), sep="\n", flush=True)
    if failed:
        os._exit(3)
    bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
