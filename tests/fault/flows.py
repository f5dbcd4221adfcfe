"""Sources of the flows that the fault tests run."""

from __future__ import annotations

STEPS = '''
import json, os, time
from heliograph import Flow, Parameter, task

@task
def step(witness, number, seconds):
    """Writes down that it ran, then takes its time."""
    with open(witness, "a") as file:
        file.write(json.dumps({{"step": number, "seconds": time.time(), "pid": os.getpid()}}) + "\\n")
    time.sleep(seconds)
    return number

with Flow("steps") as flow:
    witness = Parameter("witness")
    seconds = Parameter("seconds", default=0.2)
    before = None
    for number in range({count}):
        before = step(witness, number, seconds, upstream_tasks=[before] if before else None)
'''
"""A chain of steps, each of which leaves a line in a file of its own."""


def steps(count: int) -> str:
    """Returns the source of a chain of `count` steps."""
    return STEPS.format(count=count)
