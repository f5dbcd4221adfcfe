"""A process that writes events until it is killed, and prints each acknowledgement when it has it."""

from __future__ import annotations

import json
import sys
import threading

from tests.contract.store.helpers import Bench, task
from tests.contract.store.variants import AckBeforeCommitStore, opener

from heliograph.engine.codes import StateCode
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.records import EventBatch


def main(url: str, variant: str) -> None:
    """Writes events of four runs at once."""
    bench = Bench(url, opener=opener(AckBeforeCommitStore) if variant else open_store)
    runs = [bench.submitted() for _ in range(4)]
    lock = threading.Lock()

    def write(run_id: str) -> None:
        for first in range(1, 1_000_000, 3):
            events = tuple(task(n, StateCode.SUCCESS, n) for n in range(first, first + 3))
            ack = bench.store.apply_event_batch(EventBatch(run_id, 1, first, events)).result()
            with lock:
                print(json.dumps([run_id, ack.acked_sequence]), flush=True)

    threads = [threading.Thread(target=write, args=(run.run_id,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
