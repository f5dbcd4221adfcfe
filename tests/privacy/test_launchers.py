"""Wherever runs are launched, the same crosses the line; and what the infrastructure is shown is what a table says.

The flows are those of `test_line.py`, with a canary in each slot; their quick form for the agent's own host is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.fault.conftest import PLANTED
from tests.privacy.judge import Findings, judge
from tests.privacy.session import Session
from tests.privacy.shown import judge_shown
from tests.privacy.slots import DEFAULT, ELSEWHERE, OPEN, SILENT, SLOTS, TEXTS, Mode
from tests.support.docker_engine import docker_engine
from tests.support.fargate.server import fargate
from tests.support.figures import Figure
from tests.support.places import PLACES, group_of
from tests.support.runtime_image import runtime_image

__all__ = ["docker_engine", "fargate", "runtime_image"]

pytestmark = pytest.mark.timeout(300)

QUICK = ("success", "fail", "cancel")
FULL = (*QUICK, "control_plane_killed")
AFTERWARDS = "retry"
"""The ending of the run that an agent with a planted leak launches."""

LEAKS = {
    "local": {"run token leaks into arguments"},
    "docker": {"run token leaks into POST /containers/create.Env[]"},
    "ecs": {"parameter_value leaks into RunTask.tags[parameters]"},
    "kubernetes": {
        "parameter_value leaks into jobs.metadata.annotations.parameters",
        "run token leaks into jobs.metadata.annotations.token",
    },
}
"""Kind to what must be found of the leak that is planted into its launcher."""


@dataclass(frozen=True)
class Launched:
    """A session whose runs are over, and what was found in it."""

    session: Session
    crossed: Findings
    shown: set[str]


def _cell(kind: str, mode: Mode, endings: tuple[str, ...], *, full: bool) -> object:
    marks = [pytest.mark.xdist_group(group_of(kind)), *([pytest.mark.full] if full else [])]
    name = f"{'full' if full else 'quick'}-{kind}-{mode.logs}-{mode.text}"
    return pytest.param((kind, mode, endings), id=name, marks=marks)


CELLS = [
    *(_cell(kind, DEFAULT, QUICK, full=kind == "local") for kind in PLACES),
    *(_cell(kind, mode, FULL, full=True) for kind in PLACES for mode in (SILENT, TEXTS, OPEN)),
]


@pytest.fixture(scope="module", params=CELLS)
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Runs that were launched by one kind of launcher, and have ended in several ways. The agent is still there."""
    kind, mode, endings = request.param
    root = tmp_path_factory.mktemp(kind)
    place = PLACES[kind](root / "place", request)
    session = Session(root / "stack", mode, None, {}, place, SLOTS if kind == "local" else ELSEWHERE)
    if place.image:
        place.tag(f"flows:{session.canaries['image']}")
    with session.running():
        session.run(endings)
        session.read_everything()
        session.collect()
        yield Launched(session, judge(session), judge_shown(session))


def test_what_crosses_is_the_same_and_no_more_is_shown_than_the_table_has(launched: Launched, figure: Figure) -> None:
    session = launched.session
    assert launched.crossed == {}
    assert launched.shown == set()
    size = sum(len(text) for _, text in session.place.shown())
    figure(
        f"{session.place.kind}, {session.mode}: {len(session.runs)} endings, {len(session.canaries.by_slot)} canaries"
        f" and tokens in {size / 1e3:,.0f} kB that the infrastructure was shown and"
        f" {sum(session.scanned_bytes.values()) / 1e6:.0f} MB of seven sinks beyond the line: as the tables have it"
    )


def test_a_launcher_that_shows_too_much_is_found(launched: Launched) -> None:
    """The planted twins."""
    session = launched.session
    session.plant(f"{session.place.kind}_leak", PLANTED)
    session.run([AFTERWARDS])
    assert judge_shown(session) - launched.shown == LEAKS[session.place.kind]
