"""The flow that carries one canary in each place where user data can be."""

from __future__ import annotations

from tests.support.canary import Canaries

SOURCE = '''
"""{docstring}"""
import os
import sys

import heliograph
from heliograph import Flow, Parameter, case, task
from heliograph.engine.results import LocalResult
from heliograph.run_configs import LocalRun

# {comment}
results = LocalResult(dir={results!r})


@task(checkpoint=True, result=results, target="{location}-{{task_name}}-{{parameters[given]}}.pickle")
def produce(given, fallback):
    """{task_docstring}"""
    kept = "{local}"
    heliograph.context.logger.info("{log_line}")
    print("{printed}")
    print("{printed_error}", file=sys.stderr)
    assert os.environ["CONFIGURED"] == "{run_config_env}"
    assert os.environ["INHERITED"] == "{agent_env}"
    return ["{result}", given, fallback, kept]


@task
def consume(values, constant):
    return len(values) + len(constant)


@task(task_run_name="named-{rendered_name}-{{element}}")
def each(element):
    return element


@task(max_retries=1, retry_delay=__import__("datetime").timedelta(seconds=0))
def break_down(values):
    kept = values[0]
    raise ValueError("{exception}" + kept)


@task
def lookup():
    return {{}}


@task
def after(value):
    return value


with Flow("canary", run_config=LocalRun(env={{"CONFIGURED": "{run_config_env}"}})) as flow:
    given = Parameter("given")
    fallback = Parameter("fallback", default="{parameter_default}")
    values = produce(given, fallback)
    consume(values, "{constant}")
    each.map(["{mapped_element}", "b"])
    after(break_down(values))
    after(lookup()["{index_constant}"])
    with case(given, "{case_constant}"):
        after(1)
'''

PLACES = (
    "docstring", "comment", "task_docstring", "location", "local", "log_line", "printed", "printed_error",
    "run_config_env", "agent_env", "result", "rendered_name", "exception", "parameter_default", "constant",
    "mapped_element", "index_constant", "case_constant",
)  # fmt: skip
"""The places in the source. `parameter_value` is given at the run's creation."""


def source(canaries: Canaries, results: str) -> str:
    """Returns the source with a canary in each place."""
    return SOURCE.format(results=results, **{place: canaries[place] for place in PLACES})
