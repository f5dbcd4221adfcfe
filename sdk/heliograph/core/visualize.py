"""Pictures of a flow: Graphviz, Mermaid and plain text, from one description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliograph.core.parameter import Parameter
from heliograph.exceptions import ConfigurationError, FlowError

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.core.task import Task
    from heliograph.engine.state import State

_MAX_CHILDREN = 200
"""Children of one mapped task that are drawn one by one; more would make a picture that nobody can read."""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing in the picture: a task, or a child of a mapped one."""

    name: str
    label: str
    mapped: bool
    parameter: bool
    state: State | None


@dataclass(frozen=True, slots=True)
class Arrow:
    """One dependency in the picture."""

    source: str
    target: str
    label: str
    mapped: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn."""

    name: str
    nodes: list[Node]
    arrows: list[Arrow]


def visualize(flow: Flow, state: State | None, filename: str | Path | None, kind: str | None, horizontal: bool) -> Any:
    """Draws a flow; see `Flow.visualize`."""
    picture = describe(flow, state)
    if kind in ("mermaid", "text"):
        text = mermaid(picture, horizontal) if kind == "mermaid" else plain_text(picture)
        if filename is not None:
            Path(filename).with_suffix(".mmd" if kind == "mermaid" else ".txt").write_text(text, encoding="utf-8")
        return text
    return _graphviz(picture, filename, kind or "pdf", horizontal)


def describe(flow: Flow, state: State | None = None) -> Picture:
    """Returns what there is to draw, tasks in order; with a state, the children of mapped tasks one by one.

    Raises:
        FlowError: The state is not one of a run of this flow.
    """
    states: dict[Task, State] = {}
    if state is not None:
        if not isinstance(state.result, dict):
            raise FlowError("this state is not that of a flow run: its result holds no states of tasks")
        states = state.result
    nodes: list[Node] = []
    names: dict[Task, list[str]] = {}
    for number, task in enumerate(flow.sorted_tasks()):
        mapped = any(edge.mapped for edge in flow.edges_to(task))
        own = states.get(task)
        children = list(getattr(own, "map_states", None) or [])[:_MAX_CHILDREN]
        suffix = " <map>" if mapped else ""
        name = f"t{number}"
        names[task] = [f"{name}_{index}" for index in range(len(children))] or [name]
        if children:
            for index, (child_name, child) in enumerate(zip(names[task], children, strict=True)):
                nodes.append(Node(child_name, f"{task.name} [{index}]", True, False, child))
        else:
            nodes.append(Node(name, f"{task.name}{suffix}", mapped, isinstance(task, Parameter), own))
    return Picture(flow.name, nodes, list(_arrows(flow, names)))


def _arrows(flow: Flow, names: dict[Task, list[str]]) -> Iterator[Arrow]:
    for edge in flow.edges:
        sources, targets = names[edge.upstream_task], names[edge.downstream_task]
        pairs = (
            zip(sources, targets, strict=False)
            if edge.mapped and len(sources) > 1 and len(targets) > 1
            else ((source, target) for source in sources for target in targets)
        )
        for source, target in pairs:
            yield Arrow(source, target, edge.key or "", edge.mapped)


def mermaid(picture: Picture, horizontal: bool = False) -> str:
    """Returns the picture as a Mermaid flowchart, which GitHub, GitLab and many editors draw."""
    lines = [f"flowchart {'LR' if horizontal else 'TD'}"]
    for node in picture.nodes:
        label = node.label.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
        opening, closing = ("([", "])") if node.parameter else ("[[", "]]") if node.mapped else ("[", "]")
        lines.append(f'    {node.name}{opening}"{label}"{closing}')
    for arrow in picture.arrows:
        line = "-.->" if arrow.mapped else "-->"
        label = f"|{arrow.label}|" if arrow.label else ""
        lines.append(f"    {arrow.source} {line}{label} {arrow.target}")
    lines += [f"    style {node.name} fill:{node.state.color}80" for node in picture.nodes if node.state is not None]
    return "\n".join(lines) + "\n"


def plain_text(picture: Picture) -> str:
    """Returns the picture as lines of text: each task, its state, and what it waits for."""
    labels = {node.name: node.label for node in picture.nodes}
    incoming: dict[str, list[Arrow]] = {node.name: [] for node in picture.nodes}
    for arrow in picture.arrows:
        incoming[arrow.target].append(arrow)
    lines = [picture.name]
    for position, node in enumerate(picture.nodes):
        last = position == len(picture.nodes) - 1
        state = f"  ({type(node.state).__name__})" if node.state is not None else ""
        lines.append(f"{'└' if last else '├'}── {node.label}{state}")
        for arrow in incoming[node.name]:
            key = f"{arrow.label} " if arrow.label else ""
            lines.append(f"{' ' if last else '│'}     {key}{'⇠' if arrow.mapped else '←'} {labels[arrow.source]}")
    return "\n".join(lines) + "\n"


def _graphviz(picture: Picture, filename: str | Path | None, kind: str, horizontal: bool) -> Any:
    try:
        import graphviz
    except ImportError as error:
        raise ImportError(
            "drawing needs the graphviz package: pip install 'heliograph[viz]';"
            ' flow.visualize(format="mermaid") and format="text" need nothing'
        ) from error
    graph = graphviz.Digraph(name=picture.name, graph_attr={"rankdir": "LR"} if horizontal else None)
    for node in picture.nodes:
        style = {"shape": "box" if node.mapped else "ellipse"}
        if node.state is not None:
            style |= {"color": f"{node.state.color}80", "style": "filled", "colorscheme": "svg"}
        graph.node(node.name, graphviz.escape(node.label), **style)
    for arrow in picture.arrows:
        graph.edge(arrow.source, arrow.target, arrow.label, style="dashed" if arrow.mapped else None)
    if filename is not None:
        try:
            graph.render(str(filename), format=kind, cleanup=True)
        except graphviz.ExecutableNotFound as error:
            raise ConfigurationError(
                "writing the picture needs the program `dot`, which is not installed",
                hint="install Graphviz (apt-get install graphviz, brew install graphviz)",
            ) from error
    return graph
