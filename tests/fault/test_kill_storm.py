"""Everything is killed while runs go on: control planes, agents, supervisors, flows, PostgreSQL."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.postgres import PostgresCluster, postgres
from tests.support.storm import storm
from tests.support.storm_checks import findings, judge
from tests.support.storm_plan import Plan

__all__ = ["postgres"]

SQLITE = {
    "quick": Plan(
        runs=100, kills={"control plane": 1, "answering control plane": 1, "agent": 3, "supervisor": 6, "flow": 6}
    ),
    "full": Plan(
        runs=2500,
        agents=4,
        kills={"control plane": 15, "answering control plane": 15, "agent": 50, "supervisor": 120, "flow": 130},
    ),
}
POSTGRESQL = {
    "quick": Plan(
        runs=200,
        control_planes=2,
        kills={
            "control plane": 2,
            "answering control plane": 2,
            "agent": 3,
            "supervisor": 9,
            "flow": 9,
            "PostgreSQL": 2,
        },
    ),
    "full": Plan(
        runs=5000,
        agents=4,
        control_planes=2,
        kills={
            "control plane": 30,
            "answering control plane": 30,
            "agent": 100,
            "supervisor": 250,
            "flow": 250,
            "PostgreSQL": 20,
        },
    ),
}


def rage(root: Path, plan: Plan, figure: Figure, cluster: PostgresCluster | None = None) -> None:
    """Lets a storm rage; nothing may be found."""
    print(f"seed {plan.seed}: {plan.schedule()}")
    with storm(root, plan, cluster=cluster) as raged:
        judgement = judge(raged)
    figure(judgement.figures)
    assert not judgement.findings, "\n".join(judgement.findings[:40])


@forms("form", quick="quick", full="full", seconds=5400, quick_seconds=300)
def test_a_storm_on_sqlite_loses_nothing_and_starts_nothing_twice(tmp_path: Path, figure: Figure, form: str) -> None:
    """One control plane."""
    rage(tmp_path, SQLITE[form], figure)


@forms("form", quick="quick", full="full", seconds=5400, quick_seconds=300)
def test_a_storm_on_postgresql_loses_nothing_and_starts_nothing_twice(
    tmp_path: Path, figure: Figure, postgres: PostgresCluster, form: str
) -> None:
    """Two control planes behind a load balancer, and the database dies, too."""
    rage(tmp_path, POSTGRESQL[form], figure, postgres)


HELD = Plan(runs=2, agents=1, held=True, daemons=1, patience=20)
TWINS = [
    # A launcher that starts anew without proof of death.
    ("storm_start_anew", replace(HELD, script=((2, "agent"),)), "began in 2"),
    # The same, and a supervisor that goes on without its lease: the flow's own lock must show it.
    ("storm_two_copies", replace(HELD, script=((2, "agent"),)), "two copies of run"),
    # A flow that does not die with its supervisor.
    ("storm_outlive", replace(HELD, script=((2, "supervisor"),)), "outlived"),
    # A daemon that left session, environment and descriptors, whose run bears no mark.
    ("storm_leave_no_mark", replace(HELD, script=((2, "supervisor"),), patience=5), "is left"),
    # An agent that forgets its journal.
    (
        "storm_forget_the_journal",
        replace(HELD, script=((2, "agent"), (2, "supervisor")), patience=5),
        "never ended",
    ),
    # An agent that tells late of what died.
    ("storm_tell_late", replace(HELD, script=((2, "supervisor"),), recovery=4), "s after the last kill"),
    # A control plane that shows watchers another end than it stores, and one that shows them none.
    ("storm_show_another_end", replace(HELD, script=((2, "flow"),)), "was shown to end as"),
    ("storm_show_no_end", replace(HELD, script=((2, "flow"),), patience=5), "a watcher was shown the ends of 0 of 2"),
    # A store that answers before it commits. Nothing but creations is written: what is written with tokens is kept.
    (
        "storm_answer_first",
        Plan(runs=2, agents=0, script=((0, "creating control plane"),), patience=60),
        "was created, and is lost",
    ),
]


FULL = ("storm_start_anew", "storm_leave_no_mark")
"""Found by the same judgement as `storm_two_copies` and `storm_outlive`."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bug", "plan", "finding"),
    [pytest.param(*twin, id=twin[0], marks=[pytest.mark.full] if twin[0] in FULL else []) for twin in TWINS],
)
def test_a_storm_finds_the_mistake(tmp_path: Path, bug: str, plan: Plan, finding: str) -> None:
    """The planted twins."""
    with storm(tmp_path, plan, planted=bug) as raged:
        found = []
        for one in findings(raged):
            found.append(one)
            if re.search(finding, one):
                return
    raise AssertionError(f"not found: {finding}, but {found}")
