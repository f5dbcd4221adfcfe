"""What is judged after a storm: a list of findings, each a sentence; empty when all promises were kept."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import create_engine, text
from tests.support.stack import PROJECT
from tests.support.storm import Storm

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.api.v1 import task_run_service_pb2 as tasks_pb
from heliograph.engine.codes import StateCode

STEPS = ("first", "second", "third", "end")


@dataclass(frozen=True)
class Judgement:
    """What was found, and the figures of the storm."""

    findings: list[str]
    figures: str


def judge(storm: Storm) -> Judgement:
    """Looks at everything that a storm has left."""
    found = list(findings(storm))
    runs = storm.runs()
    kills = ", ".join(f"{kind} {count}" for kind, count in sorted(storm.seen.kills.items()))
    crashed = sum(StateCode(run.state) is StateCode.CRASHED for run in runs)
    acked = sum("sequence" in line for line in _lines(storm))
    slowest = max((_seconds_after(storm, run) for run in runs if run.HasField("end_time")), default=0.0)
    figures = (
        f"{len(runs)} runs, {sum(storm.seen.kills.values())} kills ({kills}), seed {storm.plan.seed}: "
        f"{acked} transitions acknowledged, {crashed} runs crashed with their reason, "
        f"{len(storm.seen.ends)} ends shown to a watcher, the last run over {slowest:.0f} s after the last kill or its "
        f"start, {len(found)} findings"
    )
    return Judgement(found, figures)


def findings(storm: Storm) -> Iterator[str]:
    """Yields what is found, what takes longest to look for last. Whoever reads on to the end has the agents leave."""
    runs = {run.name.rpartition("/")[2]: run for run in storm.runs()}
    heard = _lines(storm)
    witness = [json.loads(line) for line in storm.witness.read_text().splitlines()]
    yield from storm.errors
    yield from _created(storm, runs)
    yield from _ended(storm, runs)
    yield from _soon_over(storm, runs)
    yield from _told(storm, runs)
    yield from _kept(storm, runs, [line for line in heard if "sequence" in line])
    yield from _claimed_once([line for line in heard if "lease" in line])
    yield from _one_copy(storm, runs, witness)
    yield from _made_once(storm)
    yield from (f"{one} is left" for one in storm.left())
    yield from storm.drain()
    yield from _slots(storm)


def _lines(storm: Storm) -> list[dict[str, Any]]:
    return [json.loads(line) for path in storm.heard.glob("*.jsonl") for line in path.read_text().splitlines()]


def _created(storm: Storm, runs: dict[str, pb.FlowRun]) -> list[str]:
    created = storm.seen.created
    found = [f"run {run} was created, and is lost" for run in created if run not in runs]
    if len(runs) > len(created):
        found.append(f"{len(created)} runs were asked for, {len(runs)} are there")
    return found


def _ended(storm: Storm, runs: dict[str, pb.FlowRun]) -> list[str]:
    """Every run has an end, a crash has a reason, and what nobody killed has succeeded."""
    found = []
    killed = {run for run, _ in storm.seen.killed}
    for name, run in runs.items():
        state = StateCode(run.state)
        if not state.is_finished:
            found.append(f"run {name} never ended: it is {state.name}, epoch {run.epoch}, held by {run.agent}")
        elif state is StateCode.CRASHED and not run.failure.reason:
            found.append(f"run {name} crashed without a reason")
        elif state is not StateCode.SUCCESS and name not in killed:
            found.append(f"run {name} was not killed, and is {state.name}: {run.failure}".strip())
    return found


def _seconds_after(storm: Storm, run: pb.FlowRun) -> float:
    """Returns how long after the last kill, or after its own start, a run's end was shown, or else was stored."""
    begun = run.start_time.ToNanoseconds() / 1e9
    ended = storm.seen.shown.get(run.name.rpartition("/")[2], run.end_time.ToNanoseconds() / 1e9)
    return float(ended - max(storm.seen.last_kill, begun))


def _soon_over(storm: Storm, runs: dict[str, pb.FlowRun]) -> list[str]:
    """What was killed does not keep a run for longer than the limit."""
    return [
        f"run {name} ended {seconds:.0f} s after the last kill: {StateCode(run.state).name}"
        for name, run in runs.items()
        if run.HasField("end_time") and (seconds := _seconds_after(storm, run)) > storm.plan.recovery
    ]


def _told(storm: Storm, runs: dict[str, pb.FlowRun]) -> list[str]:
    """The end that a watcher was shown is the one that is stored.

    It hears from now on: what ends while it has no control plane it is not shown. A quarter it must be shown at least.
    """
    ends = storm.seen.ends
    stored = {name: (run.epoch, int(run.state)) for name, run in runs.items()}
    found = [f"run {name} was shown to end as {end}, and is {stored.get(name)}" for name, end in ends.items()
             if stored.get(name) != end]  # fmt: skip
    finished = sum(StateCode(run.state).is_finished for run in runs.values())
    if len(ends) * 4 < finished:
        found.append(f"a watcher was shown the ends of {len(ends)} of {finished} runs")
    return found


def _kept(storm: Storm, runs: dict[str, pb.FlowRun], acked: list[dict[str, Any]]) -> list[str]:
    """What was acknowledged is stored; what was shown is not taken back."""
    found = []
    stored = _stored(storm, runs)
    newest: defaultdict[str, int] = defaultdict(int)
    for line in acked:
        name, place = line["run"], (line["epoch"], line["sequence"])
        if line["epoch"] == runs[name].epoch if name in runs else False:
            newest[name] = max(newest[name], line["sequence"])
        if "task" in line and stored.get(name, {}).get(place) != (line["task"], line["state"]):
            found.append(f"run {name}: the acknowledged event {line} is lost: {stored.get(name, {}).get(place)}")
    for name, sequence in newest.items():
        if runs[name].last_sequence < sequence:
            found.append(f"run {name}: event {sequence} was acknowledged, {runs[name].last_sequence} is the last")
        if runs[name].missing_events:
            found.append(f"run {name} has a hole of {runs[name].missing_events} events")
    for name, told in storm.seen.told.items():
        run = runs.get(name)
        if run is None or (run.epoch, run.last_sequence, int(run.state)) < told:
            found.append(f"run {name} was shown as {told}, and that was taken back")
    return found


def _stored(storm: Storm, runs: dict[str, pb.FlowRun]) -> dict[str, dict[tuple[int, int], tuple[int, int]]]:
    """Returns (task, state) by (epoch, sequence) for each run."""
    stored: dict[str, dict[tuple[int, int], tuple[int, int]]] = {}
    with storm.stack.connection() as connection:
        method = connection.services.task_runs.ListTaskRunStates
        for name in runs:
            request = tasks_pb.ListTaskRunStatesRequest(parent=f"projects/{PROJECT}/flowRuns/{name}", page_size=1000)
            records = connection.call(method, request).states
            stored[name] = {(record.epoch, record.sequence): (record.task, int(record.state)) for record in records}
    return stored


def _claimed_once(leases: list[dict[str, Any]]) -> list[str]:
    """One lease belongs to one agent; the same agent may hear of it again."""
    holders: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for line in leases:
        holders[line["run"], line["epoch"]].add(line["lease"])
    return [f"{run}, epoch {epoch}, was given to {who}" for (run, epoch), who in holders.items() if len(who) > 1]


def _one_copy(storm: Storm, runs: dict[str, pb.FlowRun], witness: list[dict[str, Any]]) -> list[str]:
    """No two copies lived at once, no attempt began twice, and what succeeded did each step once."""
    found = [f"two copies of run {line['run']} lived at once" for line in witness if line["what"] == "overlap"]
    found += [f"the flow of run {name} outlived its run's end" for name in storm.seen.survivors]
    told = Counter((line["run"], line["epoch"], line["what"]) for line in witness)
    found += [f"{what} of {run}, epoch {epoch}, happened {n} times" for (run, epoch, what), n in told.items() if n > 1]
    began = {(line["run"], line["epoch"]) for line in witness if line["what"] in ("start", "overlap")}
    again = Counter(run for run, _ in began)
    found += [
        f"the code of run {name} began in {n} attempts: one that began is never given back"
        for name, n in again.items()
        if n > 1
    ]
    for name, run in runs.items():
        if StateCode(run.state) is StateCode.SUCCESS:
            missing = [step for step in STEPS if not told[name, run.epoch, step]]
            if missing:
                found.append(f"run {name} is called a success without {missing}")
    return found


def _made_once(storm: Storm) -> list[str]:
    """The infrastructure was had to start each attempt once, also where the second one would not have begun."""
    made: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for attempt, name in storm.place.made():
        made[attempt].add(name)
    return [f"{run}, epoch {epoch}, was launched as {names}" for (run, epoch), names in made.items() if len(names) > 1]


def _slots(storm: Storm) -> list[str]:
    """Slots are live leases: none is left."""
    engine = create_engine(_driver_url(storm))
    with engine.connect() as connection:
        held = connection.scalar(text("SELECT count(*) FROM flow_runs WHERE phase IN (1, 2)"))
    engine.dispose()
    return [f"{held} slots are still taken"] if held else []


def _driver_url(storm: Storm) -> str:
    if storm.stack.database:
        return storm.stack.database.replace("postgresql://", "postgresql+psycopg://", 1)
    return f"sqlite:///{storm.stack.data / 'heliograph.db'}"
