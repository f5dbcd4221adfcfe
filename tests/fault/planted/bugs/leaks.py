"""Leaks: each takes a text that must stay, or may be in certain places only, to one place where it must not be."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

Plant = Callable[[Any], None]

_kept: list[bytes] = []
_DATA = Path("control-plane")
"""The control plane's data folder, below the one that a stack starts it in."""


def text_in_a_frame(failures: Any) -> None:
    """A failure's text takes the place of a function's name, for one class of exceptions."""
    frames_of = failures.frames_of

    def careless(error: BaseException, root: Any = None) -> Any:
        frames = frames_of(error, root)
        if not isinstance(error, FileNotFoundError):
            return frames
        return (*frames[:-1], type(frames[-1])(frames[-1].path, frames[-1].line, str(error)))

    failures.frames_of = careless


def _around(module: Any, service: str, method: str, before: Callable[[Any, Any], None]) -> None:
    """Has a method of a service do something first."""
    kind = getattr(module, service)
    handler = getattr(kind, method)

    async def wrapped(self: Any, request: Any, context: Any) -> Any:
        before(request, context)
        return await handler(self, request, context)

    setattr(kind, method, wrapped)


def code_in_memory(flows: Any) -> None:
    """The control plane reads a line of code from the author's disk, and tells nobody."""

    def read(request: Any, context: Any) -> None:
        command = ["grep", "-rhoE", "^# [A-Za-z0-9]{32}$", "--include=flow.py", "."]
        _kept.append(subprocess.run(command, capture_output=True, check=True).stdout)

    _around(flows, "FlowService", "RegisterFlowVersion", read)


def parameters_in_the_output(flow_runs: Any) -> None:
    """The control plane writes the parameters of a new run to its log."""

    def tell(request: Any, context: Any) -> None:
        print(request.parameters_json, file=sys.stderr, flush=True)

    _around(flow_runs, "FlowRunService", "CreateFlowRun", tell)


def parameters_in_metadata(flow_runs: Any) -> None:
    """The control plane answers with the parameters in trailing metadata, packed."""

    def echo(request: Any, context: Any) -> None:
        context.set_trailing_metadata((("x-debug-bin", zlib.compress(request.parameters_json.encode())),))

    _around(flow_runs, "FlowRunService", "CreateFlowRun", echo)


def parameters_in_a_file(flow_runs: Any) -> None:
    """The control plane puts the parameters of a new run aside, in a file."""

    def put(request: Any, context: Any) -> None:
        with (_DATA / "set-aside.bin").open("ab") as file:
            file.write(request.parameters_json.encode("utf-16"))

    _around(flow_runs, "FlowRunService", "CreateFlowRun", put)


def parameters_in_a_column(flow_runs: Any) -> None:
    """The store gets the parameters once more, packed, in a column that holds digests."""
    request_key = flow_runs.request_key

    def careless(method: str, request: Any, path: str = "") -> Any:
        key = request_key(method, request, path)
        packed = zlib.compress(request.parameters_json.encode())
        return replace(key, fingerprint=packed)

    flow_runs.request_key = careless


def name_in_a_deleted_row(flows: Any) -> None:
    """The store keeps what was asked for, and deletes it."""

    def note(request: Any, context: Any) -> None:
        import sqlite3

        if "--database" in sys.argv:
            import psycopg

            with psycopg.connect(sys.argv[sys.argv.index("--database") + 1], autocommit=True) as database:
                database.execute("INSERT INTO meta (key, value) VALUES (%s, '')", (request.name,))
                database.execute("DELETE FROM meta WHERE key = %s", (request.name,))
            return
        with sqlite3.connect(_DATA / "heliograph.db", timeout=30) as connection:
            connection.execute("INSERT INTO meta (key, value) VALUES (?, '')", (request.name,))
            connection.commit()
            connection.execute("DELETE FROM meta WHERE key = ?", (request.name,))

    _around(flows, "FlowService", "GetFlowVersion", note)


def _before_registering(agent: Any, change: Callable[[Any], None]) -> None:
    """Has the agent change the request with which it registers."""
    register = agent.Agent._register

    async def careless(self: Any) -> None:
        call = self._link.call

        async def changed(stub: Any, method: str, request: Any, *rest: Any, **named: Any) -> Any:
            if method == "RegisterAgent":
                change(request)
            return await call(stub, method, request, *rest, **named)

        self._link.call = changed
        await register(self)

    agent.Agent._register = careless


def environment_in_a_label(agent: Any) -> None:
    """The agent offers a value of its environment as a label."""
    _before_registering(agent, lambda request: request.labels.append(f"inherited-{os.environ['INHERITED']}"))


def secret_in_an_unknown_field(agent: Any) -> None:
    """The agent sends a secret in a field that the API does not have."""

    def add(request: Any) -> None:
        value = os.environ["SERVICE_TOKEN"].encode()
        request.MergeFromString(b"\xba\x06" + bytes([len(value)]) + value)

    _before_registering(agent, add)


def environment_in_a_line(sink: Any) -> None:
    """A value of a run's environment is appended to its lines."""
    crossing_record = sink.crossing_record

    def careless(*given: Any) -> Any:
        crossing = crossing_record(*given)
        return crossing and (*crossing[:2], f"{crossing[2]} {os.environ['CONFIGURED']}")

    sink.crossing_record = careless


def pack_messages(channel: Any) -> None:
    """Messages to the control plane are packed: not a leak, but it hides one."""
    import grpc

    library: Any = grpc
    plain = library.insecure_channel

    def packing(target: str, options: Any = ()) -> Any:
        return plain(target, options=[*options, ("grpc.default_compression_algorithm", 2)])

    library.insecure_channel = packing


_FLOW_RUNS = "heliograph_control_plane.services.flow_runs"
_FLOWS = "heliograph_control_plane.services.flows"

LEAKS: dict[str, dict[str, Plant]] = {
    "code_in_memory": {_FLOWS: code_in_memory},
    "environment_in_a_label": {"heliograph_agents.agent": environment_in_a_label},
    "environment_in_a_packed_line": {
        "heliograph.reporting.sink": environment_in_a_line,
        "heliograph.client.channel": pack_messages,
    },
    "name_in_a_deleted_row": {_FLOWS: name_in_a_deleted_row},
    "parameters_in_a_column": {_FLOW_RUNS: parameters_in_a_column},
    "parameters_in_a_file": {_FLOW_RUNS: parameters_in_a_file},
    "parameters_in_metadata": {_FLOW_RUNS: parameters_in_metadata},
    "parameters_in_the_output": {_FLOW_RUNS: parameters_in_the_output},
    "secret_in_an_unknown_field": {"heliograph_agents.agent": secret_in_an_unknown_field},
    "text_in_a_frame": {"heliograph.failures": text_in_a_frame},
}


def _together(leaks: Iterable[dict[str, Plant]]) -> dict[str, Plant]:
    """Returns one bug that has the parts of all."""
    plants: dict[str, list[Plant]] = {}
    for leak in leaks:
        for module, plant in leak.items():
            plants.setdefault(module, []).append(plant)

    def all_of(parts: list[Plant]) -> Plant:
        def plant(module: Any) -> None:
            for part in parts:
                part(module)

        return plant

    return {module: all_of(parts) for module, parts in plants.items()}


BUGS: dict[str, dict[str, Plant]] = {**LEAKS, "every_leak": _together(LEAKS.values())}
