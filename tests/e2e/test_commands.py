"""What people and scripts do with the command line, on a real control plane and agent."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.e2e import flows
from tests.e2e.conftest import PROJECT
from tests.support.cli import Cli
from tests.support.stack import Stack, wait_until

from heliograph.cli.boundary import run_command
from heliograph.cli.main import cli as root_command

pytestmark = pytest.mark.xdist_group("e2e-commands")

WriteFlow = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def registered(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("GREETING", "FAILING", "WAITING", "NEEDS_PARAMETER"):
        path = tmp_path_factory.mktemp(name.lower()) / "flow.py"
        path.write_text(getattr(flows, name))
        cli("register", str(path), "--project", PROJECT)


@pytest.fixture(scope="module")
def greeted(cli: Cli, registered: None) -> tuple[str, str]:
    """A finished run of the greeting flow: its id, and what `run --watch` printed."""
    done = cli("run", f"{PROJECT}/greeting", "--param", "name=Ada", "--run-name", "for-ada", "--watch")
    match = re.search(r"\(([0-9a-f-]{36})\)", done.stdout)
    assert match, done.stdout
    return match[1], done.stdout


def test_a_watched_run_shows_states_lines_tasks_and_results(greeted: tuple[str, str]) -> None:
    _, text = greeted
    assert re.search(r"flow run +Running", text)
    assert re.search(r"greet +INFO  greeting Ada", text)
    assert re.search(r"greet +Success", text)
    assert text.index("greeting Ada") < text.index("flow run  Success")
    assert "Run for-ada is Success after" in text
    table = text.split("\nTasks\n")[1].split("\n\n")[0]
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["name", "Success"], ["greet", "Success"], ["shout", "Success"],
    ]  # fmt: skip
    assert "\nTimeline\n" in text
    results = text.split("\nResults, in your own storage\n")[1]
    assert re.search(r"greet +/.*/results/greetings/Ada-", results)
    assert "Hello, Ada!" not in text


def test_output_for_scripts_is_json_of_the_api(cli: Cli, greeted: tuple[str, str]) -> None:
    run_id, _ = greeted
    run = cli.json("runs", "inspect", run_id)
    assert run["state"] == "STATE_SUCCESS"
    assert json.loads(run["parameters_json"]) == {"name": "Ada"}
    tasks = cli.json("runs", "tasks", run_id)
    assert [(t["task_slug"], t["state"]) for t in tasks if t["task_slug"].startswith("shout")] == [
        ("shout-1", "STATE_SUCCESS")
    ]
    assert any(run_id == r["name"].rpartition("/")[2] for r in cli.json("runs", "ls", "--flow", f"{PROJECT}/greeting"))
    assert any(entry["message"] == "greeting Ada" for entry in cli.json("runs", "logs", run_id))
    names = cli("runs", "ls", "-o", "name").stdout.split()
    assert run_id in names


def test_results_are_found_where_the_ledger_says(cli: Cli, greeted: tuple[str, str]) -> None:
    rows = {row["task"]: row for row in cli.json("results", "ls", greeted[0])}
    assert Path(rows["greet"]["location"]).is_file()
    assert rows["shout"]["location"] is None
    assert rows["shout"]["reason"]


def test_runs_are_found_by_id_start_of_id_and_name(cli: Cli, greeted: tuple[str, str]) -> None:
    run_id, _ = greeted
    for words in (run_id, run_id[:30], "for-ada", f"projects/{PROJECT}/flowRuns/{run_id}"):
        assert cli.json("runs", "inspect", words)["name"].endswith(run_id)


def test_registering_the_same_content_makes_no_version(cli: Cli, write_flow: WriteFlow) -> None:
    path = write_flow(flows.GREETING.replace('"greeting"', '"twice"'))
    first = cli("register", str(path), "--project", PROJECT).stdout
    assert f"Registered {PROJECT}/twice, version 1." in first
    assert "no code, no default, no value" in first
    assert "  Took     flow.py: all files but ignored ones\n" in first
    assert "Left" not in first
    assert f"{PROJECT}/twice is unchanged: version 1." in cli("register", str(path), "--project", PROJECT).stdout
    path.write_text(path.read_text() + "# changed\n")
    assert "version 2" in cli("register", str(path), "--project", PROJECT).stdout


def test_a_failed_run_ends_with_5_and_its_text_is_read_on_this_side(cli: Cli) -> None:
    done = cli("run", f"{PROJECT}/failing", "--param", "number=4711", "--watch", code=5)
    assert re.search(r"divide +Failed", done.stdout)
    assert "ValueError" in done.stdout
    assert "DE4711" not in done.stdout
    assert re.search(r"after +TriggerFailed .*not run: divide failed", done.stdout)
    assert "TRIGGERFAIL" not in done.stdout
    error_id = re.findall(r"heliograph errors show (\S+)", done.stdout)[0]
    shown = cli("errors", "show", error_id).stdout
    assert "ValueError: the account number is DE4711" in shown
    assert "Traceback" in shown
    why = cli("runs", "why", error_id.partition(".")[0]).stdout
    assert "divide" in why
    assert f"heliograph errors show {error_id}" in why
    assert "DE4711" not in why


def test_streams_for_scripts_are_lines_of_json(cli: Cli) -> None:
    done = cli("run", f"{PROJECT}/greeting", "--watch", "-o", "jsonl")
    items: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(item.get("flow_run", {}).get("state") == "STATE_SUCCESS" for item in items)
    assert any(item.get("message") == "greeting world" for item in items)
    assert items[-1]["state"] == "STATE_SUCCESS"


def test_scheduled_runs_can_be_cancelled_through_a_pipe(cli: Cli) -> None:
    run = cli.json("run", f"{PROJECT}/greeting", "--at", "2199-01-01T00:00")
    run_id = run["name"].rpartition("/")[2]
    assert "is due at 2199-01-01" in cli("runs", "why", run_id).stdout
    assert "Cancelled." in cli("runs", "cancel", "-", stdin=run_id + "\n").stdout
    assert cli.json("runs", "inspect", run_id)["state"] == "STATE_CANCELLED"


def test_a_schedule_is_paused_resumed_and_previewed(cli: Cli, write_flow: WriteFlow) -> None:
    source = flows.GREETING.replace(
        'Flow("greeting"', 'Flow("daily", schedule=CronSchedule("0 6 * * *", timezone="Europe/Berlin")'
    )
    path = write_flow("from heliograph.schedules import CronSchedule\n" + textwrap.dedent(source))
    cli("register", str(path), "--project", PROJECT, "--no-schedule")
    daily = f"{PROJECT}/daily"
    assert re.search(rf"{daily}\tcron 0 6 \* \* \* Europe/Berlin\tpaused", cli("schedules", "ls").stdout)
    assert f"The schedule of {daily} is active. Its next run is at " in cli("schedules", "resume", "daily").stdout
    assert f"heliograph schedules resume {daily}" in cli("schedules", "pause", daily).stdout
    cli("schedules", "pause", daily)
    assert cli.json("schedules", "ls", "--project", PROJECT)[0]["paused"] is True
    times = [datetime.fromisoformat(row["time"]) for row in cli.json("schedules", "preview", daily, "-n", "3")]
    assert [time.astimezone(ZoneInfo("Europe/Berlin")).hour for time in times] == [6, 6, 6]
    assert len(set(times)) == 3
    cli("schedules", "resume", f"{PROJECT}/greeting", code=3)


def test_why_names_the_label_that_no_agent_has(cli: Cli) -> None:
    run = cli.json("run", f"{PROJECT}/greeting", "--label", "gpu")
    run_id = run["name"].rpartition("/")[2]
    told = cli("runs", "why", run_id).stdout
    assert "no agent fits" in told
    assert "agent-1: lacks label gpu" in told
    assert "heliograph agent start --type local --label gpu" in told
    cli("runs", "cancel", run_id)


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_cancel_it(cli: Cli) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "heliograph.cli", "run", f"{PROJECT}/waiting", "--watch"],
        env=cli.environment, cwd=cli.cwd, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "waiting now" in line:
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    match = re.search(r"Cancel it with: heliograph runs cancel (\S+)", stderr)
    assert match, stderr
    assert "Traceback" not in stderr
    assert cli.json("runs", "inspect", match[1])["state"] == "STATE_RUNNING"
    assert "Cancelling" in cli("runs", "cancel", match[1]).stdout
    ended = cli("runs", "watch", match[1], code=5)
    assert "is Cancelled" in ended.stdout


def test_tokens_do_what_their_roles_say_until_they_are_revoked(cli: Cli, stack: Stack) -> None:
    made = cli.json("tokens", "create", "--user", "vera", "--role", "viewer", "--expires", "1h")
    vera = Cli(stack.home, HELIOGRAPH__CLIENT__ADDRESS=stack.address, HELIOGRAPH__CLIENT__TOKEN=made["secret"])
    assert vera.json("auth", "whoami")["principal"] == "users/vera"
    assert vera.json("projects", "ls")
    refused = vera("projects", "create", "mine", code=4)
    assert "whoami" in refused.stderr
    token_id = made["token"]["name"].partition("/")[2]
    assert made["secret"] not in cli("tokens", "ls", "-o", "json").stdout
    cli("tokens", "revoke", token_id)
    assert "auth login" in vera("projects", "ls", code=4).stderr
    assert re.search(rf"{token_id}\s.*revoked", cli("tokens", "ls").stdout)


def test_signing_in_keeps_the_token_for_its_address(cli: Cli, stack: Stack, tmp_path: Path) -> None:
    token = cli.environment["HELIOGRAPH__CLIENT__TOKEN"]
    other = Cli(tmp_path, HELIOGRAPH__CLIENT__ADDRESS=stack.address)
    assert "auth login" in other("projects", "ls", code=4).stderr
    assert "no token" in other("auth", "login", "--token-stdin", stdin="\n", code=2).stderr
    wrong = other("auth", "login", "--token-stdin", stdin="hg_a_" + "0" * 64, code=4)
    assert "0000" not in wrong.stderr
    told = other("auth", "login", "--token-stdin", stdin=token + "\n").stdout
    assert "as users/admin" in told
    assert token not in told
    assert other.json("projects", "ls")
    other("auth", "logout")
    other("projects", "ls", code=4)


def test_a_reader_that_closes_the_pipe_is_no_error(cli: Cli) -> None:
    done = subprocess.run(
        f"{sys.executable} -m heliograph.cli config view | head -1",
        shell=True, env=cli.environment, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_creating_a_project_says_whether_it_was_there(cli: Cli) -> None:
    assert "Project fresh is created." in cli("projects", "create", "fresh").stdout
    assert "Project fresh was there already." in cli("projects", "create", "fresh").stdout


def test_a_taken_port_is_told_once_and_in_our_words(cli: Cli, stack: Stack, tmp_path: Path) -> None:
    me = Cli(tmp_path)
    for command in (("dev",), ("server", "start")):
        done = me(*command, "--port", str(stack.port), code=2)
        assert done.stdout == ""
        told = done.stderr.splitlines()
        assert told[0] == f"Error: cannot listen on 127.0.0.1:{stack.port}: Address already in use"
        assert "--port 0" in told[1]
        assert len(told) == 2


def test_names_in_a_log_have_one_width(cli: Cli, greeted: tuple[str, str]) -> None:
    lines = cli("runs", "logs", greeted[0]).stdout.splitlines()
    assert len({re.search("(greeting Ada|Beginning|Flow run of)", item).start() for item in lines}) == 1  # type: ignore[union-attr]


BAD_INPUT = [
    (["frobnicate"], 2, "no command 'frobnicate'"),
    (["runs", "ls", "-o", "xml"], 2, "xml"),
    (["runs", "ls", "--state", "Happy"], 2, "no state 'Happy'"),
    (["run", f"{PROJECT}/greeting", "--param", "name"], 2, "not NAME=VALUE"),
    (["run", f"{PROJECT}/greeting", "--param", "nmae=x"], 2, "nmae.*\n.*name"),
    (["run", f"{PROJECT}/needy"], 2, "city.*\n.*--param city=…"),
    (["run", f"{PROJECT}/needi"], 3, f"no flow {PROJECT}/needi\n.*did you mean {PROJECT}/needy"),
    (["run", "greetin"], 3, f"no flow 'greetin'\n.*did you mean {PROJECT}/greeting"),
    (["run", f"{PROJECT}/greeting", "--param-file", "missing.json"], 2, "missing.json"),
    (["run", f"{PROJECT}/greeting", "--at", "tomorrow"], 2, "no time"),
    (["run", f"{PROJECT}/greeting", "--param", "name=" + "x" * 70_000], 2, "65,536"),
    (["run", f"{PROJECT}/nothing"], 3, "(?i)not|no"),
    (["run", "nothing"], 3, "no flow 'nothing'.*\n.*flows ls"),
    (["run", "a/b/c"], 2, "PROJECT/FLOW"),
    (["runs", "inspect", "nobody"], 3, "no run 'nobody'.*\n.*runs ls"),
    (["runs", "inspect", "00000000-0000-7000-8000-000000000000"], 3, "(?i)not|no"),
    (["runs", "cancel", "for-ada"], 6, "(?i)finished|ended|Success"),
    (["errors", "show", "nonsense"], 2, "no id of a failure"),
    (["errors", "show", "00000000-0000-7000-8000-000000000000.00000000"], 3, "(?i)not|no"),
    (["projects", "create", "a/b"], 2, "(?i)a/b|'/'|project_id"),
    (["projects", "create", "<script>"], 2, "(?i)project"),
    (["tokens", "create", "--role", "viewer"], 2, "--user NAME or --service NAME"),
    (["tokens", "create", "--user", "x", "--role", "viewer", "--expires", "soon"], 2, "no lifetime"),
    (["tokens", "revoke", "ffffffffffffffff"], 3, "(?i)not|no"),
    (["--address", "nowhere/path", "runs", "ls"], 2, "HOST:PORT"),
    (["--address", "127.0.0.1:1", "runs", "ls"], 7, "no control plane answers at 127.0.0.1:1.*\n.*server start"),
]


@pytest.mark.parametrize(("arguments", "code", "told"), BAD_INPUT, ids=[" ".join(a)[:50] for a, _, _ in BAD_INPUT])
def test_bad_input_is_answered_with_a_reason_and_a_code(
    cli: Cli,
    greeted: tuple[str, str],
    arguments: list[str],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process, through the function that ends every command: a process of its own for each would take long.
    for name in ("HELIOGRAPH_HOME", "HELIOGRAPH__CLIENT__ADDRESS", "HELIOGRAPH__CLIENT__TOKEN"):
        monkeypatch.setenv(name, cli.environment[name])
    assert run_command(root_command, arguments) == code
    done = capsys.readouterr()
    assert done.out == ""
    assert re.search(told, done.err), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("arguments", "code", "told"), BAD_INPUT[:1] + BAD_INPUT[-1:])
def test_the_process_ends_with_that_code(cli: Cli, arguments: list[str], code: int, told: str) -> None:
    done = cli(*arguments, code=code)
    assert done.stdout == ""
    assert re.search(told, done.stderr), done.stderr


BAD_FILES = {
    "syntax": ("with Flow(:\n", 1, "SyntaxError"),
    "raises": ("raise RuntimeError('no database')\n", 1, "no database"),
    "empty": ("x = 1\n", 1, "no flow"),
    "cycle": (
        """
        from heliograph import Flow, Task
        a, b = Task(name="a"), Task(name="b")
        with Flow("cycle") as flow:
            a.set_downstream(b)
            b.set_downstream(a)
        """,
        2,
        "cycle",
    ),
    "odd name": (
        """
        from heliograph import Flow, Task
        with Flow("odd") as flow:
            Task(name="<b>bold</b>")()
        """,
        2,
        "(?i)name",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_flows_that_cannot_be_registered_leave_nothing(cli: Cli, write_flow: WriteFlow, what: str) -> None:
    source, code, told = BAD_FILES[what]
    before = cli.json("flows", "ls")
    done = cli("register", str(write_flow(source)), "--project", PROJECT, code=code)
    assert re.search(told, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert cli.json("flows", "ls") == before


def test_registration_shows_what_was_left_and_warns_of_what_was_hardly_meant(cli: Cli, write_flow: WriteFlow) -> None:
    path = write_flow(flows.GREETING.replace('"greeting"', '"among-others"'))
    (path.parent / "diary.txt").write_text("private")
    (path.parent / "server.key").write_text("secret")
    told = cli("register", str(path), "--project", PROJECT).stdout
    assert re.search(r"  Left     server.key \(ignored\)", told)
    assert re.search(r"  Warning  the flow does not import diary.txt, but it was taken", told)


def test_an_unknown_project_is_told_before_anything_is_stored(cli: Cli, stack: Stack, write_flow: WriteFlow) -> None:
    storage = stack.home / "storage"
    before = sorted(storage.rglob("*"))
    done = cli("register", str(write_flow(flows.GREETING)), "--project", "nowhere", code=3)
    assert "heliograph projects create nowhere" in done.stderr
    nobody = Cli(stack.home, HELIOGRAPH__CLIENT__ADDRESS=stack.address)
    assert "auth login" in nobody("register", str(write_flow(flows.GREETING)), "--project", "nowhere", code=4).stderr
    assert sorted(storage.rglob("*")) == before


def test_one_bad_file_does_not_stop_the_others(cli: Cli, write_flow: WriteFlow) -> None:
    write_flow("import nothing_like_this\n", "a_bad.py")
    good = write_flow(flows.GREETING.replace('"greeting"', '"besides"'), "b_good.py")
    done = cli("register", str(good.parent), "--project", PROJECT, code=1)
    assert "nothing_like_this" in done.stderr
    assert f"{PROJECT}/besides" in done.stdout


def test_errors_for_scripts_are_json_too(cli: Cli) -> None:
    done = cli("runs", "inspect", "nobody", "-o", "json", code=3)
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "NOT_FOUND"
    assert error["message"]
    assert error["hint"]


def test_dev_runs_flows_in_the_open_and_ends_everything(tmp_path: Path, write_flow: WriteFlow) -> None:
    me = Cli(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "heliograph.cli", "dev", "--port", "0"],
        env=me.environment, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = ""
        for line in process.stdout:
            match = re.search(r"a control plane on (\S+) and the agent", line)
            if match:
                address = match[1]
                break
        assert address
        me.environment["HELIOGRAPH__CLIENT__ADDRESS"] = address
        # Signed in without a word: dev keeps its token where commands look.
        me("register", str(write_flow(flows.FAILING)), "--project", "dev")
        done = me("run", "dev/failing", "--param", "number=4711", "--watch", code=5)
        error_id = re.findall(r"heliograph errors show (\S+)", done.stdout)[0]
        assert "DE4711" in me("errors", "show", error_id).stdout
        run = me.json("runs", "tasks", error_id.partition(".")[0])
        assert any("DE4711" in task["failure"]["text"] for task in run if task.get("failure"))
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=40)
    assert process.returncode == 0, output
    assert "Stopped." in output
    home = str(tmp_path)
    wait_until(lambda: not processes_of(home), "no process of dev is left")


def processes_of(home: str) -> list[str]:
    """Returns the command lines of the processes whose HELIOGRAPH_HOME this is."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HELIOGRAPH_HOME") == home:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
