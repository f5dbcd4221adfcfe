"""Sources of flows that the tests register."""

GREETING = """
from heliograph import Flow, Parameter, context, task
from heliograph.engine.results import LocalResult


@task(result=LocalResult(), checkpoint=True, target="greetings/{name}-{flow_run_id}")
def greet(name):
    context.logger.info("greeting %s", name)
    return f"Hello, {name}!"


@task
def shout(text):
    return text.upper()


with Flow("greeting") as flow:
    shout(greet(Parameter("name", default="world")))
"""

FAILING = """
from heliograph import Flow, Parameter, task


@task
def divide(number):
    raise ValueError(f"the account number is DE{number}")


@task
def after(value):
    return value


with Flow("failing") as flow:
    after(divide(Parameter("number", default=7)))
"""

WAITING = """
import time
from heliograph import Flow, context, task


@task
def wait():
    context.logger.info("waiting now")
    time.sleep(120)


with Flow("waiting") as flow:
    wait()
"""

NEEDS_PARAMETER = """
from heliograph import Flow, Parameter, task


@task
def use(value):
    return value


with Flow("needy") as flow:
    use(Parameter("city"))
"""
