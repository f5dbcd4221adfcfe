"""The flow process: loads the checked bundle and runs the flow. The only process that executes user code.

It talks to no network of its own accord: states and lines go to the outbox, commands come down the control socket.
It dies with its supervisor: by the kernel's parent-death signal, and when the control socket ends.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.exceptions import HeliographError, StorageError
from heliograph_agents import processes
from heliograph_agents.control import ControlSocket
from heliograph_agents.run_directory import LaunchRecord, RunDirectory

if TYPE_CHECKING:
    from heliograph.engine.cancellation import Cancellation
    from heliograph.reporting.sink import RunReporter

FLUSH_SECONDS = 30.0
"""How long the end of the flow waits for the outbox and the ledger."""

IDLE_SECONDS = 0.05
"""How long a forked flow process waits for its attempt before it takes the time to warm up."""

EXIT_FAILED = 1


def stand_by(control: ControlSocket, poke_descriptor: int) -> NoReturn:
    """Waits to be told the attempt, then runs it. In a forked process; warms up when nothing comes at once."""
    try:
        if not select.select([control.fileno()], [], [], IDLE_SECONDS)[0]:
            rehearse()
        path = control.receive_attempt()
        if path is None:
            os._exit(0)
        directory = RunDirectory(Path(path))
        record = directory.launch_record()
    except BaseException:  # noqa: BLE001 (the boundary of this process): it must never return into its parent's code
        traceback.print_exc()
        os._exit(EXIT_FAILED)
    run(directory, record, control, poke_descriptor)


def rehearse() -> None:
    """Runs a small flow that tells nobody.

    A forked process shares its memory with its parent until it writes, and Python writes wherever it reads: what this
    touches, the real flow need not wait for.
    """
    import gc
    import logging

    from heliograph.core.flow import Flow
    from heliograph.engine.flow_runner import FlowRunner
    from heliograph.utilities.tasks import task

    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with Flow("rehearsal") as flow:
            task(_one)()
        FlowRunner(flow).run()
    finally:
        logging.disable(disabled)
    gc.collect()
    gc.freeze()


def _one() -> int:
    return 1


def run(directory: RunDirectory, record: LaunchRecord, control: ControlSocket, poke_descriptor: int) -> NoReturn:
    """Runs one flow and ends the process. Never returns, never raises."""
    code = EXIT_FAILED
    try:
        code = _Run(directory, record, control, poke_descriptor).execute()
    except SystemExit as error:  # user code at the top level of a module
        code = error.code if isinstance(error.code, int) else EXIT_FAILED
    except BaseException:  # noqa: BLE001 (the boundary of this process): what is not reported otherwise is seen on standard error
        traceback.print_exc()
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process as Python would, without waiting for threads that user code left behind."""
    try:
        atexit._run_exitfuncs()  # noqa: SLF001 (there is no other way to run them without ending as a thread waits)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Run:
    """One flow, from the supervisor's word to the final state."""

    def __init__(
        self, directory: RunDirectory, record: LaunchRecord, control: ControlSocket, poke_descriptor: int
    ) -> None:
        from heliograph.engine.cancellation import Cancellation

        self._directory, self._record, self._control = directory, record, control
        self._poke_descriptor = poke_descriptor
        self._cancellation: Cancellation = Cancellation()
        self._go: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="heliograph-control", daemon=True).start()

    def _listen(self) -> None:
        for message in self._control.messages():
            if "go" in message:
                self._go.put(message["go"])
            elif "cancel" in message:
                self._cancellation.request(message["cancel"])
        os.kill(os.getpid(), signal.SIGKILL)  # the supervisor is gone: nobody would hear what this flow still does

    def execute(self) -> int:
        """Waits for the word, runs, reports. Returns the process's exit code."""
        from heliograph.logging import configure
        from heliograph.reporting.sink import Reporting

        go = self._go.get()
        record = self._record
        processes.mark(self._directory.path)
        _prepare_environment(self._directory, record, go)
        configure()  # as this run's settings say: warming up logged as the agent's do
        reporting = Reporting(
            self._directory.outbox,
            self._poke_descriptor,
            flow_run_id=record.spec.run_id,
            epoch=record.spec.epoch,
            ledger=go["ledger"],
            bundle_root=Path(go["bundle"]),
            failure_text=go["failure_text"],
            log_mode=go["log_mode"],
        )
        try:
            finished = self._run_flow(reporting.sink, Path(go["bundle"]))
        finally:
            reporting.close(FLUSH_SECONDS)
        self._control.send({"done": int(finished)})
        return 0 if finished.is_successful or finished == StateCode.CANCELLED else EXIT_FAILED

    def _run_flow(self, sink: RunReporter, bundle: Path) -> StateCode:
        from heliograph.engine.flow_runner import FlowRunner

        spec = self._record.spec
        try:
            flow = _load(bundle, spec.graph_hash)
            parameters = json.loads(spec.parameters_json or "{}")
        except Exception as error:  # noqa: BLE001 (the boundary to user code): whatever its modules raise is told as a load failure
            traceback.print_exc()
            reason = FailureCode[error.failure] if isinstance(error, StorageError) else FailureCode.LOAD_FAILED
            return _refuse(sink, StateCode.FAILED, error, reason)
        try:
            state = FlowRunner(flow, sink=sink, cancel=self._cancellation).run(
                parameters=parameters,
                context=_context(self._record),
                flow_run_id=spec.run_id,
                flow_run_name=spec.run_name,
            )
        except HeliographError as error:  # parameters that the flow does not take, a flow that cannot be compiled
            traceback.print_exc()
            return _refuse(sink, StateCode.FAILED, error, FailureCode.PARAMETERS)
        return state.code or StateCode.FAILED


def _refuse(sink: RunReporter, state: StateCode, error: BaseException, reason: FailureCode) -> StateCode:
    failure = sink.failed(error, None, None, reason)
    sink.flow_state(state, time.time_ns() // 1000, failure)
    return state


def _load(bundle: Path, graph_hash: str) -> Any:
    from heliograph.storage.cache import manifest_of
    from heliograph.storage.load import load_flow

    return load_flow(bundle, manifest_of(bundle), graph_hash)


def _context(record: LaunchRecord) -> dict[str, Any]:
    spec = record.spec
    return {
        "flow_run_version": spec.attempt,
        "project_name": spec.flow_run.split("/")[1],
        "agent_name": record.settings.agent,
        "running_with_backend": True,
    }


def _prepare_environment(directory: RunDirectory, record: LaunchRecord, go: dict[str, Any]) -> None:
    """Sets variables, folders and paths: first the agent's, then the run's, last what says which run this is."""
    settings = record.settings
    os.environ.update(settings.env)
    os.environ.update(go["env"])
    os.environ.update(identity_variables(directory, record))
    work_dir = go["working_dir"] or settings.work_dir
    if work_dir:
        os.chdir(work_dir)
    sys.path[:0] = settings.import_paths


def identity_variables(directory: RunDirectory, record: LaunchRecord) -> dict[str, str]:
    """Returns the variables that say which run this is and how it reaches the control plane; none is a secret."""
    settings = record.settings
    variables = {
        "HELIOGRAPH_HOME": settings.home,
        "HELIOGRAPH_FLOW_RUN": record.spec.flow_run,
        "HELIOGRAPH_RUN_DIRECTORY": str(directory.path),
        "HELIOGRAPH__CLIENT__ADDRESS": settings.address,
        "HELIOGRAPH__CLIENT__TOKEN_FILE": str(directory.token_file),
    }
    for name, value in settings.tls.items():
        variables[f"HELIOGRAPH__CLIENT__{name.upper()}"] = str(value)
    return variables


def main(arguments: list[str] | None = None) -> NoReturn:
    """`python -m heliograph_agents.flow_process RUN_DIRECTORY CONTROL_FD POKE_FD`: where processes are not forked."""
    import socket

    path, control, poke = (arguments or sys.argv[1:])[:3]
    directory = RunDirectory(Path(path))
    run(directory, directory.launch_record(), ControlSocket(socket.socket(fileno=int(control))), int(poke))


if __name__ == "__main__":
    main()
