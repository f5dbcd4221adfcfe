"""Planted leaks, at least one for each sink: each is found where it is and nowhere else, or a clean scan means nothing.

In the quick form all of them are planted at once, and what is found must be all of them together; in the full form each
is planted alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fault.conftest import PLANTED
from tests.privacy.judge import Findings, judge
from tests.privacy.session import Session
from tests.privacy.slots import DEFAULT
from tests.support.figures import Figure
from tests.support.postgres import shared_cluster

RUN = "success"
STORES = ("sqlite", "postgresql")
OF_A_LINE = "run_config_env"

# Leak to what must be found of it, by sink. What reaches the store is in its files and in the memory, too.
LEAKS: dict[str, Findings] = {
    "code_in_memory": {"memory": {f"{RUN}.comment leaks into memory"}},
    "environment_in_a_label": {
        "messages": {f"agent_env leaks into {place}" for place in ("RegisterAgentRequest.labels", "Agent.labels")},
        "wire": {"agent_env leaks into wire"},
        "dump": {"agent_env leaks into agents.labels"},
        "database files": {"agent_env leaks into database files"},
        "memory": {"agent_env leaks into memory"},
    },
    "environment_in_a_packed_line": {
        "messages": {f"{RUN}.{OF_A_LINE} leaks into LogEntry.message"},
        "wire": {f"{RUN}.{OF_A_LINE} leaks into wire"},
        "dump": {f"{RUN}.{OF_A_LINE} leaks into log_chunks.data"},
        "database files": {f"{RUN}.{OF_A_LINE} leaks into database files"},
        "memory": {f"{RUN}.{OF_A_LINE} leaks into memory"},
    },
    "name_in_a_deleted_row": {"database files": {"asked_name leaks into database files"}},
    "parameters_in_a_column": {"dump": {f"{RUN}.parameter_value leaks into request_records.fingerprint"}},
    "parameters_in_a_file": {
        "other files": {f"{RUN}.parameter_value leaks into other files", "refused_value leaks into other files"}
    },
    "parameters_in_metadata": {
        "messages": {f"{RUN}.parameter_value leaks into metadata x-debug-bin"},
    },
    "parameters_in_the_output": {
        "output": {f"{RUN}.parameter_value leaks into output", "refused_value leaks into output"}
    },
    "secret_in_an_unknown_field": {
        "messages": {"secret_token leaks into RegisterAgentRequest unknown field 103"},
        "wire": {"secret_token leaks into wire"},
    },
    "text_in_a_frame": {
        "messages": {f"{RUN}.exception_path leaks into Frame.function"},
        "wire": {f"{RUN}.exception_path leaks into wire"},
        "dump": {f"{RUN}.exception_path leaks into task_runs.failure"},
        "database files": {f"{RUN}.exception_path leaks into database files"},
        "memory": {f"{RUN}.exception_path leaks into memory"},
    },
}

BY_CHANCE = {
    "secret_token leaks into memory", "agent_env leaks into memory",
    f"{RUN}.{OF_A_LINE} leaks into memory", f"{RUN}.exception_path leaks into memory",
}  # fmt: skip
"""What a server that had it for a moment may have overwritten, or not yet."""

SINKS = ("messages", "wire", "dump", "database files", "other files", "output", "memory")


def leaks_found(root: Path, bug: str, store: str) -> Findings:
    """Returns what the proof finds with a leak planted."""
    planted = {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": bug}
    session = Session(root, DEFAULT, shared_cluster() if store == "postgresql" else None, planted)
    with session.running():
        session.run([RUN])
        session.read_everything()
        session.collect()
    return judge(session)


def compare(found: Findings, planted: dict[str, Findings]) -> None:
    """Holds what was found against what was planted, sink by sink."""
    for sink in SINKS:
        wanted = {finding for leak in planted.values() for finding in leak.get(sink, ())}
        here = found.get(sink, set())
        assert wanted - BY_CHANCE <= here, f"{sink}: not found"
        assert here <= wanted | BY_CHANCE, f"{sink}: more than was planted"


def test_every_sink_has_a_leak() -> None:
    """There is one for each sink, and one that the sink alone can find."""
    for sink in SINKS:
        assert any(sink in leak for leak in LEAKS.values())
        if sink != "wire":  # what is on the wire is also in a message
            assert any(set(leak) == {sink} for leak in LEAKS.values()), sink


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", STORES)
def test_planted_leaks_are_found_where_they_are(tmp_path: Path, figure: Figure, store: str) -> None:
    """All at once: what is found is all of them together, and nothing else."""
    compare(leaks_found(tmp_path / "stack", "every_leak", store), LEAKS)
    figure(
        f"{store}: {len(LEAKS)} planted leaks, for each of {len(SINKS)} sinks one or more: all found, and nowhere else"
    )


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("leak", LEAKS)
def test_each_planted_leak_is_found_alone(tmp_path: Path, leak: str, store: str) -> None:
    """Each by itself makes the right sinks' comparisons fail, and no others."""
    compare(leaks_found(tmp_path / "stack", leak, store), {leak: LEAKS[leak]})
