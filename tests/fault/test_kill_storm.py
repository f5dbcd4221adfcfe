"""Everything is killed while runs go on: control planes, agents, supervisors, flows, PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.postgres import PostgresCluster, postgres
from tests.support.storm import Plan, storm
from tests.support.storm_checks import judge

__all__ = ["postgres"]

SQLITE = {
    "quick": Plan(runs=100, kills={"control plane": 4, "agent": 4, "supervisor": 8, "flow": 8}),
    "full": Plan(runs=2500, agents=4, kills={"control plane": 30, "agent": 50, "supervisor": 120, "flow": 130}),
}
POSTGRESQL = {
    "quick": Plan(
        runs=200,
        control_planes=2,
        kills={"control plane": 6, "agent": 5, "supervisor": 12, "flow": 12, "PostgreSQL": 3},
    ),
    "full": Plan(
        runs=5000,
        agents=4,
        control_planes=2,
        kills={"control plane": 60, "agent": 100, "supervisor": 250, "flow": 250, "PostgreSQL": 20},
    ),
}


def rage(root: Path, plan: Plan, figure: Figure, cluster: PostgresCluster | None = None) -> None:
    """Lets a storm rage; nothing may be found."""
    print(f"seed {plan.seed}: {plan.schedule()}")
    with storm(root, plan, cluster=cluster) as raged:
        judgement = judge(raged)
    figure(judgement.figures)
    assert not judgement.findings, "\n".join(judgement.findings[:40])


@pytest.mark.timeout(300)
@forms("form", quick="quick", full="full", seconds=5400)
def test_a_storm_on_sqlite_loses_nothing_and_starts_nothing_twice(tmp_path: Path, figure: Figure, form: str) -> None:
    """One control plane."""
    rage(tmp_path, SQLITE[form], figure)


@pytest.mark.timeout(300)
@forms("form", quick="quick", full="full", seconds=5400)
def test_a_storm_on_postgresql_loses_nothing_and_starts_nothing_twice(
    tmp_path: Path, figure: Figure, postgres: PostgresCluster, form: str
) -> None:
    """Two control planes behind a load balancer, and the database dies, too."""
    rage(tmp_path, POSTGRESQL[form], figure, postgres)


TWINS = [
    # A launcher that starts anew without proof of death.
    ("storm_start_anew", Plan(runs=4, held=True, patience=20, kills={"agent": 1}), "lived at once|began in 2"),
    # A store that answers before it commits.
    ("storm_answer_first", Plan(runs=10, seconds=0.2, patience=8, kills={"control plane": 3}),
     "is lost|taken back|is the last|has a hole"),
    # A flow that does not die with its supervisor.
    ("storm_outlive", Plan(runs=4, held=True, patience=8, kills={"supervisor": 2}), "outlived|is left|lived at once"),
    # A daemon that left session, environment and descriptors, whose run bears no mark.
    ("storm_leave_no_mark", Plan(runs=4, held=True, daemons=1, patience=8, kills={"supervisor": 3}), "is left"),
    # An agent that forgets its journal.
    ("storm_forget_the_journal", Plan(runs=6, held=True, patience=6, kills={"agent": 3, "supervisor": 3}),
     "never ended"),
]  # fmt: skip


QUICK_TWINS = ("storm_start_anew", "storm_leave_no_mark")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bug", "plan", "finding"),
    [pytest.param(*twin, id=twin[0], marks=() if twin[0] in QUICK_TWINS else [pytest.mark.full]) for twin in TWINS],
)
def test_a_storm_finds_the_mistake(tmp_path: Path, bug: str, plan: Plan, finding: str) -> None:
    """The planted twins."""
    with storm(tmp_path, plan, planted=bug) as raged:
        judgement = judge(raged)
    assert any(part in found for part in finding.split("|") for found in judgement.findings), judgement.findings
