"""The compiled graph."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from heliograph.core.edge import Edge
from heliograph.core.flow import Flow
from heliograph.core.parameter import Parameter
from heliograph.core.task import Task
from heliograph.engine.graph import compile_flow
from heliograph.exceptions import CycleError, DuplicateSlugError
from heliograph.utilities.edges import unmapped
from heliograph.utilities.tasks import task


def diamond(order: int = 1) -> Flow:
    one = task(lambda: 1, name="one")
    inc = task(lambda x: x, name="inc")
    add = task(lambda x, y, z: (x, y, z), name="add")
    with Flow("diamond") as flow:
        p = Parameter("p", default=1)
        a = one()
        branches = [inc(a), inc(p)]
        add.map(branches[0], y=unmapped(branches[1]), z=unmapped(7))
    return flow


def test_numbers_are_topological_and_ties_go_by_slug() -> None:
    graph = compile_flow(diamond())
    assert graph.slugs == ("one-1", "inc-1", "p", "inc-2", "add-1")
    assert [[i.upstream for i in inputs] for inputs in graph.inputs] == [[], [0], [], [2], [1, 3]]
    assert graph.downstream == ((1,), (4,), (3,), (4,), ())
    assert graph.mapped == (False, False, False, False, True)
    assert graph.constants[4] == {"z": 7}
    assert dict(graph.parameters) == {"p": 2}
    assert graph.required_parameters == frozenset()
    assert graph.reference_tasks == (4,)
    assert all(graph.index[t] == number for number, t in enumerate(graph.tasks))


def test_the_hash_is_the_same_in_every_process() -> None:
    here = compile_flow(diamond()).graph_hash()
    code = "from tests.unit.engine.test_graph import diamond, compile_flow; print(compile_flow(diamond()).graph_hash())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {here}
    assert here.startswith("sha256:")
    assert len(here) == 71


def test_the_hash_sees_slugs_edges_keys_and_parameters() -> None:
    def build(name: str = "b", key: str = "x", mapped: bool = False, parameter: str = "p") -> str:
        with Flow("f") as flow:
            p = Parameter(parameter)
            b = task(lambda x, y=None: (x, y), name=name)
            b.map(**{key: p}) if mapped else b(**{key: p})
        return compile_flow(flow).graph_hash()

    variants = [build(), build(name="c"), build(mapped=True), build(parameter="q")]
    assert len(set(variants)) == 4
    assert build() == build()


def stand_in(edges: list[tuple[str, str]], slugs: dict[str, str] | None = None) -> Any:
    """A flow that a builder would refuse: the engine does not trust pickles either."""
    tasks = {name: Task(name=name) for edge in edges for name in edge}
    return SimpleNamespace(
        slugs={t: (slugs or {}).get(name, name) for name, t in tasks.items()},
        edges={Edge(tasks[a], tasks[b]) for a, b in edges},
        constants={},
        parameters=set,
        reference_tasks=set,
    )


def test_cycles_are_named() -> None:
    with pytest.raises(CycleError, match=r"b -> c -> d -> b|c -> d -> b -> c|d -> b -> c -> d"):
        compile_flow(stand_in([("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("d", "e")]))


def test_duplicate_slugs_are_named() -> None:
    with pytest.raises(DuplicateSlugError, match="same"):
        compile_flow(stand_in([("a", "b")], {"a": "same", "b": "same"}))
