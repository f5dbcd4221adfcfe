"""What breaks outside of a task's own code tells no more than a task's exception does: class and place, no text."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from tests.privacy.questions import ask_for_everything
from tests.privacy.session import Session
from tests.privacy.slots import DEFAULT, OPEN, Mode
from tests.support.figures import Figure
from tests.support.stack import wait_until

from heliograph.api.v1.flow_run_service_pb2 import CreateFlowRunRequest
from heliograph.engine.codes import StateCode

HEAD = """
import os
import signal
import sys
import threading

from heliograph import Flow, task
from heliograph.engine.results import LocalResult

UNDER_AN_AGENT = "HELIOGRAPH_FLOW_RUN" in os.environ


class Broken(LocalResult):
    def write(self, value, **variables):
        raise OSError("{canary}")


class Unkept:
    def __reduce__(self):
        raise ValueError("{canary}")


class Unsaid(Exception):
    def __str__(self):
        raise ValueError("{canary}")


def stumble(*states):
    raise ValueError("{canary}")


def stumble_at_the_end(flow, old, new):
    if new.is_finished():
        raise ValueError("{canary}")


@task
def give():
    return 1


@task
def refuse():
    raise Unsaid


@task
def die():
    secret = "{canary}"
    os.kill(os.getpid(), signal.SIGKILL)


@task
def leave():
    os.write(2, b"{canary}")
    sys.exit("{canary}")


@task
def die_elsewhere():
    thread = threading.Thread(target=stumble)
    thread.start()
    thread.join()
    raise RuntimeError("plain")
"""

MAKE = {
    "load": 'if UNDER_AN_AGENT:\n    raise ValueError("{canary}")\nwith Flow("load") as flow:\n    give()',
    "load_exit": 'if UNDER_AN_AGENT:\n    sys.exit("{canary}")\nwith Flow("load_exit") as flow:\n    give()',
    "other_graph": 'with Flow("other_graph") as flow:\n    give()\n    if UNDER_AN_AGENT:\n'
    '        task(lambda: 1, name="task-{canary}")()',
    "handler": 'with Flow("handler", state_handlers=[stumble_at_the_end]) as flow:\n    give()',
    "last_handler": 'with Flow("last_handler", terminal_state_handler=stumble) as flow:\n    give()',
    "result": 'with Flow("result", result=Broken()) as flow:\n    give()',
    "pickle": 'with Flow("pickle", result=LocalResult()) as flow:\n    task(lambda: Unkept(), name="unkept")()',
    "template": 'with Flow("template") as flow:\n    task(lambda: 1, name="named", task_run_name="{{{canary}}}")()',
    "trigger": 'with Flow("trigger") as flow:\n    task(lambda: 1, name="triggered", trigger=stumble)()',
    "unsaid": 'with Flow("unsaid") as flow:\n    refuse()',
    "killed": 'with Flow("killed") as flow:\n    die()',
    "exit": 'with Flow("exit") as flow:\n    leave()',
    "thread": 'with Flow("thread") as flow:\n    die_elsewhere()',
}
"""Flow to how it is made. Each breaks in its own way, with its canary in the text."""

TOLD_IN_FULL = MAKE.keys() - {"other_graph", "unsaid", "killed", "thread"}
"""Those whose text crosses where the user's side sends everything: the proof that this test can see it."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "mode", [pytest.param(DEFAULT, id="quick"), pytest.param(OPEN, id="full", marks=pytest.mark.full)]
)
def test_what_breaks_outside_of_tasks_keeps_its_text(tmp_path: Path, figure: Figure, mode: Mode) -> None:
    """Loading, handlers, triggers, templates, results, exits and deaths."""
    session = Session(tmp_path / "stack", mode, None, {})
    stack, canary = session.stack, session.canaries
    with session.running():
        files = [session.users_root / "flows" / name / f"{name}.py" for name in MAKE]
        for name, file in zip(MAKE, files, strict=True):
            # A name that Python may have: canaries begin with a letter.
            file.parent.mkdir(parents=True)
            file.write_text((HEAD.replace("{canary}", canary[name])) + "\n\n" + MAKE[name].format(canary=canary[name]))
        stack.cli("register", *map(str, files), "--project", session.project)
        with stack.connection() as connection:
            create = connection.services.flow_runs.CreateFlowRun
            for name in MAKE:
                request = CreateFlowRunRequest(
                    parent=f"projects/{session.project}",
                    flow=f"projects/{session.project}/flows/{name}",
                    request_id=uuid.uuid4().hex,
                )
                run = connection.call(create, request).name.rpartition("/")[2]
                ended = stack.wait_for(run, StateCode.FAILED, StateCode.CRASHED, seconds=60)
                assert ended.failure.reason, name
            ask_for_everything(connection, session.project, [])
        wait_until(lambda: all(not agent.running for agent in stack.agents_seen()), "all lines are sent", 60)
        session.collect()
    found = {sink: hits.keys() & MAKE.keys() for sink, hits in session.found.items()}
    if mode is DEFAULT:
        assert {sink: slots for sink, slots in found.items() if slots} == {}
    else:
        assert found["messages"] == TOLD_IN_FULL
    figure(f"{mode}: {len(MAKE)} ways to break outside of a task; texts that crossed: {len(found['messages'])}")
