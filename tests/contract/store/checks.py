"""Checks of the store's promises that run against the real store and against variants with a planted bug.

A check raises AssertionError when the promise is broken.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

from tests.contract.store.helpers import TOKEN, Bench, flow, new_run, task, version
from tests.support import ends

from heliograph.engine.codes import StateCode
from heliograph.exceptions import LeaseLostError
from heliograph_control_plane.store import SqlStore
from heliograph_control_plane.store.records import EventBatch

_REPOSITORY = Path(__file__).parents[3]


def every_run_starts_once(bench: Bench, stores: list[SqlStore], runs: int, claimers: int) -> None:
    """Many claimers over one or more control planes: each run is accepted exactly once, under one epoch."""
    ids = [f"run-{number}" for number in range(runs)]
    created = [bench.store.create_flow_run(new_run(name)) for name in ids]
    for one in created:
        one.result()
    started: Counter[str] = Counter()
    lock = threading.Lock()

    def claim(number: int) -> None:
        store = stores[number % len(stores)]
        agent = f"agent-{number}"
        for poll in itertools.count():
            leases = store.lease_flow_runs(agent, f"{poll}", 7).result(60)
            if not leases:
                return
            accepts = [store.accept_flow_run(agent, x.flow_run.run_id, x.epoch, TOKEN) for x in leases]
            for lease, accept in zip(leases, accepts, strict=True):
                try:
                    accept.result(60)
                except LeaseLostError:
                    continue
                with lock:
                    started[lease.flow_run.run_id] += 1

    for number in range(claimers):
        bench.agent(f"agent-{number}")
    ends.together((partial(claim, number) for number in range(claimers)), seconds=600)
    assert set(started) == set(ids)
    assert set(started.values()) == {1}
    for found in bench.store.get_flow_runs(ids[:500]).result():
        assert (found.epoch, found.attempt) == (1, 1)


def claims_in_one_commit_differ(bench: Bench) -> None:
    """Claims that share a transaction never get the same run: not those that share a statement either, and not those
    whose agents fit different runs, too, and that therefore have statements of their own."""
    for number in range(4):
        own = [f"own-{number // 2}"]
        bench.store.register_flow_version(version(own[0], labels=tuple(own))).result()
        bench.agent(f"agent-{number}", own)
    for _ in range(40):
        bench.create()
    block = threading.Event()
    bench.store._write(lambda _tx: block.wait(30))  # the claims gather behind it and share the next transaction
    claims = [bench.store.lease_flow_runs(f"agent-{n}", "r", 10) for n in range(4)]
    block.set()
    given = Counter(lease.flow_run.run_id for claim in claims for lease in claim.result())
    assert set(given.values()) == {1}
    assert len(given) == 40


def an_old_writer_writes_nothing(bench: Bench) -> None:
    """After a run was leased anew, events of the old epoch change nothing."""
    run = bench.submitted()
    bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result()
    (lease,) = bench.lease()
    bench.store.accept_flow_run("a", run.run_id, lease.epoch, b"new").result()
    before = bench.get(run)
    try:
        bench.send(run, 1, flow(StateCode.RUNNING), task(0, StateCode.SUCCESS), flow(StateCode.SUCCESS))
    except LeaseLostError:
        refused = True
    else:
        refused = False
    assert bench.get(run) == before
    assert refused


def acknowledged_events_survive_a_kill(url: str, variant: str = "") -> int:
    """Kills a process (-9) that writes events, while it writes; every acknowledged one must be there. Returns how many
    were acknowledged."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_writer.py")), url, variant],
        stdout=subprocess.PIPE, cwd=_REPOSITORY, env=os.environ | {"PYTHONPATH": str(_REPOSITORY)}, text=True,
    )  # fmt: skip
    acked: dict[str, int] = {}
    silent = threading.Timer(ends.LIMIT_SECONDS, ends.kill, [process])
    silent.start()
    try:
        assert process.stdout is not None
        for count, text in enumerate(process.stdout):
            run_id, sequence = json.loads(text)
            acked[run_id] = sequence
            if count == 60:
                process.send_signal(signal.SIGKILL)
    finally:
        silent.cancel()
        ends.kill(process)
    assert process.returncode == -signal.SIGKILL
    assert count >= 60, "it was silent"
    bench = Bench(url, scene=False)
    try:
        for run_id, sequence in acked.items():
            stored = bench.get(run_id)
            states = bench.store.list_task_run_states(run_id, None, None, 100_000, "").result().items
            assert stored.last_sequence >= sequence
            assert [one.sequence for one in states] == list(range(1, stored.last_sequence + 1))
            again = bench.store.apply_event_batch(
                EventBatch(run_id, 1, stored.last_sequence + 1, (task(0, StateCode.SUCCESS),))
            )
            assert again.result().acked_sequence == stored.last_sequence + 1
    finally:
        bench.close()
    return sum(acked.values())
