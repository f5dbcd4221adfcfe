"""What 10,000 clocks cost the scheduler: all of them new, nothing to do, and half a day later."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from tests.bench.calibration import slowness
from tests.bench.conftest import Say
from tests.contract.store.helpers import Bench, version
from tests.support.scene import graph

from heliograph.api.v1 import schedule_service_pb2 as pb
from heliograph_control_plane.loops.scheduler import Scheduler

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

FLOWS, CLOCKS = 2_000, 5
BUDGET_SECONDS = 1.0


async def test_ten_thousand_clocks(tmp_path: Path, say: Say) -> None:
    bench = Bench(f"sqlite:///{tmp_path}/clocks.db")
    empty = graph().SerializeToString()
    zones = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
    registered = []
    for flow in range(FLOWS):
        clocks = [
            pb.Clock(cron=pb.CronClock(cron=f"{flow % 60} {(flow + 5 * n) % 24} * * *", timezone=zones[flow % 4]))
            for n in range(CLOCKS)
        ]
        new = version(f"f{flow}", graph=empty, schedule=pb.ScheduleSpec(clocks=clocks).SerializeToString())
        registered.append(bench.store.register_flow_version(new))
    for done in registered:
        done.result()
    scheduler = Scheduler(bench.store)

    async def tick() -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        await scheduler.once()
        return time.process_time() - cpu, time.perf_counter() - wall

    first = await tick()
    idle = min([await tick() for _ in range(3)])
    bench.clock.advance(12 * 3_600)
    later = await tick()
    bench.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def words(spent: tuple[float, float]) -> str:
        return f"{spent[0]:.2f} s of CPU ({spent[1]:.2f} s by the clock)"

    say(
        f"{FLOWS * CLOCKS:,} clocks of {FLOWS:,} flows: a tick with nothing to do {words(idle)} (budget"
        f" {BUDGET_SECONDS:.0f} s), the first {words(first)}, half a day later {words(later)}; process {memory:.0f} MB"
        " (budget 400)"
    )
    assert idle[0] <= BUDGET_SECONDS * slowness()
    assert memory <= 400
