"""What tests of repositories do: write a flow into a clone, register it, and run it as an agent does."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

from tests.support.git_http import GitRepository

from heliograph.storage import from_reference, launch_settings, load
from heliograph.storage.base import BundleRef
from heliograph.storage.cache import manifest_of
from heliograph.storage.repository import Repository

FLOW = """
from heliograph import Flow, task
from {helper} import WORD

@task
def say():
    return WORD

with Flow("say") as flow:
    say()
"""


def write_flow(repository: GitRepository, *, word: str = "one", folder: str = "", push: bool = True) -> Any:
    """Writes a flow with a helper into a clone and returns it, loaded from there."""
    name = f"helper_{uuid.uuid4().hex[:8]}"
    path = f"{folder}flow_{uuid.uuid4().hex[:8]}.py"
    repository.write({f"{folder}{name}.py": f"WORD = {word!r}\n", path: FLOW.format(helper=name)})
    if push:
        repository.commit()
    (flow,) = load.load_flows(repository.clone / path)
    return flow


def register(storage: Repository, flow: Any) -> BundleRef:
    """Does what a registration does with storage."""
    return storage.put_bundle(storage.make_bundle(flow), launch_settings(flow, storage))


def run(ref: BundleRef, cache: Path) -> Any:
    """Does what an agent does: fetches, checks, loads and runs."""
    storage = from_reference(ref.storage, ref.location, host=ref.host)
    folder = storage.fetch(ref, cache)
    for name in [name for name in sys.modules if name.startswith(("helper_", "flow_"))]:
        del sys.modules[name]  # what the registration imported
    flow = load.load_flow(folder, manifest_of(folder))
    state = flow.run()
    assert state is not None
    return state.result[next(iter(flow.tasks))].result
