"""A storm of kills over everything that runs, and what is left to judge when it is over.

The schedule is made from a seed: which part dies when how many runs have begun. The witness is the flow's own code: at
its very start it takes a lock on a file of its run, and writes down that it did, or that another copy has it.
"""

from __future__ import annotations

import glob
import json
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tests.support.balancer import Balancer
from tests.support.postgres import PostgresCluster
from tests.support.stack import PROJECT, Stack, free_port, wait_until

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.client.client import Client
from heliograph.engine.codes import StateCode
from heliograph.exceptions import HeliographError
from heliograph.storage.load import load_flows
from heliograph.storage.local import Local
from heliograph_agents import processes

PLANTED = Path(__file__).parents[1] / "fault" / "planted"
CAPACITY = 4
CREATE_SECONDS = 120.0
"""How long the creation of runs may go on after the last kill."""
FLOW = '''
import fcntl, json, os, time
from heliograph import Flow, task

FOLDER, TOKEN, SECONDS, HELD = {folder!r}, {token!r}, {seconds!r}, {held!r}
attempt = os.path.basename(os.environ.get("HELIOGRAPH_RUN_DIRECTORY", ""))
run, _, epoch = attempt.rpartition(".")

def tell(what):
    line = json.dumps({{"what": what, "run": run, "epoch": int(epoch), "pid": os.getpid()}}) + "\\n"
    file = os.open(FOLDER + "/witness", os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)

if attempt:
    lock = os.open(FOLDER + "/locks/" + run, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("overlap")
    else:
        tell("start")

def leave_a_daemon():
    """A grandchild in a session of its own, with no environment and no descriptor of the run."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 4096)
    os.execve("/bin/sleep", [TOKEN, "900"], {{}})

@task
def first():
    tell("first")
    if int(run[-1], 16) % {every} == 0:
        leave_a_daemon()
    tell("away")
    while HELD and not os.path.exists(FOLDER + "/open"):
        time.sleep(0.02)
    time.sleep(SECONDS)

@task
def second():
    tell("second")
    time.sleep(SECONDS)

@task
def third():
    tell("third")
    time.sleep(SECONDS)
    tell("end")

with Flow("storm") as flow:
    third(upstream_tasks=[second(upstream_tasks=[first()])])
'''


@dataclass(frozen=True)
class Plan:
    """What a storm is.

    Attributes:
        runs: How many runs are created.
        kills: How often each kind of part is killed. An "answering control plane" is killed right after it acknowledged
            something, a "creating control plane" right after it acknowledged a run's creation.
        agents: How many agents there are; without any, runs are created and never begin.
        control_planes: How many control planes there are; more than one needs PostgreSQL.
        seconds: How long each of a run's three tasks takes.
        daemons: Of so many runs one leaves a daemon behind.
        held: True to let no run end before the kills are done and had their effect.
        patience: How long nothing may change before runs count as stuck.
        seed: Of the schedule.
        script: The schedule itself, where it is not to be drawn.
    """

    runs: int
    kills: Mapping[str, int] = field(default_factory=dict)
    agents: int = 2
    control_planes: int = 1
    seconds: float = 0.05
    daemons: int = 4
    held: bool = False
    patience: float = 90.0
    seed: int = 1
    script: tuple[tuple[int, str], ...] = ()

    def schedule(self) -> list[tuple[int, str]]:
        """Returns (number of runs that have begun, what is killed then), in order."""
        if self.script:
            return list(self.script)
        chance = random.Random(self.seed)
        kinds = [kind for kind, count in self.kills.items() for _ in range(count)]
        # The last ones do not wait for the last runs: those that are killed very early never say that they began.
        return sorted((chance.randint(2, max(2, self.runs * 4 // 5)), kind) for kind in kinds)


@dataclass
class Seen:
    """What the storm saw.

    Attributes:
        created: Runs whose creation was acknowledged.
        told: The newest (epoch, sequence, state) that a watcher was shown of each run.
        killed: Attempts, as (run, epoch), of which a process was killed.
        kills: How many of each kind were killed.
        survivors: Killed supervisors' flows that lived when the end of their run was shown.
    """

    created: list[str] = field(default_factory=list)
    told: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    killed: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)


class Storm:
    """Everything that runs, and the kills.

    Args:
        root: Folder of it all.
        plan: What to do.
        planted: A bug in every process; `listen` is none.
        cluster: PostgreSQL; None means SQLite.
    """

    def __init__(self, root: Path, plan: Plan, *, planted: str = "listen", cluster: PostgresCluster | None = None):
        self.plan, self.cluster, self.seen = plan, cluster, Seen()
        self.token = f"storm-{uuid.uuid4().hex}"
        self.folder, self.heard = root / "witnesses", root / "heard"
        for folder in (self.folder / "locks", self.heard):
            folder.mkdir(parents=True)
        self.witness = self.folder / "witness"
        self.witness.touch()
        self.stack = Stack(
            root,
            database=cluster.store_database() if cluster else "",
            environment={
                "PYTHONPATH": str(PLANTED),
                "HELIOGRAPH_PLANTED_BUG": planted,
                "HELIOGRAPH_STORM_HEARD": str(self.heard),
            },
        )
        self._ports = [free_port() for _ in range(plan.control_planes)]
        self._balancer = Balancer(self._ports)
        self.stack.environment["HELIOGRAPH__CLIENT__ADDRESS"] = f"127.0.0.1:{self._balancer.port}"
        self._planes: list[subprocess.Popen[bytes]] = []
        self._agents: list[subprocess.Popen[bytes]] = []
        self._tokens: list[str] = []
        self._chance = random.Random(plan.seed)
        self._begun, self._offset, self._counting = 0, 0, threading.Lock()
        self._stopped = threading.Event()
        self._watching: list[Any] = []
        self.errors: list[str] = []

    # --- the parts ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts control planes and agents, and registers the flow."""
        self._planes = [self._start_plane(number) for number in range(self.plan.control_planes)]
        for number in range(self.plan.control_planes):
            self._await_plane(number)
        stack = self.stack
        stack.environment["HELIOGRAPH__CLIENT__TOKEN"] = (stack.data / "admin.token").read_text().strip()
        self._register()
        self._tokens = [stack.token(f"services/storm-{number}", "agent") for number in range(self.plan.agents)]
        self._agents = [self._start_agent(number) for number in range(self.plan.agents)]
        wait_until(lambda: len(stack.agents_seen()) == self.plan.agents, "the agents are there", 120)

    def _register(self) -> None:
        file = self.stack.root / "source" / "flow.py"
        file.parent.mkdir()
        file.write_text(
            FLOW.format(
                folder=str(self.folder), token=self.token, seconds=self.plan.seconds, every=self.plan.daemons,
                held=self.plan.held,
            )
        )  # fmt: skip
        [flow] = load_flows(file)
        flow.storage = Local(self.stack.root / "bundles")
        with Client(f"127.0.0.1:{self._balancer.port}", self.stack.environment["HELIOGRAPH__CLIENT__TOKEN"]) as client:
            client.create_project(PROJECT)
            client.register(flow, PROJECT)

    def _start_plane(self, number: int) -> subprocess.Popen[bytes]:
        (self.stack.root / f"ready-{number}").unlink(missing_ok=True)
        return self.stack.spawn(
            f"control-plane-{number}", "server", "start", "--port", str(self._ports[number]),
            "--data-dir", str(self.stack.data), "--ready-file", str(self.stack.root / f"ready-{number}"),
            *(["--database", self.stack.database] if self.stack.database else []),
        )  # fmt: skip

    def _await_plane(self, number: int) -> None:
        """Waits until it serves; one that found the database away is started again, as any unit file does."""
        ready = self.stack.root / f"ready-{number}"

        def serves() -> bool:
            if self._planes[number].poll() is not None:
                self._planes[number] = self._start_plane(number)
            return ready.exists()

        wait_until(serves, f"control plane {number} serves", 120)

    def _start_agent(self, number: int) -> subprocess.Popen[bytes]:
        return self.stack.spawn(
            f"agent-{number}", "agent", "start", "--name", f"storm-{number}", "--capacity", str(CAPACITY),
            token=self._tokens[number],
        )  # fmt: skip

    def stop(self) -> None:
        """Ends everything."""
        self._stopped.set()
        for call in self._watching:
            call.cancel()
        for process in [*self._agents, *self._planes]:
            process.kill()
            process.wait()
        self._balancer.close()
        for left in [*self.stack.processes(), *self.daemons()]:
            with suppress(psutil.NoSuchProcess):
                left.kill()

    def daemons(self) -> list[psutil.Process]:
        """Returns what flows have left behind and is alive."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if (process.info["cmdline"] or [""])[0] == self.token and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    # --- the storm ----------------------------------------------------------------------------------------------

    def rage(self) -> None:
        """Creates the runs, kills by the schedule, and waits until all is over and nothing changes any more."""
        threads = [
            threading.Thread(target=self._guard, args=(work,), daemon=True) for work in (self._create, self._watch)
        ]
        for thread in threads:
            thread.start()
        try:
            for begun, kind in self.plan.schedule():
                self._wait_for_runs(begun)
                self._kill(kind)
        except AssertionError as stuck:
            self.errors.append(str(stuck))
        for number in range(len(self._planes)):
            self._await_plane(number)
        threads[0].join(CREATE_SECONDS)
        if self.plan.held:
            with suppress(AssertionError):  # after the death of an agent alone, nothing of the kind comes
                wait_until(self._had_its_effect, "a flow begins again or its run ends", self.plan.patience)
            (self.folder / "open").touch()
        self._settle()
        self._stopped.set()
        threads[0].join(CREATE_SECONDS)

    def _had_its_effect(self) -> bool:
        """True when the runs of all killed attempts are shown as ended, or one has begun again."""
        told = [self.seen.told.get(run, (0, 0, int(StateCode.PENDING))) for run, _ in self.seen.killed]
        ended = bool(told) and all(StateCode(state).is_finished for _, _, state in told)
        return ended or self._count_begun() > self.plan.runs

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 (told to the test's own thread)
            self.errors.append(f"{work.__name__}: {type(error).__name__}: {error}")

    def _count_begun(self) -> int:
        with self._counting, self.witness.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
            self._offset += len(whole) + 1 if whole else 0
            self._begun += whole.count(b'"away"' if self.plan.held else b'"start"')
            return self._begun

    def _under_way(self) -> int:
        """Returns how many runs have begun, or were killed: perhaps before they could say that they began."""
        return self._count_begun() + len(self.seen.killed)

    def _wait_for_runs(self, count: int) -> None:
        """Waits until so many have begun."""
        wait_until(lambda: self._under_way() >= count or self.errors, f"{count} runs begin", self.plan.patience)

    def _wait_for_room(self, count: int) -> None:
        """Waits until so many have begun, or it is over."""
        wait_until(lambda: self._under_way() >= count or self._stopped.is_set(), "room", 600)

    def _create(self) -> None:
        """Creates the runs, a few ahead of what runs; each call is repeated until it is answered."""
        ahead = 3 * CAPACITY * max(1, self.plan.agents)
        with self.stack.connection() as connection:
            for number in range(self.plan.runs):
                self._wait_for_room(number - ahead)
                if self._stopped.is_set():
                    raise AssertionError(f"{number} of {self.plan.runs} runs were created when nothing went on")
                request = pb.CreateFlowRunRequest(
                    parent=f"projects/{PROJECT}", flow=f"projects/{PROJECT}/flows/storm", request_id=str(uuid.uuid4())
                )
                create = connection.services.flow_runs.CreateFlowRun
                made = self._insist(partial(connection.call, create, request))
                self.seen.created.append(made.name.rpartition("/")[2])

    def _insist(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except HeliographError as error:
                if not error.retryable or self._stopped.is_set():
                    raise
                self._stopped.wait(0.05)

    def _watch(self) -> None:
        """Keeps the newest that is shown of each run: it must never be taken back."""
        request = pb.WatchFlowRunsRequest(parent=f"projects/{PROJECT}")
        import grpc

        with self.stack.connection() as connection:
            while not self._stopped.is_set():
                call = connection.services.flow_runs.WatchFlowRuns(request)
                self._watching = [call]
                try:
                    for change in call:
                        self._note(change.flow_run)
                except grpc.RpcError:
                    self._stopped.wait(0.1)

    def _note(self, run: pb.FlowRun) -> None:
        name = run.name.rpartition("/")[2]
        now = (run.epoch, run.last_sequence, int(run.state))
        self.seen.told[name] = max(self.seen.told.get(name, now), now)
        flow = self.seen.killed.get((name, run.epoch))
        if StateCode(run.state).is_finished and flow is not None and processes.is_alive(*flow):
            self.seen.survivors.append(name)

    def _settle(self) -> None:
        """Waits until every run is finished, or nothing has changed for as long as the plan's patience."""
        if not self._agents:
            return
        last, since = (-1, -1), time.monotonic()
        while time.monotonic() - since < self.plan.patience:
            runs = self.runs()
            finished = sum(StateCode(run.state).is_finished for run in runs)
            if finished == len(runs) >= self.plan.runs:
                return
            now = (finished, sum(run.last_sequence for run in runs))
            if now != last:
                last, since = now, time.monotonic()
            self._stopped.wait(0.2)

    def runs(self) -> list[pb.FlowRun]:
        """Returns all runs as the API has them."""
        with self.stack.connection() as connection:
            request = pb.ListFlowRunsRequest(parent=f"projects/{PROJECT}", page_size=1000)
            method = connection.services.flow_runs.ListFlowRuns
            return list(self._insist(lambda: connection.pages(method, request, "flow_runs")))

    # --- kills --------------------------------------------------------------------------------------------------

    def _kill(self, kind: str) -> None:
        if kind.endswith("control plane"):
            number = self._chance.randrange(len(self._planes))
            self._await_plane(number)
            if kind != "control plane":
                self._await_acknowledgement(creation=kind == "creating control plane")
            self._planes[number].kill()
            self._planes[number].wait()
            self._planes[number] = self._start_plane(number)
        elif kind == "agent":
            number = self._chance.randrange(len(self._agents))
            self._agents[number].kill()
            self._agents[number].wait()
            self._agents[number] = self._start_agent(number)
        elif kind == "PostgreSQL":
            assert self.cluster is not None
            self.cluster.kill()
            self.cluster.start()
        else:
            wait_until(lambda: self._kill_attempt(kind) or self._over(), f"a {kind} to kill", self.plan.patience)
        self.seen.kills[kind] += 1

    def _await_acknowledgement(self, *, creation: bool) -> None:
        """Waits for the next answer that says that something is kept: of a run's creation, or also of an event."""

        def heard() -> tuple[int, int]:
            events = 0 if creation else sum(file.stat().st_size for file in self.heard.iterdir())
            return len(self.seen.created), events

        before = heard()
        wait_until(lambda: heard() != before or self._over(), "an acknowledgement", self.plan.patience)

    def _over(self) -> bool:
        """True when nothing is left to kill: the last runs were quicker than the schedule."""
        return len(self.seen.created) == self.plan.runs and self._under_way() >= self.plan.runs

    def _kill_attempt(self, kind: str) -> bool:
        """Kills the supervisor or the flow process of an attempt that runs, if there is one."""
        # Not `Path.glob`: folders vanish while it looks.
        found = glob.glob(f"{self.stack.home}/agent/agents/*/runs/*/supervisor.json")  # noqa: PTH207 (as said)
        self._chance.shuffle(found)
        for path in map(Path, found):
            with suppress(OSError, ValueError):
                if (path.parent / "exit.json").exists():
                    continue
                record = json.loads(path.read_text())
                run, _, epoch = path.parent.name.rpartition(".")
                who = "supervisor" if kind == "supervisor" else "flow"
                pid, started = record[f"{who}_pid"], record[f"{who}_start"]
                flow = (record["flow_pid"], record["flow_start"])
                if (run, int(epoch)) in self.seen.killed or not processes.is_alive(pid, started):
                    continue
                self.seen.killed[run, int(epoch)] = flow if who == "supervisor" else (0, 0)
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    # --- the end ------------------------------------------------------------------------------------------------

    def drain(self) -> list[str]:
        """Asks the agents to leave, which they do when they have no runs; returns what is left of them and of runs."""
        for agent in self._agents:
            agent.send_signal(signal.SIGTERM)
        found = []
        for number, agent in enumerate(self._agents):
            try:
                agent.wait(min(30.0, self.plan.patience))
            except subprocess.TimeoutExpired:
                found.append(f"agent {number} still holds a slot:\n{self.stack.log(f'agent-{number}')[-800:]}")
                agent.kill()
                agent.wait()
        planes = {process.pid for process in self._planes}

        def left() -> list[psutil.Process]:
            return [one for one in self.stack.processes() if one.pid not in planes and one.is_running()]

        with suppress(AssertionError):
            wait_until(lambda: not left(), "no process is left", min(30.0, self.plan.patience))
        for one in [*left(), *self.daemons()]:
            with suppress(psutil.NoSuchProcess):
                found.append(f"process {one.pid} is left: {' '.join(one.cmdline())[:200]}")
        return found


@contextmanager
def storm(
    root: Path, plan: Plan, *, planted: str = "listen", cluster: PostgresCluster | None = None
) -> Iterator[Storm]:
    """A storm that has raged; everything of it is ended afterwards."""
    made = Storm(root, plan, planted=planted, cluster=cluster)
    try:
        made.start()
        made.rage()
        yield made
    finally:
        made.stop()
