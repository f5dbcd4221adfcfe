"""The supervisor: one small process beside each flow process. It owns the channel, the lease, the outbox and the end.

Order of a run:

1. `stand_by`: becomes a subreaper, forks the flow process, waits to be told the run directory, and takes its lock. No
   channel is open yet. (`start`, where nothing can be forked: the same in another order.)
2. `_Supervisor.run`: opens the channel (first contact), checks the bundle, sends `go`, then waits on events alone.
3. The pumps (`shipping`, `log_shipping`) ship while the flow runs; commands come back to the loop here.
4. The flow process ended: what is left of its tree is killed, a missing final state is added, everything is shipped.
5. `exit.json` says how it ended; the agent reports it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from heliograph import config
from heliograph.api.v1.agent_service_pb2 import Command
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.engine.sink import FailureInfo
from heliograph.exceptions import DiskError, HeliographError, StorageError
from heliograph.reporting.events import flow_event
from heliograph.reporting.lanes import STATES, LaneReader, LaneWriter
from heliograph.utilities.files import disk_failed, once_the_disk_takes_it
from heliograph.utilities.hints import failure_hint
from heliograph_agents import control_groups, processes
from heliograph_agents.bundles import Ready, is_cached, prepare
from heliograph_agents.confinement import confine
from heliograph_agents.joined import FlowProcess, fork_flow_process, spawn_flow_process
from heliograph_agents.log_shipping import LogPump
from heliograph_agents.output import OutputFile, log_to
from heliograph_agents.pumping import Link, Verdict, Writer
from heliograph_agents.run_directory import ExitRecord, LaunchRecord, ProcessRecord, RunDirectory
from heliograph_agents.shipping import StatePump, final_state

if TYPE_CHECKING:
    import grpc

_log = logging.getLogger("heliograph.supervisor")

CHECK_SECONDS = 5.0
"""How often overdue acknowledgements are looked at; everything else is an event."""

QUIET_START_SECONDS = 0.05
"""Longest time for which a flow that starts at once puts off the first contact."""

AFTER_DONE_SECONDS = 10.0
"""How long a flow process may take to exit after its final state."""

MAX_PATH_BYTES = 65536

IDLE_SECONDS = 0.05
"""How long a forked process waits for its attempt before it takes the time to warm up."""


def stand_by(orders: socket.socket, last: bytes) -> int:
    """Forks a flow process, waits for a run directory's path on `orders`, and supervises that attempt to its end.

    Called in a forked process of its own. Returns its exit code: also when the other side of `orders` ends.

    Args:
        orders: Where the path comes.
        last: Path of the attempt launched before: warming up looks at its bundle again. Empty for none.
    """
    processes.set_child_subreaper()
    flow = fork_flow_process(orders)
    if not select.select([orders], [], [], IDLE_SECONDS)[0]:
        rehearse(RunDirectory(Path(os.fsdecode(last))))
    path = orders.recv(MAX_PATH_BYTES)
    orders.close()
    if not path:
        processes.kill_descendants()
        return 0
    if flow.pid in processes.reap():  # killed while it stood by
        flow = fork_flow_process()
    directory = RunDirectory(Path(os.fsdecode(path)))
    return _supervise(directory, flow)


def rehearse(directory: RunDirectory) -> None:
    """Checks the bundle of an earlier attempt again, where that needs no network.

    A forked process shares its memory with its parent until it writes, and Python writes wherever it reads: what this
    touches, the real attempt need not wait for.
    """
    try:
        record = directory.launch_record()
        if is_cached(record):
            prepare(record)
    except (OSError, ValueError, KeyError, TypeError, HeliographError):
        pass  # it is not there any more, or was refused: no word about it, it is not this attempt's
    config.reload()  # files of settings are read when the attempt comes


def start(directory: RunDirectory, *, fork: bool = False) -> int:
    """Supervises one attempt to its end. Returns the exit code.

    Args:
        directory: The attempt.
        fork: True to fork the flow process, which spares it the imports; else it is started anew.
    """
    processes.set_child_subreaper()
    return _supervise(directory, fork_flow_process() if fork else None)


def _supervise(directory: RunDirectory, flow: FlowProcess | None) -> int:
    lock = directory.lock()
    if lock is None or directory.exit() is not None:
        processes.kill_descendants()
        return 0  # launched twice: the other one does the work
    try:
        log_to(_log, directory.path / "supervisor.log")
        if flow is not None:
            flow.control.send_attempt(str(directory.path), lock)
        else:
            flow = spawn_flow_process(directory)
        supervisor = _Supervisor(directory, directory.launch_record(), flow)
        supervisor.run()
    except Exception as error:  # noqa: BLE001 (the boundary of this process): the agent reports a supervisor that ended without exit.json
        # Where nobody was told to go, and it is the disk that failed, the agent is to give the run back.
        if not (disk_failed(error) and directory.processes() is None):
            _log.exception("the supervisor failed")
        processes.kill_descendants()
        return 1
    return 0


class _Supervisor:
    """The loop of one attempt. Only the main thread touches the state; other threads put events in a queue."""

    def __init__(self, directory: RunDirectory, record: LaunchRecord, flow: FlowProcess) -> None:
        self._directory, self._record = directory, record
        self._flow = flow
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._flow_status: int | None = None
        self._done: StateCode | None = None
        self._cancelled = False
        self._evicted = False
        self._abandoned = False
        self._refusal: StorageError | None = None
        self._fetching = False
        self._failure: FailureInfo | None = None
        self._memory_kills = control_groups.memory_kills()
        self._deadline: tuple[float, Callable[[], None]] | None = None
        self._pumps_ended = 0

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Runs to the end of the attempt, `exit.json` written."""
        record, directory = self._record, self._directory
        # Before anybody knows where to send them: a signal that comes early is an event as any other.
        signal.signal(signal.SIGTERM, lambda *_: self._post(self._asked_to_end))
        signal.signal(signal.SIGUSR1, lambda *_: self._post(self._abandon))
        signal.signal(signal.SIGUSR2, lambda *_: self._post(self._cancel))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        directory.write_processes(
            ProcessRecord(
                boot_id=processes.boot_id(),
                supervisor_pid=os.getpid(),
                supervisor_start=processes.start_time(os.getpid()),
                flow_pid=self._flow.pid,
                flow_start=processes.start_time(self._flow.pid),
            )
        )
        self._output = OutputFile(directory.output_file, echo=record.settings.show_output)
        self._confinement = confine(record.limits, directory.path.name, self._flow.pid)
        if self._confinement.remark:
            self._output.write(f"heliograph: {self._confinement.remark}\n".encode())
        # A cached bundle is checked before the channel is opened: both need this process's one interpreter, and the
        # flow process loads what was checked while the channel connects.
        cached = is_cached(record)
        if cached:
            self._prepare()
            # The flow is not made to share the processors with the channel's opening until it has something to tell.
            select.select([self._flow.poke, self._flow.output], [], [], QUIET_START_SECONDS)
        self._open_pumps()
        self._wake_reader.setblocking(False)
        for descriptor, action in (
            (self._wake_reader.fileno(), self._on_wake),
            (self._flow.control.fileno(), self._on_control),
            (self._flow.poke, self._on_poke),
            (self._flow.output, self._on_output),
        ):
            self._selector.register(descriptor, selectors.EVENT_READ, action)
        if not cached:
            self._fetching = True
            threading.Thread(target=self._prepare, name="heliograph-prepare", daemon=True).start()
        self._on_child()
        while self._flow_status is None:
            self._turn()
        self._flow_ended()
        while self._pumps_ended < 2:
            self._turn()
        self._finish()

    def _turn(self) -> None:
        timeout = CHECK_SECONDS
        if self._deadline is not None:
            timeout = min(timeout, max(0.0, self._deadline[0] - time.monotonic()))
        for key, _ in self._selector.select(timeout):
            key.data()
        while not self._events.empty():
            self._events.get()()
        if self._deadline is not None and time.monotonic() >= self._deadline[0]:
            action = self._deadline[1]
            self._deadline = None
            action()
        self._states.check()

    def _post(self, action: Callable[[], None]) -> None:
        """Has the loop do something. From any thread, and from signal handlers."""
        self._events.put(action)
        with contextlib.suppress(OSError):  # full: the loop will wake anyway
            self._wake_writer.send(b"\0")

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)
        self._on_child()

    def _on_child(self) -> None:
        """Reaps: the flow process, and orphans that became children of this subreaper.

        While storage is fetched from, its programs are children as well, for which their callers wait. There are no
        orphans then: the flow's code has not begun.
        """
        for pid, status in processes.reap(self._flow.pid if self._fetching else 0).items():
            if pid == self._flow.pid and self._flow_status is None:
                self._flow_status = status

    def _on_control(self) -> None:
        messages = self._flow.control.receive()
        if messages is None:
            self._selector.unregister(self._flow.control.fileno())
            return
        for message in messages:
            if "done" in message:
                self._done = StateCode(message["done"])
                self._set_deadline(AFTER_DONE_SECONDS, self._kill)

    def _on_poke(self) -> None:
        try:
            data = os.read(self._flow.poke, 4096)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._flow.poke)
        self._states.poke()
        self._logs.poke()

    def _on_output(self) -> None:
        try:
            data = os.read(self._flow.output, 65536)
        except BlockingIOError:
            return
        if data:
            self._output.write(data)
        else:
            self._selector.unregister(self._flow.output)

    # --- what is asked for --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Fetches and checks the bundle. Fetching may take minutes and a cancel must not wait: it has a thread then."""
        try:
            ready = prepare(self._record)
        except StorageError as error:
            self._post(partial(self._refuse, error))
        except Exception as error:  # noqa: BLE001 (the boundary to storage SDKs), which raise what they like
            _log.exception("the bundle cannot be prepared")
            self._post(partial(self._refuse, StorageError(f"{type(error).__name__}: {error}")))
        else:
            self._fetching = False
            self._send_go(ready)
        finally:
            self._fetching = False

    def _send_go(self, ready: Ready) -> None:
        for remark in ready.remarks:
            self._post(partial(self._output.write, f"heliograph: {remark}\n".encode()))
        self._flow.control.send({"go": ready.message()})

    def _refuse(self, error: StorageError) -> None:
        """No user code runs: the flow process, which still waits, is ended."""
        _log.error("refused: %s", error)
        self._output.write(f"heliograph: {error}\n{error.hint}\n".encode())
        self._refusal = error
        self._kill()

    def _command(self, command: int) -> None:
        if command == Command.COMMAND_CANCEL:
            self._post(self._cancel)
        elif command in (Command.COMMAND_ABANDON, Command.COMMAND_FORGET):
            self._post(self._abandon)

    def _asked_to_end(self) -> None:
        """SIGTERM: from the agent it means cancel, as SIGUSR2 does; to a container, that its place is taken away."""
        if not self._record.settings.container:
            self._cancel()
        elif not (self._evicted or self._cancelled or self._flow_status is not None):
            _log.warning("the infrastructure ends this run")
            self._evicted = True
            self._terminate()

    def _cancel(self) -> None:
        """Asks; after the grace period SIGTERM; after half of it again, SIGKILL to the whole tree."""
        if self._cancelled or self._flow_status is not None:
            return
        _log.info("cancelling")
        self._cancelled = True
        self._flow.control.send({"cancel": "cancelled on request"})
        self._set_deadline(self._record.settings.grace_seconds, self._terminate)

    def _terminate(self) -> None:
        tree = [*processes.descendants(os.getpid()), self._flow.pid]
        processes.signal_group(self._flow.pid, signal.SIGTERM)
        processes.signal_all(tree, signal.SIGTERM)
        processes.signal_all(tree, signal.SIGCONT)
        self._set_deadline(self._record.settings.grace_seconds / 2, self._kill)

    def _abandon(self) -> None:
        """The lease belongs to another: stop at once, and say nothing more."""
        if self._abandoned:
            return
        _log.warning("the lease of this run is lost: it is stopped here")
        self._abandoned = True
        self._states.stop()
        self._logs.stop()
        self._kill()

    def _kill(self) -> None:
        if self._flow_status is None:
            processes.signal_group(self._flow.pid, signal.SIGKILL)
            processes.signal_all([self._flow.pid], signal.SIGKILL)

    def _set_deadline(self, seconds: float, action: Callable[[], None]) -> None:
        self._deadline = (time.monotonic() + seconds, action)

    # --- the end ------------------------------------------------------------------------------------------------

    def _flow_ended(self) -> None:
        """The flow process is gone: nothing of its tree survives it, and its story gets an end."""
        self._deadline = None
        for descriptor in (self._flow.output, self._flow.poke, self._flow.control.fileno()):
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)
        processes.kill_descendants()
        self._confinement.lift()
        with contextlib.suppress(OSError):
            while data := os.read(self._flow.output, 65536):
                self._output.write(data)
        self._output.close()
        if self._abandoned:
            return
        if self._given_back:
            self._states.stop()
            self._logs.stop()
            return
        if self._done is None:
            self._done = self._end_the_story()
        self._states.finish()
        self._logs.finish()

    def _end_the_story(self) -> StateCode:
        """Adds the final state when the flow process died without one."""
        last = LaneReader(self._directory.outbox, STATES).last()
        if last is not None and (known := final_state(last[1])) is not None:
            return known
        state, self._failure = self._verdict()
        event = flow_event((state, time.time_ns() // 1000, self._failure))

        def append() -> None:
            lane = LaneWriter(self._directory.outbox, STATES)
            try:
                lane.append([event])
            finally:
                lane.close()

        once_the_disk_takes_it(append, _log)
        return state

    @property
    def _given_back(self) -> bool:
        """True when this host's disk took no bundle: no code of the flow has run, and another host may take it."""
        return isinstance(self._refusal, DiskError) and not self._cancelled

    def _verdict(self) -> tuple[StateCode, FailureInfo | None]:
        if self._refusal is not None:
            kind = type(self._refusal)
            failure = FailureInfo(FailureCode[self._refusal.failure], f"{kind.__module__}.{kind.__qualname__}")
            return StateCode.CRASHED, failure
        if self._cancelled:
            return StateCode.CANCELLED, None
        if self._evicted:
            return StateCode.CRASHED, FailureInfo(FailureCode.EVICTED)
        exit_code, number = self._ending()
        if number is None:
            return StateCode.CRASHED, FailureInfo(FailureCode.EXIT_CODE, exit_code=exit_code)
        reason = FailureCode.OUT_OF_MEMORY if self._out_of_memory(number) else FailureCode.SIGNAL
        return StateCode.CRASHED, FailureInfo(reason, signal=number)

    def _ending(self) -> tuple[int | None, int | None]:
        """Returns exit code and signal of the flow process; one of them is None."""
        assert self._flow_status is not None
        code = os.waitstatus_to_exitcode(self._flow_status)
        return (None, -code) if code < 0 else (code, None)

    def _out_of_memory(self, number: int) -> bool:
        return number == signal.SIGKILL and (
            self._confinement.kills > 0
            or control_groups.memory_kills() > self._memory_kills
            or processes.kernel_says_out_of_memory(self._flow.pid)
        )

    def _finish(self) -> None:
        exit_code, number = self._ending()
        verdicts = {self._states.verdict, self._logs.verdict}
        reason = self._failure.reason if self._failure is not None else None
        hint = "; ".join(failure_hint(reason, number)) if reason is not None else ""
        if self._given_back and not self._abandoned:
            reason, hint = FailureCode.LAUNCH_FAILED, str(self._refusal)
        record = ExitRecord(
            exit_code=exit_code,
            signal=number,
            state=int(self._done or StateCode.CRASHED),
            reason=int(reason or 0),
            hint=hint,
            unshipped=Verdict.REFUSED in verdicts or Verdict.STOPPED in verdicts,
            lease_lost=self._abandoned,
            time_micros=time.time_ns() // 1000,
        )
        once_the_disk_takes_it(lambda: self._directory.write_exit(record), _log)
        self._link.close()

    # --- the pumps ----------------------------------------------------------------------------------------------

    def _open_pumps(self) -> None:
        record = self._record
        self._link = Link(self._connect)
        writer = Writer(record.spec.flow_run, record.spec.epoch)
        self._logs = LogPump(self._link, self._directory.outbox, writer, on_end=self._pump_ended)
        self._states = StatePump(
            self._link,
            self._directory.outbox,
            writer,
            incarnation=record.incarnation,
            renew_every_seconds=record.renew_every_seconds,
            on_contact=self._note_contact,
            on_command=self._command,
            on_end=self._pump_ended,
            drain_logs=self._logs.drain,
        )
        self._logs.states_idle = self._states.idle
        self._states.start()
        self._logs.start()

    def _note_contact(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the agent hears of the contact from the control plane as well
            self._directory.touch("contact")

    def _connect(self) -> grpc.Channel:
        from heliograph.client.channel import TlsFiles, open_channel

        settings = self._record.settings
        tls = settings.tls
        return open_channel(
            settings.address,
            self._directory.run_token(),
            TlsFiles(tls.get("tls_ca", ""), tls.get("tls_cert", ""), tls.get("tls_key", "")),
            insecure=bool(tls.get("insecure", False)),
        )

    def _pump_ended(self) -> None:
        def note() -> None:
            self._pumps_ended += 1
            if self._states.verdict is Verdict.LEASE_LOST or self._logs.verdict is Verdict.LEASE_LOST:
                self._abandon()
            elif self._states.verdict is Verdict.REFUSED:
                self._logs.stop()

        self._post(note)


def main(arguments: list[str] | None = None) -> NoReturn:
    """`python -m heliograph_agents.supervisor RUN_DIRECTORY`: where no warm parent forks supervisors."""
    path = (arguments or sys.argv[1:])[0]
    try:
        code = start(RunDirectory(Path(path)))
    except Exception:  # noqa: BLE001 (the boundary of this process)
        traceback.print_exc()
        code = 1
    os._exit(code)


if __name__ == "__main__":
    main()
