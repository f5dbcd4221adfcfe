"""A storm of kills over everything that runs, and what is left to judge when it is over.

What is to happen, and the flow that it happens to, are in `storm_plan.py`, the judgement in `storm_checks.py`.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tests.support.balancer import Balancer
from tests.support.places import LocalPlace, Place
from tests.support.postgres import PostgresCluster
from tests.support.stack import PROJECT, Stack, free_port, wait_until
from tests.support.storm_plan import FLOW, Plan, Seen

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.client.client import Client
from heliograph.engine.codes import StateCode
from heliograph.exceptions import HeliographError
from heliograph.storage.load import load_flows
from heliograph.storage.local import Local
from heliograph_agents import processes

PLANTED = Path(__file__).parents[1] / "fault" / "planted"
CREATE_SECONDS = 120.0
"""How long the creation of runs may go on after the last kill."""


class Storm:
    """Everything that runs, and the kills.

    Args:
        root: Folder of it all.
        plan: What to do.
        planted: A bug in every process; `listen` is none.
        cluster: PostgreSQL; None means SQLite.
        place: Where agents launch; None means on this host.
    """

    def __init__(
        self,
        root: Path,
        plan: Plan,
        *,
        planted: str = "listen",
        cluster: PostgresCluster | None = None,
        place: Place | None = None,
    ) -> None:
        self.plan, self.cluster, self.seen = plan, cluster, Seen()
        self.place = place or LocalPlace(root / "place")
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
                **self.place.environment,
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
        for folder in (self.folder, self.heard, self.stack.root / "bundles", PLANTED):
            folder.mkdir(exist_ok=True)
            self.place.share(folder)
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
                held=self.plan.held, run_config=self._run_config(), kind=self.place.run_config,
            )
        )  # fmt: skip
        [flow] = load_flows(file)
        # Containers are hosts of their own, and see this one's folders.
        bundles = self.stack.root / "bundles"
        flow.storage = Local(bundles) if self.place.kind == "local" else Local(bundles, host="")
        with Client(f"127.0.0.1:{self._balancer.port}", self.stack.environment["HELIOGRAPH__CLIENT__TOKEN"]) as client:
            client.create_project(PROJECT)
            client.register(flow, PROJECT)

    def _run_config(self) -> str:
        """Returns what flows ask for. Supervisors inherit nothing elsewhere: their Python is told what to do."""
        if self.place.kind == "local":
            return self.place.asks()
        words = [f"{name}='{self.stack.environment[name]}'"
                 for name in ("PYTHONPATH", "HELIOGRAPH_PLANTED_BUG", "HELIOGRAPH_STORM_HEARD")]  # fmt: skip
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nexport {" ".join(words)}\nexec {self.place.python} "$@"\n')
        python.chmod(0o755)
        return self.place.asks(python=str(python))

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
            f"agent-{number}", "agent", "start", "--name", f"storm-{number}", "--capacity", str(self.plan.capacity),
            *self.place.agent_arguments(f"127.0.0.1:{self._balancer.port}"), token=self._tokens[number],
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
        self.place.close()
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
        ahead = 3 * self.plan.capacity * max(1, self.plan.agents)
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
        if StateCode(run.state).is_finished:
            self.seen.ends[name] = (run.epoch, int(run.state))
            self.seen.shown.setdefault(name, time.time())
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
        elif kind == "answer":
            self.place.lose_answer()
        elif kind == "infrastructure":
            self.place.hurt()
        elif kind == "attempt" and self.place.kind != "local":
            wait_until(lambda: self._kill_place() or self._over(), "an attempt to kill", self.plan.patience)
        else:
            kind = self._chance.choice(("supervisor", "flow")) if kind == "attempt" else kind
            wait_until(lambda: self._kill_attempt(kind) or self._over(), f"a {kind} to kill", self.plan.patience)
        self.seen.kills[kind] += 1
        self.seen.last_kill = time.time()

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

    def _kill_place(self) -> bool:
        """Kills what an attempt is in that has begun, if there is one."""
        lines = [json.loads(line) for line in self.witness.read_text().splitlines()]
        ended = {(line["run"], line["epoch"]) for line in lines if line["what"] == "end"} | self.seen.killed.keys()
        begun = [(line["run"], line["epoch"]) for line in lines if line["what"] == "start"]
        live = [attempt for attempt in dict.fromkeys(begun) if attempt not in ended]
        self._chance.shuffle(live)
        for attempt in live:
            if self.place.kill(attempt):
                self.seen.killed[attempt] = (0, 0)
                return True
        return False

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

    def left(self) -> list[str]:
        """Waits until nothing is left of the runs, while the agents are there; returns what is."""
        names = {run.name.rpartition("/")[2] for run in self.runs()}
        with suppress(AssertionError):
            wait_until(lambda: not self.place.left(names), "nothing is left", self.plan.patience)
        return self.place.left(names)

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
    root: Path,
    plan: Plan,
    *,
    planted: str = "listen",
    cluster: PostgresCluster | None = None,
    place: Place | None = None,
) -> Iterator[Storm]:
    """A storm that has raged; everything of it is ended afterwards."""
    made = Storm(root, plan, planted=planted, cluster=cluster, place=place)
    try:
        made.start()
        made.rage()
        yield made
    finally:
        made.stop()
