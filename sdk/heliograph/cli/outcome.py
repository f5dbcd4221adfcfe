"""What a finished run leaves to tell: its tasks, its Gantt chart, its failures, and where its results are."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from heliograph.cli.report import (
    TASK_COLUMNS,
    failures,
    gantt_lines,
    reason_lines,
    run_id,
    run_length,
    task_rows,
)
from heliograph.cli.states import state_color, state_name
from heliograph.cli.table import Column, render_table
from heliograph.cli.text import clean, paint, terminal_columns, use_color
from heliograph.cli.times import size
from heliograph.client.refs import task_labels
from heliograph.exceptions import HeliographError

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2
    from heliograph.cli.session import Session

MAX_FAILURES = 5


def print_outcome(session: Session, run: flow_run_service_pb2.FlowRun) -> None:
    """Prints what a run did, for people."""
    color = use_color(session.color, sys.stdout)
    columns = min(terminal_columns(sys.stdout), 140)
    tasks = session.client.list_task_runs(run.name)
    graph = session.client.get_flow_version(run.flow_version).graph
    labels = task_labels(graph)
    length = run_length(run)
    state = paint(state_name(run.state), state_color(run.state), color)
    print(f"\nRun {clean(run.run_name)} is {state}{f' after {length}' if length else ''}.")
    for line in reason_lines(run.failure):
        print(line)
    if tasks:
        _print(
            "\nTasks",
            render_table(TASK_COLUMNS, task_rows(run, tasks, labels, graph), max_columns=columns, color=color),
            color,
        )
        picture = gantt_lines(tasks, labels, columns=columns, color=color, now=time.time())
        _print("\nTimeline", picture, color)
        print_results(session, run, color=color)
    for who, failure in failures(run, tasks, labels)[:MAX_FAILURES]:
        print(f"\nWhy {clean(who)} failed: heliograph errors show {clean(failure.error_id)}")


def print_results(session: Session, run: flow_run_service_pb2.FlowRun, *, color: bool) -> None:
    """Prints where each result is, read from the ledger on the user's side; says why when that cannot be read."""
    from heliograph.client.ledger import open_run

    try:
        found = open_run(session.client, run).results()
    except HeliographError as error:
        print(f"\nWhere the results are cannot be read from here: {clean(str(error))}")
        print(f"On a machine that can read the storage: heliograph results ls {run_id(run)}")
        return
    kept = [[row.task, row.location, size(row.size_bytes) if row.size_bytes else ""] for row in found if row.location]
    why = Counter(row.reason for row in found if not row.location)
    lines = render_table(RESULT_COLUMNS, kept, color=color) if kept else []
    lines += [f"{number} not kept: {clean(reason)}" for reason, number in why.most_common()]
    _print("\nResults, in your own storage", lines, color)


RESULT_COLUMNS = (Column("task"), Column("where"), Column("size", right=True))


def _print(title: str, lines: list[str], color: bool) -> None:
    if lines:
        print(paint(title, "bold", color))
        print("\n".join(lines))
