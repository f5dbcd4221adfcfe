"""What reaches the control plane of runs full of canaries is exactly what the table says, however they end.

A cell is a mode of the user's side, a store and an ending. The quick form has twelve cells, in which every mode, store
and ending is found; the full form has all of every mode that there is.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.privacy import sinks
from tests.privacy.judge import judge
from tests.privacy.session import Session
from tests.privacy.slots import DEFAULT, ENDINGS, OPEN, SILENT, SLOTS, TEXTS, Mode
from tests.support.figures import Figure
from tests.support.history import task_runs
from tests.support.postgres import shared_cluster

QUICK = (
    (DEFAULT, "sqlite", ("success", "fail", "control_plane_killed")),
    (SILENT, "postgresql", ("retry", "cancel", "agent_killed")),
    (TEXTS, "postgresql", ("fail", "cancel", "control_plane_killed")),
    (OPEN, "sqlite", ("success", "retry", "agent_killed")),
)
LEVELS = ("local", "redacted", "full")
FULL = [(Mode(logs, text), store, ENDINGS) for logs in LEVELS for text in LEVELS for store in ("sqlite", "postgresql")]

SHOWS_THE_HOST = {
    "Agent.host", "RegisterAgentRequest.host", "BundleReference.host", "ExplainFlowRunResponse.required_host",
}  # fmt: skip


def _cell(mode: Mode, store: str, endings: tuple[str, ...], *, full: bool) -> object:
    marks = [pytest.mark.full, pytest.mark.timeout(900)] if full else [pytest.mark.timeout(300)]
    name = f"{'full' if full else 'quick'}-{mode.logs}-{mode.text}-{store}"
    return pytest.param(mode, store, endings, id=name, marks=marks)


CELLS = [*(_cell(*cell, full=False) for cell in QUICK), *(_cell(*cell, full=True) for cell in FULL)]


def test_the_quick_form_has_every_mode_store_and_ending() -> None:
    """None is left to the full form alone."""
    assert {mode for mode, _, _ in QUICK} == {DEFAULT, SILENT, TEXTS, OPEN}
    assert {store for _, store, _ in QUICK} == {"sqlite", "postgresql"}
    assert {ending for _, _, endings in QUICK for ending in endings} == set(ENDINGS)
    assert {mode.logs for mode, _, _ in QUICK} == {mode.text for mode, _, _ in QUICK} == set(LEVELS)


@pytest.mark.parametrize(("mode", "store", "endings"), CELLS)
def test_what_crosses_equals_the_contract(
    tmp_path: Path, figure: Figure, mode: Mode, store: str, endings: tuple[str, ...]
) -> None:
    """Nothing that must stay is in any sink; all that may cross is where the contract says, and only there."""
    cluster = shared_cluster() if store == "postgresql" else None
    session = Session(tmp_path / "stack", mode, cluster, {})
    with session.running():
        session.run(endings)
        session.read_everything()
        _texts_are_on_the_users_side(session)
        session.collect()
    assert judge(session) == {}
    said = list(sinks.messages(session.tap))
    assert {place for place, text in said if text == socket.gethostname().encode()} <= SHOWS_THE_HOST
    assert not [place for place, _ in said if "unknown field" in place]

    planted = {slot.name for slot in SLOTS if slot.shared} | {
        f"{ending}.{slot.name}" for ending in endings for slot in SLOTS if not slot.shared
    }
    assert session.canaries.by_slot.keys() == planted, "every slot of the table is planted, and no other"
    crossed = sum(slot in session.found["wire"] for slot in planted)
    sizes = ", ".join(f"{sink} {size / 1e6:.1f} MB" for sink, size in session.scanned_bytes.items())
    figure(
        f"{mode}, {store}: {len(endings)} endings, {len(planted)} canaries, {crossed} crossed and are in the table,"
        f" {len(planted) - crossed} stayed; looked through {sizes}"
    )


def _texts_are_on_the_users_side(session: Session) -> None:
    """What does not cross is not lost: who may read the user's storage sees it."""
    ending, run = next(iter(session.runs.items()))
    found = {task_run.task_slug: task_run for task_run in task_runs(session.stack, run, session.project)}
    failed = found["says_it-1"]
    assert failed.failure.exception_class == "builtins.ValueError"
    assert failed.failure.frames[-1].function == "says_it"
    told = session.stack.cli("errors", "show", failed.failure.error_id).stdout
    assert session.canaries[f"{ending}.exception_message"] in told
