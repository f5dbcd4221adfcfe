"""Disks that are full, fail, take half a write or none: what was acknowledged stays, and everybody says what is wrong.

The faults come from a library between real processes and the kernel (`tests.support.disk`). What the store had written
when its disk failed is then put through power losses as well.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fault.conftest import StackFactory
from tests.fault.test_power_loss import lose_power, scratch, work
from tests.support.control_plane import channel
from tests.support.disk import SHORT, Disk
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.power import crashes, examine
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import StateCode

__all__ = ["scratch"]

FAULTS = {
    "sync fails": ("sync", errno.EIO, "-wal", 1, True),
    "sync fails for good": ("sync", errno.EIO, "-wal", 0, True),
    "write fails": ("write", errno.EIO, "main.db-wal", 1, True),
    "sync fails at some time": ("sync", errno.EIO, "main.db", 1, False),
    "disk is full": ("write,create", errno.ENOSPC, "main.db", 0, True),
    "disk is full for a moment": ("write", errno.ENOSPC, "main.db-wal", 3, False),
    "file too large": ("write", errno.EFBIG, "main.db-wal", 0, True),
    "read-only": ("write,truncate,create", errno.EROFS, "main.db", 0, True),
    "half a write": ("write", SHORT, "main.db-wal", 5, False),
}
"""Operations, errno, path, how often, and whether callers must hear of it."""


def store_fails(tmp_path: Path, scratch: Path, fault: str, point: int, planted: str = "") -> None:
    """Breaks the disk under a working store, then takes its power, at the end and at points before."""
    operations, number, path, times, heard = FAULTS[fault]
    folder = tmp_path / str(point)
    (folder / "store").mkdir(parents=True)
    disk = Disk(folder / "disk", f"{folder}/store/", recording=True)
    skip = 250 + 7 * point if "write" in operations else 12 + point
    disk.fail(operations, number, path=path, skip=skip, times=times)
    changes, said = work(folder, planted=planted, calls=12, disk=disk)
    if heard and not (times == 1 and point):  # a later single sync may be a checkpoint's, of what is kept already
        assert "Unavailable" in said, "whoever was not answered heard why"
    losses = lose_power(changes, scratch, 15)
    for crash in crashes(changes, [len(changes)] * 15, seed=point):
        examine(crash, scratch, losses)
    assert (losses.lost, losses.corrupt) == (0, 0), str(losses)


@pytest.mark.parametrize("fault", FAULTS)
@forms("points", quick=1, full=50)
def test_a_store_acknowledges_nothing_that_its_disk_did_not_keep(
    tmp_path: Path, scratch: Path, fault: str, points: int, figure: Figure
) -> None:
    for point in range(points):
        store_fails(tmp_path, scratch, fault, point)
    figure(f"{fault}, at {points} points, then the power goes off: nothing acknowledged is lost")


def test_a_store_that_answers_before_its_disk_did_is_found(tmp_path: Path, scratch: Path) -> None:
    """The planted twin: what a failed sync was to keep is taken for kept."""
    with pytest.raises(AssertionError, match=r"lost what was|heard why"):
        store_fails(tmp_path, scratch, "sync fails for good", 0, planted="trust_the_cache")


# --- the control plane ----------------------------------------------------------------------------------------------

QUICK = """
from heliograph import Flow, task

@task
def step():
    return 1

with Flow("quick") as flow:
    step()
"""


def serving(stack: Stack) -> bool:
    """Asks the control plane for its health."""
    with channel(stack.address, stack.environment["HELIOGRAPH__CLIENT__TOKEN"]) as made:
        answer = health_pb2_grpc.HealthStub(made).Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def control_plane_fails(stack: Stack, disk: Disk) -> None:
    """Fills the control plane's disk and makes room again; then lets a sync fail."""
    stack.register(QUICK)
    before = stack.run("quick")
    stack.wait_for(before, StateCode.SUCCESS)

    disk.fill("heliograph.db")
    refused = stack.cli("run", "proof/quick", check=False, seconds=60)
    assert refused.returncode != 0
    assert "database did not take the change" in refused.stderr, refused.stderr
    assert stack.json("runs", "inspect", before)["state"] == "STATE_SUCCESS", "what is there can still be read"
    disk.mend()
    stack.wait_for(stack.run("quick"), StateCode.SUCCESS)

    disk.fail("sync", errno.EIO, path="heliograph.db-wal", times=1)
    broken = stack.cli("run", "proof/quick", check=False, seconds=60)
    assert "disk under the store failed" in broken.stderr, broken.stderr
    assert "restart the control plane" in broken.stderr
    wait_until(lambda: not serving(stack), "health says so")
    assert "the disk under the store failed" in stack.log("control-plane")
    again = stack.cli("run", "proof/quick", check=False, seconds=60)
    assert again.returncode != 0, "nothing is written any more, though the disk would take it"
    assert stack.json("runs", "inspect", before)["state"] == "STATE_SUCCESS"

    disk.mend()
    stack.kill_control_plane()
    stack.start_control_plane()
    assert serving(stack)
    assert stack.inspect(before).state == int(StateCode.SUCCESS)
    stack.wait_for(stack.run("quick"), StateCode.SUCCESS)


def watched(tmp_path: Path) -> Disk:
    """The disk of a stack's control plane."""
    return Disk(tmp_path / "disk", f"{tmp_path}/stack-0/control-plane/")


def test_a_control_plane_whose_disk_fails_says_so_and_starts_again_clean(
    make_stack: StackFactory, tmp_path: Path
) -> None:
    disk = watched(tmp_path)
    control_plane_fails(make_stack(environment=disk.environment), disk)


def test_a_control_plane_that_tries_a_failed_sync_again_is_found(make_stack: StackFactory, tmp_path: Path) -> None:
    """The planted twin: a failed sync is an error like any other."""
    disk = watched(tmp_path)
    with pytest.raises(AssertionError, match="disk under the store failed"):
        control_plane_fails(make_stack(environment=disk.environment, planted="try_again"), disk)
