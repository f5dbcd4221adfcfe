"""Which runs `runs ls` shows first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from heliograph.api.v1.flow_run_service_pb2 import FlowRun
from heliograph.cli.overview import overview
from heliograph.engine.codes import StateCode as S

NOW = 1_000_000


def run(name: str, state: S, due: int = 0) -> FlowRun:
    return FlowRun(run_name=name, state=int(state), scheduled_time=Timestamp(seconds=NOW + due))  # type: ignore[arg-type]


def shown(runs: list[FlowRun], limit: int = 20) -> tuple[list[str], str]:
    """Answers as the API does: those in the states, in the order of the list, as many as asked for."""

    def fetch(states: Sequence[S], most: int | None) -> list[FlowRun]:
        return [item for item in runs if item.state in {int(state) for state in states}][:most]

    found, more = overview(fetch, limit, datetime.fromtimestamp(NOW, UTC))
    return [item.run_name for item in found], more


def test_what_goes_on_and_what_is_recent_stand_before_the_future() -> None:
    future = [run(f"day-{n}", S.SCHEDULED, n * 86_400) for n in range(30, 0, -1)]
    runs = [*future, run("failed", S.FAILED), run("running", S.RUNNING), run("done", S.SUCCESS)]
    assert shown(runs) == (
        ["running", "failed", "done", "day-1", "day-2", "day-3"],
        "27 more runs are scheduled: heliograph runs ls --upcoming",
    )


def test_a_run_that_should_have_started_is_no_future() -> None:
    runs = [run("late", S.SCHEDULED, -60), run("now", S.RUNNING), run("later", S.SCHEDULED, 60)]
    assert shown(runs) == (["late", "now", "later"], "")


def test_the_limit_counts_all_rows() -> None:
    runs = [run(f"done-{n}", S.SUCCESS) for n in range(30)] + [run("later", S.SCHEDULED, 60)]
    names, more = shown(runs, 5)
    assert names == [f"done-{n}" for n in range(5)]
    assert more == "1 more run is scheduled: heliograph runs ls --upcoming"
    assert shown([run(f"on-{n}", S.RUNNING) for n in range(9)] + runs, 5)[0] == [f"on-{n}" for n in range(5)]
