"""One control plane, one agent, and runs that end in several ways, with a canary in each slot: what was found where."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from tests.privacy import sinks
from tests.privacy.flows import write_project
from tests.privacy.questions import ask_for_everything
from tests.privacy.sinks import Hits
from tests.privacy.slots import SLOTS, Mode, Slot
from tests.support.canary import Canaries
from tests.support.places import LocalPlace, Place
from tests.support.postgres import PostgresCluster
from tests.support.stack import Stack, wait_until
from tests.support.tap import Tap

from heliograph.api.v1.log_service_pb2 import LogEntry, LogLevel
from heliograph.engine.codes import StateCode
from heliograph.reporting.lanes import LOGS, LaneReader

WAIT_SECONDS = 180.0
FINAL = {
    "success": StateCode.SUCCESS,
    "fail": StateCode.FAILED,
    "retry": StateCode.SUCCESS,
    "cancel": StateCode.CANCELLED,
    "agent_killed": StateCode.CRASHED,
    "control_plane_killed": StateCode.SUCCESS,
}


def _last_level(outbox: Path) -> int:
    """Returns the level of the last line in an outbox; 0 when there is none."""
    last = LaneReader(outbox, LOGS).last()
    return LogEntry.FromString(last[1]).level if last is not None else 0


class Session:
    """A stack whose user's side reaches its control plane through a tap only.

    Attributes:
        canaries: Those of shared slots by the slot's name, others by `{ending}.{slot}`.
        found: Sink to what was found in it, after `collect`.
        scanned_bytes: Sink to how much was looked at.
        slots: The slots that are planted.
    """

    def __init__(
        self,
        root: Path,
        mode: Mode,
        cluster: PostgresCluster | None,
        planted: dict[str, str],
        place: Place | None = None,
        slots: Sequence[Slot] = SLOTS,
    ) -> None:
        self.place, self.slots = place or LocalPlace(root / "place"), slots
        self._shared = {slot.name for slot in slots if slot.shared}
        self.mode = mode
        self.canaries = Canaries()
        self.cluster = cluster
        self.found: dict[str, Hits] = {}
        self.scanned_bytes: dict[str, int] = {}
        self.runs: dict[str, str] = {}
        self.project = f"project-{self.canaries['project_name']}"
        self.agent_name = f"agent-{self.canaries['agent_name']}"
        # Not in the folder that the control plane starts in: Python reads the names that are there.
        self.users_root = root / "users"
        self.gate = self.users_root / "gate"
        self.gate.mkdir(parents=True)
        self.place.share(self.users_root)
        self._memory: list[tuple[str, bytes]] = []
        database = cluster.store_database() if cluster is not None else ""
        self.stack = Stack(
            root,
            database=database,
            agent_args=["--log-mode", mode.logs, "--failure-text", mode.text, "--capacity", "8",
                        "--label", f"label-{self.canaries['agent_label']}"],
            environment=planted,
        )  # fmt: skip
        self._server_environment = dict(self.stack.environment)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts control plane, tap and agent; ends all of them."""
        stack = self.stack
        try:
            self._start_control_plane()
            with Tap(stack.port) as tap:
                self.tap = tap
                stack.agents_address = f"127.0.0.1:{tap.port}"
                users = self._users_side()
                stack.environment |= self.place.environment | users
                stack.agent_args += self.place.agent_arguments(stack.agents_address)
                if self.place.kind != "local":
                    stack.agent_args += self._handed_on(users)
                stack.cli("projects", "create", self.project, "--description", self.canaries["project_description"])
                stack.start_agent(self.agent_name)
                yield
        finally:
            stack.stop()
            self.place.close()

    def _start_control_plane(self) -> None:
        """Starts it with an environment in which nothing of the user's side is."""
        stack = self.stack
        users, stack.environment = stack.environment, dict(self._server_environment)
        stack.start_control_plane()
        stack.environment = users | {"HELIOGRAPH__CLIENT__TOKEN": stack.environment["HELIOGRAPH__CLIENT__TOKEN"]}

    def _users_side(self) -> dict[str, str]:
        """The environment of everything on the user's side."""
        canary, root = self.canaries, self.users_root
        home = root / f"home-{canary['home_folder']}"
        home.mkdir()
        secrets = self.stack.home / "secrets"
        secrets.mkdir(exist_ok=True)
        (secrets / "FILED").write_text(canary["secret_file"])
        return {
            "HOME": str(home),
            "USER": canary["user_name"],
            "LOGNAME": canary["user_name"],
            "INHERITED": canary["agent_env"],
            "VARIABLE": canary["secret_variable"],
            "SERVICE_TOKEN": canary["secret_token"],
            "DATABASE_URL": f"postgresql://me:{canary['secret_url']}@db.example.invalid/x",
            "HELIOGRAPH__SECRETS__KEY": canary["secret"],
            "HELIOGRAPH__CLIENT__ADDRESS": f"127.0.0.1:{self.tap.port}",
            "HELIOGRAPH__LOGGING__EXTRA_LOGGERS": "vendor",
            "HELIOGRAPH__STORAGE__DIR": str(root / f"storage-{canary['storage_folder']}"),
            "HELIOGRAPH__RESULTS__DIR": str(root / f"results-{canary['results_folder']}"),
        }

    def _handed_on(self, users: dict[str, str]) -> list[str]:
        """What containers do not inherit, and their agent's owner gives them all the same."""
        given = {
            name: value for name, value in users.items() if name not in ("INHERITED", "HELIOGRAPH__CLIENT__ADDRESS")
        }
        given["HELIOGRAPH__SECRETS__FILED"] = self.canaries["secret_file"]
        return [word for name, value in given.items() for word in ("--env", f"{name}={value}")]

    def plant(self, bug: str, folder: Path) -> None:
        """Has the agent go, and one come that has a bug."""
        self._end_agent()
        self.stack.environment |= {"PYTHONPATH": str(folder), "HELIOGRAPH_PLANTED_BUG": bug}
        self.stack.start_agent(self.agent_name)

    # --- runs -------------------------------------------------------------------------------------------------------

    def run(self, endings: Sequence[str]) -> None:
        """Registers a flow for each ending, and runs all of them to their ends."""
        files = [self._write(ending) for ending in endings]
        self.stack.cli("register", *map(str, files), "--project", self.project)
        for ending in sorted(endings, key=list(FINAL).index):
            self._create(ending)
            if ending.endswith("_killed"):
                self._end(ending)
        for ending in endings:
            self._end(ending)

    def _write(self, ending: str) -> Path:
        root = self.users_root
        working_dir = root / f"work-{self.canaries[f'{ending}.working_folder']}"
        working_dir.mkdir()
        places = {"gate": str(self.gate), "results": str(root / "results"), "working_dir": str(working_dir)}
        folder = root / f"project-{self.canaries['project_folder']}" / ending
        return write_project(folder, self.canaries, ending, places, self._shared, self.place)

    def _create(self, ending: str) -> None:
        canary = self.canaries
        flow = f"{self.project}/flow-{canary[f'{ending}.flow_name']}"
        created = self.stack.json(
            "run", flow, "--param", f"given={canary[f'{ending}.parameter_value']}",
            "--label", f"label-{canary['agent_label']}",
            "--idempotency-key", canary["idempotency_key"],
            "--run-name", f"run-{canary[f'{ending}.run_name']}",
        )  # fmt: skip
        self.runs[ending] = created["name"].rpartition("/")[2]

    def _end(self, ending: str) -> None:
        """Brings a run to its end, once its tasks have done their work."""
        if ending not in self.runs or (self.gate / f"ended-{ending}").exists():
            return
        (self.gate / f"ended-{ending}").touch()
        run = self.runs[ending]
        here = self.gate / f"at-{ending}"
        wait_until(
            lambda: here.exists() or self._is_over(run), f"the run {ending} comes to its last task", WAIT_SECONDS
        )
        assert here.exists(), self.stack.cli("runs", "why", run).stdout + self.stack.log(self.agent_name)
        self.place.look(self.stack)
        if ending == "cancel":
            self.stack.cli("runs", "cancel", run)
        elif ending == "agent_killed":
            self._kill_agent(run)
        elif ending == "control_plane_killed":
            self._read_memory()
            self.stack.kill_control_plane()
            self._start_control_plane()
        if ending != "cancel":  # which must end it before it goes on
            (self.gate / f"go-{ending}").touch()
        self.stack.wait_for(run, FINAL[ending], seconds=WAIT_SECONDS)

    def _is_over(self, run: str) -> bool:
        return StateCode(self.stack.inspect(run).state).is_finished

    def _kill_agent(self, run: str) -> None:
        """Kills the agent and the run's supervisor; the agent that comes after it tells what they left."""
        self._end_agent()
        (path,) = self.stack.home.glob(f"agent/agents/*/runs/{run}.*/supervisor.json")
        wait_until(lambda: _last_level(path.parent / "outbox") == LogLevel.LOG_LEVEL_CRITICAL, "all lines are kept")
        psutil.Process(json.loads(path.read_text())["supervisor_pid"]).kill()
        self.stack.start_agent(self.agent_name)

    def _end_agent(self) -> None:
        agent = self.stack.agents.pop()
        agent.kill()
        agent.wait()

    # --- what was found ---------------------------------------------------------------------------------------------

    def read_everything(self) -> None:
        """Asks for all that can be asked for, with the commands that people use and by the API: answers cross, too."""
        stack, canary = self.stack, self.canaries
        ending, run = next(iter(self.runs.items()))
        for command in ("inspect", "logs", "why"):
            stack.cli("runs", command, run)
        flow = f"{self.project}/flow-{canary[f'{ending}.flow_name']}"
        stack.cli("flows", "inspect", f"{self.project}/{canary['asked_name']}", check=False)
        stack.cli("run", flow, "--param", "given=1", "--param", f"unknown={canary['refused_value']}", check=False)
        with stack.connection() as connection:
            ask_for_everything(
                connection, self.project, [f"run-{canary[f'{ending}.run_name']}" for ending in self.runs]
            )

    def collect(self) -> None:
        """Looks for every canary in every sink."""
        stack = self.stack
        self._read_memory()
        files = self.cluster.folder if self.cluster is not None else None
        places = {
            "messages": sinks.messages(self.tap),
            "wire": sinks.wire(self.tap),
            "dump": sinks.dump(stack.database, stack.data),
            "database files": sinks.database_files(stack.database, stack.data, files),
            "other files": sinks.other_files(stack.data, stack.root / "ready", *stack.root.glob("core*")),
            "output": [("output", stack.log("control-plane").encode())],
            "memory": self._memory,
        }
        for sink, found in places.items():
            pieces = list(found)
            self.scanned_bytes[sink] = sum(len(data) for _, data in pieces)
            self.found[sink] = sinks.hits(self.canaries, pieces)

    def _read_memory(self) -> None:
        assert self.stack.control_plane is not None
        self._memory += sinks.memory(self.stack.control_plane.pid)
