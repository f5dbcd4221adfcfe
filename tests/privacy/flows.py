"""The project that carries a canary in each slot of user data: one flow file per ending, and what lies around them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support.canary import Canaries
from tests.support.places import Place

FLOW = '''
"""{docstring}"""
import base64
import logging
import os
import signal
import sys
import time
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path

import heliograph
from heliograph import Flow, Parameter, case, tags, task
from heliograph.client import Secret
from heliograph.engine import signals
from heliograph.engine.results import LocalResult
from heliograph.engine.state import Failed
from heliograph.run_configs import {run_config_class}
from heliograph.schedules import Schedule
from heliograph.storage import Local
from heliograph.schedules.clocks import DatesClock
from heliograph.tasks.secrets import EnvVarSecret

from helper_{module_name} import careless

# {comment}
results = LocalResult(dir={results!r} + "/{result_dir}")
gate = Path({gate!r})
bundled = (Path(__file__).parent / "bundled.txt")


class Error_{exception_class}(Exception):
    """An exception of the flow's own."""


class Custom(Exception):
    def __init__(self, what, value):
        super().__init__(what, value)


class Shown:
    def __repr__(self):
        return "<{exception_repr}>"


def at(place):
    (gate / place).touch()


def wait(place):
    while not (gate / place).exists():
        time.sleep(0.02)


def fall(task, old, new):
    return Failed("{handler_message}") if new.is_successful() else new


def stumble(task, old, new):
    if new.is_finished():
        raise ValueError("{handler_exception}")


def trigger_{trigger_name}(upstream):
    raise signals.TRIGGERFAIL("{trigger_message}")


@task(log_stdout=True)
def speak(given, fallback):
    """{task_docstring}"""
    log = heliograph.context.logger
    log.info("{log_line}")
    log.info("given: %s", "{log_argument}")
    log.debug("{log_debug}")
    log.info("a field", extra={{"field": "{log_extra}"}})
    log.info("a stack", stack_info=True)  # {stack_line}
    logging.getLogger("heliograph.{logger_name}").info("named")
    logging.getLogger("vendor").info("{log_vendor}")
    logging.getLogger("elsewhere").warning("{log_elsewhere}")
    try:
        raise ValueError("{log_exception}")
    except ValueError as error:
        log.exception("failed")
        log.error("failed: %s", error, exc_info=True)
    warnings.warn("{warning}")
    print("{printed}")
    print("{printed_error}", file=sys.stderr)
    assert os.environ["CONFIGURED"] == "{run_config_env}"
    assert os.environ["{env_name}"]


@task
def whisper():
    print("{printed_plain}")
    key = Secret("KEY").get()
    log = heliograph.context.logger
    log.info("the key is %s, in a list %r", key, [key, {{"k": key}}])
    log.warning("encoded: %s", base64.b64encode(("user:" + key).encode()).decode())
    log.info("token %s, url %s", os.environ["SERVICE_TOKEN"], os.environ["DATABASE_URL"])
    log.info("file %s", Secret("FILED").get())
    return key


@task
def spell(value):
    heliograph.context.logger.info("from the variable: %s", value)


@task(checkpoint=True, result=results, target="{target}-{{task_name}}-{{parameters[given]}}.pickle")
def produce(given, fallback, quiet="{argument_default}"):
    """Keeps a value that nobody else may see. Its supervisor dies later: it tells nothing from here on."""
    if "{ending}" == "agent_killed":
        os.kill(os.getppid(), signal.SIGSTOP)
    kept = "{local}"
    return ["{result}", given, fallback, kept, quiet, bundled.read_text()]


@task(checkpoint=True, result=results, cache_for=timedelta(hours=1), cache_key="{cache_key}")
def remember(value):
    return "{cached_result}" + value


@task
def consume(values, constant):
    return len(values) + len(constant)


@task(task_run_name="named-{rendered_name}-{{element}}", checkpoint=True, result=results)
def each(element):
    return element


@task
def lookup():
    return {{}}


@task
def after(value):
    return value


@task(name="task-{task_name}", tags=["tag-{tag}"])
def plain(keyword_{edge_key}):
    return 1


@task(slug="slug-{slug}")
def with_slug():
    return 1


# --- failures in every shape

@task
def says_it():
    kept = "{exception_local}"
    raise ValueError("{exception_message}")


@task
def shows_it():
    raise ValueError(Shown())


@task
def caused():
    try:
        raise ValueError("{exception_cause}")
    except ValueError as error:
        raise RuntimeError("plain") from error


@task
def in_context():
    try:
        raise ValueError("{exception_context}")
    except ValueError:
        raise RuntimeError("plain")


@task
def noted():
    error = ValueError("plain")
    error.add_note("{exception_note}")
    raise error


@task
def grouped():
    raise ExceptionGroup("plain", [ValueError("{exception_group}")])


@task
def misspelt():
    compile("x = {exception_syntax} y", "text", "exec")


@task
def not_found():
    Path("/nowhere/{exception_path}").read_text()


@task
def no_key():
    return {{}}["{exception_key}"]


@task
def custom():
    raise Custom("plain", "{exception_argument}")


@task
def in_child(element):
    raise ValueError(element)


@task
def own_class():
    raise Error_{exception_class}("plain")


@task
def made_class():
    raise type("Made{exception_made_class}", (Exception,), {{}})("plain")


@task
def made_code():
    exec(compile("def made_{exception_made_name}():\\n raise ValueError\\nmade_{exception_made_name}()",
                 "{exception_made_file}.py", "exec"), {{}})


@task
def decoded():
    (b"\\xff" + b"{exception_object}").decode()


@task
def on_a_line():
    raise RuntimeError("plain")  # {source_line}


@task
def far_away():
    careless()


@task
def deep():
    def function_{function_name}():
        raise RuntimeError("plain")
    function_{function_name}()


@task(max_retries=1, retry_delay=0)
def retried(values):
    if heliograph.context.task_run_count == 1:
        raise ValueError("{retried_exception}")
    return "{retried_result}"


# --- signals

@task
def failing():
    raise signals.FAIL("{signal_fail}")


@task
def skipping():
    raise signals.SKIP("{signal_skip}")


@task
def succeeding():
    raise signals.SUCCESS("{signal_success}", result="{signal_result}")


@task
def retrying():
    if heliograph.context.task_run_count == 1:
        raise signals.RETRY("{signal_retry}")


@task
def looping():
    if heliograph.context.get("task_loop_count", 1) == 1:
        raise signals.LOOP("{signal_loop}", result="{loop_result}")


@task
def invalid():
    raise signals.VALIDATIONFAIL("{signal_invalid}")


# --- the end

@task(trigger=heliograph.triggers.all_finished, skip_on_upstream_skip=False, max_retries=1, retry_delay=0)
def end(given):
    heliograph.context.logger.critical("{last_line}")
    at("at-{ending}")
    if "{ending}" in ("cancel", "agent_killed", "control_plane_killed"):
        wait("go-{ending}")
    if "{ending}" == "fail" or ("{ending}" == "retry" and heliograph.context.task_run_count == 1):
        raise ValueError("{end_exception}")
    return "{end_result}"


far = datetime(2099, 1, 1, tzinfo=timezone.utc)
clock = DatesClock([far], parameter_defaults={{"given": "{clock_default}"}}, labels=["label-{clock_label}"])
run_config = {run_config}

with Flow("flow-{flow_name}", schedule=Schedule(clocks=[clock]), run_config=run_config, result=results) as flow:
    given = Parameter("given")
    unused = Parameter("parameter_{parameter_name}", default="{parameter_default}")
    values = produce(given, unused)
    cached = remember(values[0])
    failures = [
        speak(given, unused), whisper(), spell(EnvVarSecret("VARIABLE")), cached, remember(values[0]),
        consume(values, "{constant}"), consume(["{collected_constant}", values], "c"),
        each.map(["{mapped_element}", "b"]), after(lookup()["{index_constant}"]), plain(cached), with_slug(),
        says_it(), shows_it(), caused(), in_context(), noted(), grouped(), misspelt(), not_found(), no_key(),
        custom(), in_child.map(["{exception_element}"]), own_class(), made_class(), made_code(), decoded(),
        on_a_line(), far_away(), deep(), retried(values),
        failing(), skipping(), succeeding(), retrying(), looping(), invalid(),
        task(lambda: 1, name="fallen", state_handlers=[fall])(),
        task(lambda: 1, name="stumbled", state_handlers=[stumble])(),
        task(lambda: 1, name="triggered", trigger=trigger_{trigger_name})(),
    ]
    with case(given, "{case_constant}"):
        failures.append(after(1))
    last = end(given, upstream_tasks=failures)
    flow.set_reference_tasks([last])
    if {hostless!r}:  # containers are hosts of their own, and see this one's folders
        flow.storage = Local(host="")
'''

HELPER = """
def careless():
    raise RuntimeError("plain")
"""


def write_project(
    folder: Path, canaries: Canaries, ending: str, paths: dict[str, str], shared: set[str], place: Place
) -> Path:
    """Writes a project: the flow's file, a module and a file beside it, and the history that Git keeps of it.

    Args:
        folder: Where to.
        canaries: Where the canaries come from; those of this ending are called `{ending}.{slot}`.
        ending: How the run of it will end.
        paths: Paths in the source, by name.
        shared: Slots whose canary is the same for all endings.
        place: Where its runs are launched.
    """

    class Slots(dict[str, Any]):
        def __missing__(self, slot: str) -> str:
            return canaries[slot if slot in shared else f"{ending}.{slot}"]

    slots = Slots(paths, ending=ending)
    slots |= {
        "hostless": place.kind != "local",
        "run_config_class": place.run_config,
        "run_config": place.asks(
            env={"CONFIGURED": slots["run_config_env"], slots["env_name"]: "1"},
            labels=[f"label-{slots['agent_label']}"],
            **place.described(lambda: slots["place_label"], lambda: paths["working_dir"]),
        ),
    }
    folder.mkdir(parents=True)
    path = folder / "flow.py"
    path.write_text(FLOW.format_map(slots))
    (folder / f"helper_{slots['module_name']}.py").write_text(HELPER)
    (folder / "bundled.txt").write_text(slots["bundled_file"])
    git = ["git", "-C", str(folder), "-c", f"user.name={slots['git_author']}", "-c", "user.email=a@example.invalid"]
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://{slots['git_remote']}.example.invalid/x.git"],
        ["add", "."],
        ["commit", "-qm", slots["git_message"]],
    ):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return path
