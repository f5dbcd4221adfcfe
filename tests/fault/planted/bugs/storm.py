"""What the kill storm hears of acknowledgements and leases in every process, and the mistakes that it must find.

`listen` is no bug: supervisors and agents write down each event that was acknowledged to them and each lease that they
were given, in `$HELIOGRAPH_STORM_HEARD`, one file for each process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any


def _hear(lines: list[dict[str, Any]]) -> None:
    """Appends lines to this process's file, in one write: a process that is killed leaves whole lines or none."""
    folder = os.environ.get("HELIOGRAPH_STORM_HEARD")
    if not folder or not lines:
        return
    descriptor = os.open(f"{folder}/{os.getpid()}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, "".join(json.dumps(line) + "\n" for line in lines).encode())
    finally:
        os.close(descriptor)


def _acked(flow_run: str, epoch: int, told: dict[int, bytes], acked: int) -> None:
    """Writes down the events up to `acked`, and takes them out of `told`."""
    from heliograph.api.v1.run_reporting_service_pb2 import RunEvent

    lines = []
    for sequence in sorted(number for number in told if number <= acked):
        event = RunEvent.FromString(told.pop(sequence))
        line = {"run": flow_run.rpartition("/")[2], "epoch": epoch, "sequence": sequence}
        if event.HasField("task_run"):
            line |= {"task": event.task_run.task, "state": int(event.task_run.state)}
        else:
            line |= {"state": int(event.flow_run.state)}
        lines.append(line)
    _hear(lines)


def hear_supervisors(shipping: Any) -> None:
    """Every acknowledgement that a supervisor gets is written down."""
    send, take = shipping.StatePump._send, shipping.StatePump._take

    def sending(self: Any, exchange: Any, chunk: Any) -> None:
        told = self.__dict__.setdefault("_storm_told", {})
        told.update({chunk.first_sequence + number: payload for number, payload in enumerate(chunk.payloads)})
        send(self, exchange, chunk)

    def taking(self: Any, answer: Any) -> None:
        take(self, answer)
        _acked(self._writer.flow_run, self._writer.epoch, self.__dict__.get("_storm_told", {}), self.acked)

    shipping.StatePump._send, shipping.StatePump._take = sending, taking


def hear_agents(performer: Any) -> None:
    """Every acknowledgement that an agent gets for what a dead supervisor left is written down."""
    send = performer.Performer._send_states

    async def sending(self: Any, handle: Any, first: int, hole: int, payloads: list[bytes]) -> Any:
        ack = await send(self, handle, first, hole, payloads)
        told = {first + number: payload for number, payload in enumerate(payloads)}
        _acked(handle.flow_run, handle.epoch, told, ack.acked_sequence)
        return ack

    performer.Performer._send_states = sending


def hear_leases(offers: Any) -> None:
    """Every lease that an agent takes is written down."""
    note = offers.Offers.note

    def noting(self: Any, flow_run: str, epoch: int) -> None:
        _hear([{"run": flow_run.rpartition("/")[2], "epoch": epoch, "lease": self._folder.parent.name}])
        note(self, flow_run, epoch)

    offers.Offers.note = noting


# --- mistakes -------------------------------------------------------------------------------------------------------


def start_anew(launcher: Any) -> None:
    """A launcher that does not know a run says that it never started, without a look at its processes."""
    inspect = launcher.LocalLauncher.inspect

    async def hopeful(self: Any, handle: Any) -> Any:
        directory = launcher.RunDirectory(self._runs / handle.infrastructure)
        if handle.infrastructure not in self._started and directory.exit() is None:
            return launcher.InfraExit(launcher.ExitKind.NEVER_STARTED, launcher.FailureCode.LAUNCH_FAILED)
        return await inspect(self, handle)

    launcher.LocalLauncher.inspect = hopeful


def believe_the_launcher(leases: Any) -> None:
    """The control plane queues a run again that has told of itself: its agent says that it never started."""
    leased = leases._leased

    def trusting(*arguments: Any) -> Any:
        head = leased(*arguments)
        head.last_sequence = 0
        return head

    leases._leased = trusting


def answer_first(writer: Any) -> None:
    """The store answers runs' creation, claims and events, and commits a moment later."""
    execute = writer.Writer._execute

    def careless(self: Any, transaction: Any, calls: list[Any]) -> Any:
        outcomes = execute(self, transaction, calls)
        if all(call.group is not None for call in calls):  # tokens above all are kept: nobody could begin
            self._answer(outcomes, None)
            time.sleep(3.0)  # long enough for whoever kills it to hear of the answer on a busy machine
        return outcomes

    writer.Writer._execute = careless


def answer_early(writer: Any) -> None:
    """The store answers whatever it is asked, and commits a moment later."""
    execute = writer.Writer._execute

    def early(self: Any, transaction: Any, calls: list[Any]) -> Any:
        outcomes = execute(self, transaction, calls)
        if transaction.runs:  # what it makes for itself when it starts is kept
            self._answer(outcomes, None)
            time.sleep(0.3)
        return outcomes

    writer.Writer._execute = early


def outlive_the_supervisor(processes: Any) -> None:
    """A flow is not bound to its supervisor's life."""
    processes.die_with_parent = lambda _: None


def believe_the_supervisors_death(launcher: Any) -> None:
    """The agent takes the death of a supervisor for that of its flow."""

    async def believing(_self: Any, directory: Any, _record: Any) -> Any:
        return launcher._settled(directory, launcher.FailureCode.SUPERVISOR_DIED, "its supervisor died")

    launcher.LocalLauncher._settle = believing


def deaf_to_the_end(control: Any) -> None:
    """A flow process does not notice that its supervisor is gone."""
    messages = control.ControlSocket.messages

    def endless(self: Any) -> Any:
        yield from messages(self)
        while True:
            time.sleep(60)

    control.ControlSocket.messages = endless


def keep_the_lost_lease(supervisor: Any) -> None:
    """A supervisor goes on though its lease belongs to another."""
    supervisor._Supervisor._abandon = lambda _: None


def leave_no_mark(processes: Any) -> None:
    """What a flow started is known by its group, its environment and its descriptors alone."""
    processes.mark = lambda _: None


def tell_late(performer: Any) -> None:
    """An agent takes its time before it tells that a run died."""
    report = performer.Performer._report

    async def later(self: Any, tracker: Any, found: Any) -> None:
        await performer.asyncio.sleep(8.0)
        await report(self, tracker, found)

    performer.Performer._report = later


def show_another_end(watching: Any) -> None:
    """Who watches is shown each end as a success."""
    from heliograph.engine.codes import StateCode

    told = watching.convert.flow_run

    def flattering(run: Any) -> Any:
        message = told(run)
        if run.state.is_finished:
            message.state = int(StateCode.SUCCESS)
        return message

    watching.convert = type("Convert", (), {"flow_run": staticmethod(flattering)})


def show_no_end(watching: Any) -> None:
    """Who watches is shown runs only while they go on."""
    told = watching.convert.flow_run

    def silent(run: Any) -> Any:
        return watching.pb.FlowRun(name=told(run).name) if run.state.is_finished else told(run)

    watching.convert = type("Convert", (), {"flow_run": staticmethod(silent)})


def forget_the_journal(launcher: Any) -> None:
    """A restarted agent does not look for the runs that it had."""

    async def forgetful(self: Any) -> list[Any]:
        return []

    launcher.LocalLauncher.list = forgetful


def _both(*plants: Callable[[Any], None]) -> Callable[[Any], None]:
    def plant(module: Any) -> None:
        for one in plants:
            one(module)

    return plant


LISTEN: dict[str, Callable[[Any], None]] = {
    "heliograph_agents.shipping": hear_supervisors,
    "heliograph_agents.performer": hear_agents,
    "heliograph_agents.offers": hear_leases,
}

BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "listen": LISTEN,
    "storm_answer_early": {"heliograph_control_plane.store.writer": answer_early},
    "storm_answer_first": {**LISTEN, "heliograph_control_plane.store.writer": answer_first},
    "storm_forget_the_journal": {**LISTEN, "heliograph_agents.launchers.local.launcher": forget_the_journal},
    "storm_leave_no_mark": {**LISTEN, "heliograph_agents.processes": leave_no_mark},
    "storm_outlive": {
        **LISTEN,
        "heliograph_agents.processes": outlive_the_supervisor,
        "heliograph_agents.control": deaf_to_the_end,
        "heliograph_agents.launchers.local.launcher": believe_the_supervisors_death,
    },
    "storm_show_another_end": {**LISTEN, "heliograph_control_plane.services.watching": show_another_end},
    "storm_show_no_end": {**LISTEN, "heliograph_control_plane.services.watching": show_no_end},
    "storm_tell_late": {**LISTEN, "heliograph_agents.performer": _both(hear_agents, tell_late)},
    "storm_start_anew": {
        **LISTEN,
        "heliograph_agents.launchers.local.launcher": start_anew,
        "heliograph_control_plane.store.leases": believe_the_launcher,
    },
    "storm_two_copies": {
        **LISTEN,
        "heliograph_agents.launchers.local.launcher": start_anew,
        "heliograph_agents.supervisor": keep_the_lost_lease,
        "heliograph_control_plane.store.leases": believe_the_launcher,
    },
}
