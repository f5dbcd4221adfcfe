"""The COVID demo: as `make demo` runs it, and with everything in S3."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.covid.server import CaseServer
from tests.support.cli import REPOSITORY, Cli, environment
from tests.support.seaweed import S3Server, s3_server
from tests.support.stack import Stack, wait_until

__all__ = ["s3_server"]

pytestmark = pytest.mark.xdist_group("e2e-demo")

FLOW = (REPOSITORY / "examples" / "covid" / "flow.py").read_text()


def by_month(url: str, country: str) -> str:
    """Computes the demo's CSV on its own way: no pandas, nothing of the flow."""
    with urllib.request.urlopen(url) as response:
        records = json.load(response)["records"]
    months: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        if record["countriesAndTerritories"] == country:
            day, month, year = record["dateRep"].split("/")
            assert (day, month, year) == (record["day"], record["month"], record["year"])
            months[f"{year}-{month}"][0] += record["cases"]
            months[f"{year}-{month}"][1] += record["deaths"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["year_month", "cases", "deaths"])
    writer.writerows([month, *sums] for month, sums in sorted(months.items()))
    return text.getvalue()


@pytest.fixture(scope="module")
def s3_stack(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A control plane, and an agent that finds the S3 server."""
    stack = Stack(tmp_path_factory.mktemp("s3-stack"), environment=s3_server.environment)
    try:
        stack.start_control_plane()
        stack.start_agent()
        yield stack
    finally:
        stack.stop()


def test_bundle_and_output_in_s3_and_one_download_a_day(s3_server: S3Server, s3_stack: Stack, tmp_path: Path) -> None:
    bundles, output = s3_server.new_bucket("bundles"), s3_server.new_bucket("output")
    path = tmp_path / "flow.py"
    stored = FLOW.replace("from heliograph.tasks.aws", "from heliograph.storage import S3\nfrom heliograph.tasks.aws")
    path.write_text(stored.replace('with Flow("covid-cases", ', f'with Flow("covid-cases", storage=S3("{bundles}"), '))
    cli = Cli(s3_stack.home, cwd=tmp_path)
    cli.environment = s3_stack.environment
    cli("projects", "create", "covid")
    told = cli("register", str(path), "--project", "covid").stdout
    assert f"in s3://{bundles}/heliograph" in told
    assert "Runs on  any agent" in told

    with CaseServer() as cases:
        runs = []
        for country in ("Italy", "France"):
            done = cli(
                "run", "covid/covid-cases", "--watch", "--param", f"country={country}",
                "--param", f"url={cases.url}", "--param", f"bucket={output}",
            )  # fmt: skip
            match = re.search(r"\(([0-9a-f-]{36})\)", done.stdout)
            assert match
            runs.append(match[1])
        assert cases.requests == 1
        s3 = s3_server.client()
        for country in ("Italy", "France"):
            body = s3.get_object(Bucket=output, Key=f"covid-{country.lower()}.csv")["Body"].read().decode()
            assert body == by_month(cases.url, country)
            assert len(body.splitlines()) == 11

    states = [
        {t["task_slug"]: t["state"] for t in cli.json("runs", "tasks", run) if "map_index" not in t} for run in runs
    ]
    assert states[0]["download_cases-1"] == "STATE_SUCCESS"
    assert states[1]["download_cases-1"] == "STATE_CACHED"
    assert {state["save_to_folder-1"] for state in states} == {"STATE_SKIPPED"}
    # The ledger is beside the bundle, and read with the caller's own credentials.
    rows = {row["task"]: row for row in cli.json("results", "ls", runs[0])}
    assert Path(rows["download_cases"]["location"]).is_file()
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bundles)["Contents"]]
    assert any(key.endswith("/bundle.tar") for key in keys)
    assert any(f"/ledger/{runs[0]}/" in key for key in keys)


def start_demo(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.covid.run_demo"],
        cwd=REPOSITORY, env=environment(folder / "unused", TMPDIR=str(folder)), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def left_behind(folder: Path) -> list[str]:
    """Returns processes of the demo's folder, and its files."""
    import psutil

    found = [str(path) for path in folder.iterdir()]
    for process in psutil.process_iter():
        try:
            if process.environ().get("HELIOGRAPH_HOME", "").startswith(str(folder)):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_demo_shows_a_run_from_registration_to_output_and_cleans_up(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    for told in (
        "Registered covid/covid-cases, version 1.", "Downloaded 2", "52920 records", "flow run", "is Success after",
        "\nTasks\n", "\nTimeline\n", "\nResults, in your own storage\n", "results/download_cases-", "covid-italy.csv",
        "year_month,cases,deaths",
    ):  # fmt: skip
        assert told in output, told
    wait_until(lambda: not left_behind(tmp_path), "nothing of the demo is left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_cleans_up_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    process = start_demo(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "agent 'demo'" in line:
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    wait_until(lambda: not left_behind(tmp_path), "nothing of the demo is left")
