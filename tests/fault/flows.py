"""Sources of the flows that the fault tests run."""

from __future__ import annotations

STEPS = '''
import json, os, time
from heliograph import Flow, Parameter, task

@task
def step(witness, number, seconds, gate=""):
    """Writes down that it ran, then takes its time, and waits for a file where it is to."""
    with open(witness, "a") as file:
        file.write(json.dumps({{"step": number, "seconds": time.time(), "pid": os.getpid()}}) + "\\n")
    time.sleep(seconds)
    while gate and not os.path.exists(gate):
        time.sleep(0.02)
    return number

with Flow("steps") as flow:
    witness = Parameter("witness")
    seconds = Parameter("seconds", default=0.2)
    gate = Parameter("gate", default="")
    before = None
    for number in range({count}):
        last = number == {count} - 1
        before = step(witness, number, seconds, gate if last else "", upstream_tasks=[before] if before else None)
'''
"""A chain of steps, each of which leaves a line in a file of its own. The last one ends when the gate is there."""


def steps(count: int) -> str:
    """Returns the source of a chain of `count` steps."""
    return STEPS.format(count=count)
