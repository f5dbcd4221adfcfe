"""What `import heliograph` costs and offers."""

import json
import subprocess
import sys
from pathlib import Path

import heliograph

HEAVY = {
    "boto3", "botocore", "click", "cloudpickle", "croniter", "cryptography", "dask", "docker", "google.protobuf",
    "graphviz", "grpc", "kubernetes", "pandas", "sqlalchemy", "structlog",
}  # fmt: skip

EXPORTS = [
    "Client", "DateTimeParameter", "Edge", "FilterTask", "Flow", "Parameter", "Task", "apply_map", "case", "config",
    "context", "flatten", "ifelse", "mapped", "merge", "switch", "tags", "task", "triggers", "unmapped",
]  # fmt: skip

AUTHORING = """
from heliograph import Flow, Parameter, case, merge, task, unmapped
from heliograph.schedules import Schedule, IntervalSchedule
@task
def add(x, y): return x + y
with Flow("f") as flow:
    add.map([1, 2], y=unmapped(Parameter("p")))
flow.validate()
"""


def measure(code):
    """Runs code in a fresh interpreter; returns its CPU seconds beyond an empty one, and its modules."""
    report = "import json, resource, sys; u = resource.getrusage(resource.RUSAGE_SELF); "
    report += "print(json.dumps([u.ru_utime + u.ru_stime, sorted(sys.modules)]))"

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True
        )
        seconds, modules = json.loads(done.stdout)
        return seconds, set(modules)

    base = min(run("")[0] for _ in range(3))
    results = [run(code) for _ in range(3)]
    return min(seconds for seconds, _ in results) - base, results[0][1]


def test_importing_costs_little_and_loads_nothing_heavy():
    seconds, modules = measure("import heliograph")
    assert not modules & HEAVY
    assert "heliograph.core" not in modules
    assert seconds <= 0.25


def test_building_a_flow_loads_nothing_heavy():
    seconds, modules = measure(AUTHORING)
    assert not modules & HEAVY
    assert seconds <= 0.5


def test_the_public_names_are_pinned():
    assert sorted(heliograph.__all__) == EXPORTS
    for name in EXPORTS:
        assert getattr(heliograph, name) is not None
    assert set(EXPORTS) <= set(dir(heliograph))


def test_the_context_is_the_object_and_not_its_module():
    import importlib

    module = importlib.import_module("heliograph.context")
    assert heliograph.context is module.context


def test_an_unknown_name_is_an_attribute_error():
    try:
        heliograph.Workflow  # noqa: B018
    except AttributeError as error:
        assert "Workflow" in str(error)  # noqa: PT017
    else:
        raise AssertionError


def test_every_module_and_public_name_can_be_the_first_to_be_imported():
    # One process, forked per import: each starts with nothing of the product loaded.
    program = f"""
import os, sys, traceback
import click, grpc, google.protobuf
root = {str(Path(heliograph.__file__).parent)!r}
modules = []
for folder, _, files in os.walk(root):
    package = ".".join(["heliograph", *os.path.relpath(folder, root).split(os.sep)]).removesuffix("..")
    if ".api" in package or ".cli" in package:
        continue
    modules += [f"{{package}}.{{f[:-3]}}".removesuffix(".__init__") for f in files if f.endswith(".py")]
statements = [f"import {{m}}" for m in modules] + [f"from heliograph import {{n}}" for n in {EXPORTS!r}]
assert len(statements) > 80
for statement in statements:
    child = os.fork()
    if not child:
        try:
            exec(statement)
        except BaseException:
            print(statement)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {{statement}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
