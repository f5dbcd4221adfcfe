"""The checked-in stubs load and work at the lowest and at the highest versions that pyproject.toml allows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

VERSIONS = {
    "floor": ["protobuf==6.30.0", "grpcio==1.72.2"],
    "ceiling": ["protobuf>=7,<8", "grpcio>=1.85,<2"],
}

USE = """
import importlib, pathlib
import grpc, google.protobuf
folder = pathlib.Path(__import__("heliograph.api.v1", fromlist=["v1"]).__file__).parent
for path in sorted(folder.glob("*_pb2*.py")):
    importlib.import_module(f"heliograph.api.v1.{path.stem}")
from heliograph.api.v1 import options_pb2, run_reporting_service_pb2 as api
batch = api.RunEventBatch(flow_run="projects/p/flowRuns/r", epoch=1, first_sequence=1)
batch.events.add().task_run.map_index = 7
assert api.RunEventBatch.FromString(batch.SerializeToString()) == batch
field = api.RunEventBatch.DESCRIPTOR.fields_by_name["flow_run"]
assert field.GetOptions().Extensions[options_pb2.crosses].max_bytes == 512
from heliograph.api.v1 import run_reporting_service_pb2_grpc as stubs
with grpc.insecure_channel("127.0.0.1:1") as channel:
    assert stubs.RunReportingServiceStub(channel).ReportRunEvents
print(google.protobuf.__version__, grpc.__version__)
"""


@pytest.mark.parametrize("end", VERSIONS)
def test_the_stubs_work_at(end: str, tmp_path: Path) -> None:
    """Imports every stub without a warning, and carries a message with presence and an option."""
    uv = Path(sys.executable).with_name("uv")
    command = str(uv) if uv.exists() else shutil.which("uv")
    assert command, "uv is missing: `make test` installs it into .venv"
    environment = tmp_path / end
    for arguments in (
        ["venv", "-q", "--python", sys.executable, str(environment)],
        ["pip", "install", "-q", "--python", str(environment / "bin" / "python"), *VERSIONS[end]],
    ):
        subprocess.run([command, *arguments], check=True, timeout=100)
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-W", "error", "-c", USE],
        env={**os.environ, "PYTHONPATH": str(ROOT / "sdk")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    print(f"{end}: protobuf and grpcio {done.stdout.strip()}")
