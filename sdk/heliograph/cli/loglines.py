"""Log lines as text or as messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heliograph.cli.output import print_json, to_plain
from heliograph.cli.text import clean, pad, paint, shorten, use_color, width
from heliograph.cli.times import local

if TYPE_CHECKING:
    from heliograph.api.v1 import log_service_pb2

LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
MAX_LABEL = 32
COLORS = {10: "dim", 30: "yellow", 40: "red", 50: "red"}


def entry_label(entry: log_service_pb2.LogEntry, labels: Sequence[str]) -> str:
    """Returns which task said a line, `flow run` when none did."""
    if not entry.HasField("task"):
        return "flow run"
    label = labels[entry.task] if entry.task < len(labels) else f"task {entry.task}"
    return f"{label}[{entry.map_index}]" if entry.HasField("map_index") else label


def print_entries(
    entries: Iterable[log_service_pb2.LogEntry], labels: Sequence[str], output: str, color_mode: str
) -> None:
    """Prints lines as they come: `TIME  LEVEL  task  message`."""
    if output == "json":
        print_json([to_plain(entry) for entry in entries])
        return
    color = use_color(color_mode, sys.stdout)
    columns = min(MAX_LABEL, max([8, *map(width, labels)]))
    for entry in entries:
        if output == "jsonl":
            print(json.dumps(to_plain(entry), ensure_ascii=False), flush=True)
            continue
        if entry.dropped_before:
            print(f"({entry.dropped_before} lines dropped here)", flush=True)
        moment = datetime.fromtimestamp(entry.time_unix_micros / 1e6, UTC)
        head = f"{local(moment)}  {LEVELS.get(entry.level, 'INFO'):7}  "
        head += pad(shorten(clean(entry_label(entry, labels)), columns), columns)
        body = clean(entry.message, keep_lines=True).rstrip().replace("\n", "\n    ")
        print(f"{paint(head, 'dim', color)}  {paint(body, COLORS.get(entry.level), color)}", flush=True)
