"""What tests of repositories do: write a flow into a clone, register it, and run it as an agent does."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

from tests.support.git_http import GitRepository, git

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


def write_awkward_tree(repository: GitRepository) -> Any:
    """Pushes a commit of all that archives and servers treat in ways of their own, and returns its flow."""
    repository.write(
        {
            ".gitattributes": "hidden.txt export-ignore\nwhen.txt export-subst\n*.win eol=crlf\n",
            "hidden.txt": "needed", "when.txt": "$Format:%H %ad$", "a.win": "one\ntwo\n", "run.sh": "#!/bin/sh\n",
            "big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "sp ace/ü.txt": "x",
            "empty.txt": "", "deep/er/x.txt": "x", "same.txt": "x",
        }
    )  # fmt: skip
    (repository.clone / "run.sh").chmod(0o755)
    (repository.clone / "link").symlink_to("/etc/passwd")
    flow = write_flow(repository)
    git(repository.clone, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored")
    git(repository.clone, "commit", "-qm", "x")
    git(repository.clone, "push", "-q", "origin", "HEAD")
    (repository.clone / "vendored").mkdir()
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
