"""What a storm is to be, what it saw, and the flow of its runs.

The schedule is made from a seed: which part dies when how many runs have begun. The witness is the flow's own code: at
its very start it takes a lock on a file of its run, and writes down that it did, or that another copy has it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

CAPACITY = 4
FLOW = '''
import fcntl, json, os, time
from heliograph import Flow, task
from heliograph.run_configs import {kind}

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
    if {every} and int(run[-1], 16) % {every} == 0:
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

with Flow("storm", run_config={run_config}) as flow:
    third(upstream_tasks=[second(upstream_tasks=[first()])])
'''


def drawn_seed() -> int:
    """Returns the seed of a storm: that of one which is to be had again, or another one each time."""
    return int(os.environ.get("HELIOGRAPH_STORM_SEED") or random.SystemRandom().randrange(1_000_000))


@dataclass(frozen=True)
class Plan:
    """What a storm is.

    Attributes:
        runs: How many runs are created.
        kills: How often each kind of part is killed. An "answering control plane" is killed right after it acknowledged
            something, a "creating control plane" right after it acknowledged a run's creation. An "attempt" is what a
            run is in: a container, a task, a pod; an "answer" is that of the infrastructure to the next launch; the
            "infrastructure" is what launches: an engine that is killed, an API that fails for a moment.
        agents: How many agents there are; without any, runs are created and never begin.
        control_planes: How many control planes there are; more than one needs PostgreSQL.
        seconds: How long each of a run's three tasks takes.
        daemons: Of so many runs one leaves a daemon behind; 0 for none.
        capacity: How many runs an agent has at once.
        held: True to let no run end before the kills are done and had their effect.
        patience: How long nothing may change before runs count as stuck.
        recovery: How many seconds after the last kill, or its own start, a run may end.
        seed: Of the schedule: another one each time, or the one in `$HELIOGRAPH_STORM_SEED`.
        script: The schedule itself, where it is not to be drawn.
    """

    runs: int
    kills: Mapping[str, int] = field(default_factory=dict)
    agents: int = 2
    control_planes: int = 1
    seconds: float = 0.05
    daemons: int = 4
    capacity: int = CAPACITY
    held: bool = False
    patience: float = 90.0
    recovery: float = 120.0
    seed: int = field(default_factory=drawn_seed)
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
        ends: The newest end, as (epoch, state), that a watcher was shown of each run.
        shown: When it was shown the first, in seconds since 1970.
        last_kill: When the last part was killed, in seconds since 1970.
        survivors: Killed supervisors' flows that lived when the end of their run was shown.
    """

    created: list[str] = field(default_factory=list)
    told: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    killed: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)
    shown: dict[str, float] = field(default_factory=dict)
    last_kill: float = 0.0
    survivors: list[str] = field(default_factory=list)
