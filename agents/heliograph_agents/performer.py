"""Carries out what trackers ask for: calls to the control plane and to the launcher. Returns the event it ends in.

Nothing here decides. A call that finds no control plane is tried again until it is answered; the agent's end cancels
it, and the next agent of this name goes on from what the launcher lists.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heliograph.api.v1 import (
    agent_service_pb2 as pb,
)
from heliograph.api.v1 import (
    agent_service_pb2_grpc,
    log_service_pb2,
    run_reporting_service_pb2,
)
from heliograph.api.v1.states_pb2 import Failure
from heliograph.api.v1.states_pb2 import LaunchDelay as LaunchDelayValue
from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph.exceptions import HeliographError, LaunchSettingsError, LeaseLostError, NotFoundError
from heliograph.reporting.batches import (
    MAX_ENTRY_BYTES,
    MAX_EVENT_BYTES,
    MAX_RECORDS,
    event_batch,
    log_request,
)
from heliograph.reporting.lanes import LOGS, STATES, LaneReader
from heliograph.storage.own_launch import own_launch_text
from heliograph_agents import door
from heliograph_agents.ended import End, Ended
from heliograph_agents.gate import Gate
from heliograph_agents.launcher import BundleSpec, Credentials, Handle, InfraExit, Launcher, LaunchError, RunSpec
from heliograph_agents.link import AgentRefusedError, Link, Pause, worth_another_try
from heliograph_agents.log_shipping import LOG_METHOD
from heliograph_agents.run_directory import RunDirectory
from heliograph_agents.shipping import UNARY_METHOD
from heliograph_agents.tracker import (
    Accept,
    AcceptAgain,
    Accepted,
    Effect,
    Event,
    Forget,
    Launch,
    Launched,
    LaunchFailed,
    Refused,
    Release,
    Released,
    Report,
    Reported,
    Ship,
    Shipped,
    Stop,
    Tracker,
    Unlaunched,
)

_log = logging.getLogger("heliograph.agent")

ACCEPT_SECONDS = 25.0
"""How long an accept is tried: less than the 30 s that the lease lives without it."""

RELEASE_BACK_OFF_SECONDS = 15.0

LONGEST_BACK_OFF_SECONDS = 3600.0
"""As the control plane has it."""

Stub = agent_service_pb2_grpc.AgentServiceStub
T = TypeVar("T")


class Performer:
    """Carries out effects of one agent.

    Args:
        agent: `agents/{agent}`.
        link: The control plane.
        launcher: The infrastructure.
        gate: What is checked before anything is launched.
        ended: Takes note of how runs ended.
    """

    def __init__(self, agent: str, link: Link, launcher: Launcher, gate: Gate, ended: Ended) -> None:
        self._agent, self._link, self._launcher, self._gate, self._ended = agent, link, launcher, gate, ended
        self._under_way: set[Effect] = set()

    async def perform(self, tracker: Tracker, effect: Effect) -> Event | None:
        """Carries out one effect. Returns the event that it ends in, if it ends in one."""
        match effect:
            case Accept(spec):
                return await self._accept(spec)
            case Launch(spec, credentials):
                return await self._launch(spec, credentials)
            case Stop() | AcceptAgain():
                await self._once(effect)
            case Ship(handle):
                await self._ship(handle)
                return Shipped()
            case Report(found):
                await self._report(tracker, found)
                return Reported()
            case Release():
                await self._release(tracker, effect)
                return Released()
            case Forget(handle):
                try:
                    await self._launcher.forget(handle)
                except OSError as error:  # it is adopted again, and its end told again, until the disk takes the mark
                    _log.error("the end of %s cannot be noted: %s", handle.flow_run, error)
        return None

    async def _accept(self, spec: RunSpec) -> Event:
        limit, pause = time.monotonic() + ACCEPT_SECONDS, Pause(2.0)
        request = pb.AcceptFlowRunRequest(agent=self._agent, flow_run=spec.flow_run, epoch=spec.epoch)
        while True:
            try:
                answer = await self._link.call(Stub, "AcceptFlowRun", request)
            except (LeaseLostError, NotFoundError) as error:
                _log.warning("%s was not accepted: %s", spec.flow_run, error)
                return Refused()
            except AgentRefusedError:
                raise
            except HeliographError as error:
                if not worth_another_try(error) or time.monotonic() > limit:
                    # It may have been accepted all the same: then only giving it back puts it into the queue again.
                    _log.warning("%s was not accepted: %s", spec.flow_run, error)
                    return Unlaunched(back_off=True)
                await asyncio.sleep(pause.seconds())
            else:
                if not (door.check_token(answer.run_token) and door.check_incarnation(answer.incarnation)):
                    _log.error("%s was accepted with a run token that is none", spec.flow_run)
                    return Unlaunched(back_off=True)
                renew = door.renew_seconds(answer.renew_every.seconds + answer.renew_every.nanos / 1e9)
                return Accepted(spec, Credentials(answer.run_token, answer.incarnation, renew))

    async def _launch(self, spec: RunSpec, credentials: Credentials) -> Event:
        try:
            settings = await self._gate.admit(spec)
            plan = self._launcher.plan(spec, settings)
            self._gate.judge(plan)
            handle = await self._launcher.launch(plan, credentials)
        except LaunchError as error:
            _log.error("%s was not launched: %s", spec.flow_run, error)
            return LaunchFailed(error.failure, error.retry_seconds, no_room=error.no_room, delay=error.delay)
        except Exception:  # noqa: BLE001 (the boundary to launchers, SDKs and disk): one run must not end the agent of all
            _log.exception("%s was not launched", spec.flow_run)
            # What is left of it is found by the next look, and its lease is over then.
            return LaunchFailed(None, delay=LaunchDelay.AGENT)
        return Launched(handle)

    async def _once(self, effect: Stop | AcceptAgain) -> None:
        """Carries out what every heartbeat asks for again, unless that is under way."""
        if effect in self._under_way:
            return
        self._under_way.add(effect)
        try:
            if isinstance(effect, Stop):
                await self._stop(effect)
            else:
                await self._accept_again(effect.handle)
        finally:
            self._under_way.discard(effect)

    async def _stop(self, asked: Stop) -> None:
        """Asks until the infrastructure takes it: nothing else would end a run whose host does not answer now."""
        pause = Pause()
        while True:
            try:
                await self._launcher.stop(asked.handle, abandon=asked.abandon, told=asked.told)
            except (OSError, LaunchError) as error:
                _log.warning("%s cannot be stopped, trying again: %s", asked.handle.flow_run, error)
                await asyncio.sleep(pause.seconds())
            else:
                return

    async def _accept_again(self, handle: Handle) -> None:
        """Has a restored control plane mint another run token, and puts it where the supervisor looks for it."""
        request = pb.AcceptFlowRunRequest(agent=self._agent, flow_run=handle.flow_run, epoch=handle.epoch)
        answer = await self._answer_to(lambda: self._link.call(Stub, "AcceptFlowRun", request))
        if isinstance(answer, HeliographError):
            _log.warning("%s was not accepted again: %s", handle.flow_run, answer)
            return
        if not door.check_token(answer.run_token):
            _log.error("%s was accepted again with a run token that is none", handle.flow_run)
            return
        folder = await self._launcher.outbox(handle)
        if folder is None:
            _log.warning("%s cannot be given a new token: its states come with its end", handle.flow_run)
            return
        try:
            RunDirectory(folder.parent).replace_token(answer.run_token)
        except OSError as error:
            _log.error("the new token of %s cannot be written: %s", handle.flow_run, error)

    async def tell_again(self, end: End, incarnation: str) -> None:
        """Tells a restored control plane how a run ended. `incarnation`: the store that had been told before."""
        rest = run_reporting_service_pb2.RunEventBatch(
            flow_run=end.flow_run, epoch=end.epoch, first_sequence=end.sequence, hole_from_sequence=1,
            incarnation=incarnation, agent=self._agent,
        )  # fmt: skip
        batch = event_batch(rest.SerializeToString(), [end.event])
        ack = run_reporting_service_pb2.RunEventAck.FromString
        # A refusal is an answer as well: it is known there under a newer epoch, or not at all.
        await self._answer_to(lambda: self._link.call_raw(UNARY_METHOD, batch, ack))

    async def _report(self, tracker: Tracker, found: InfraExit) -> None:
        request = pb.ReportFlowRunExitRequest(agent=self._agent, flow_run=tracker.flow_run, epoch=tracker.epoch)
        if found.reason is not None:
            request.failure.CopyFrom(_failure(found.reason, found.exit_code, found.signal))
        if tracker.handle is not None and (folder := await self._launcher.outbox(tracker.handle)) is not None:
            await asyncio.to_thread(self._ended.note, tracker.flow_run, tracker.epoch, folder)
        if found.time_micros:
            request.time.CopyFrom(_timestamp(found.time_micros))
        await self._insist("ReportFlowRunExit", request)

    async def _release(self, tracker: Tracker, asked: Release) -> None:
        request = pb.ReleaseFlowRunRequest(
            agent=self._agent, flow_run=tracker.flow_run, epoch=tracker.epoch, delay=delay_value(asked.delay)
        )
        if asked.failure is not None:
            request.failure.CopyFrom(_failure(asked.failure, None, None))
        elif asked.back_off:
            seconds = (asked.seconds or RELEASE_BACK_OFF_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311 (jitter)
            seconds = min(seconds, LONGEST_BACK_OFF_SECONDS)
            request.back_off.CopyFrom(Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))
        await self._insist("ReleaseFlowRun", request)

    async def _insist(self, method: str, request: Any) -> None:
        """Calls until there is an answer. A run that is another's or unknown needs no report any more."""
        answer = await self._answer_to(lambda: self._link.call(Stub, method, request))
        if isinstance(answer, HeliographError) and not isinstance(answer, (LeaseLostError, NotFoundError)):
            _log.error("%s for %s was refused: %s", method, request.flow_run, answer)

    async def _answer_to(self, call: Callable[[], Awaitable[T]]) -> T | HeliographError:
        """Calls until there is an answer, and returns it; or the refusal that another try would not change.

        Raises:
            AgentRefusedError: It is not this call that is refused, but the agent.
        """
        pause = Pause()
        while True:
            try:
                return await call()
            except AgentRefusedError:
                raise
            except HeliographError as error:
                if not worth_another_try(error):
                    return error
            await asyncio.sleep(pause.seconds())

    # --- what a dead supervisor left ------------------------------------------------------------------------------

    async def _ship(self, handle: Handle) -> None:
        folder = await self._launcher.outbox(handle)
        if folder is None:
            return
        try:
            refusal = await self._answer_to(lambda: self._ship_lanes(handle, folder))
        except OSError as error:  # nobody else can read it either: how the run ended is told all the same
            _log.error("what %s left cannot be read: %s", handle.flow_run, error)
            return
        if refusal is not None and not isinstance(refusal, (LeaseLostError, NotFoundError)):
            _log.error("what %s left was refused: %s", handle.flow_run, refusal)

    async def _ship_lanes(self, handle: Handle, folder: Path) -> None:
        await self._ship_states(handle, folder)
        await self._ship_logs(handle, folder)

    async def _ship_states(self, handle: Handle, folder: Path) -> None:
        reader = LaneReader(folder, STATES)
        try:
            # An empty batch asks how far the supervisor came.
            acked = (await self._send_states(handle, 1, 0, [])).acked_sequence
            while True:
                reader.seek(acked + 1)
                chunk = reader.read(MAX_RECORDS, MAX_EVENT_BYTES)
                if not chunk.payloads:
                    return
                hole = acked + 1 if chunk.first_sequence > acked + 1 else 0
                if hole:
                    _log.error("%d events of %s are lost", chunk.first_sequence - hole, handle.flow_run)
                acked = (await self._send_states(handle, chunk.first_sequence, hole, chunk.payloads)).acked_sequence
        finally:
            reader.close()

    async def _send_states(
        self, handle: Handle, first: int, hole: int, payloads: list[bytes]
    ) -> run_reporting_service_pb2.RunEventAck:
        rest = run_reporting_service_pb2.RunEventBatch(
            flow_run=handle.flow_run,
            epoch=handle.epoch,
            first_sequence=first,
            hole_from_sequence=hole,
            agent=self._agent,
        )
        return await self._link.call_raw(
            UNARY_METHOD,
            event_batch(rest.SerializeToString(), payloads),
            run_reporting_service_pb2.RunEventAck.FromString,
        )

    async def _ship_logs(self, handle: Handle, folder: Path) -> None:
        rest = log_service_pb2.WriteLogEntriesRequest(flow_run=handle.flow_run, epoch=handle.epoch, agent=self._agent)
        reader = LaneReader(folder, LOGS)
        try:
            while (chunk := reader.read(MAX_RECORDS, MAX_ENTRY_BYTES)).payloads:
                # Lines that the supervisor shipped are told again and left out by their numbers.
                await self._link.call_raw(
                    LOG_METHOD,
                    log_request(rest.SerializeToString(), chunk.payloads),
                    log_service_pb2.WriteLogEntriesResponse.FromString,
                )
        finally:
            reader.close()


def spec_of(lease: pb.FlowRunLease) -> RunSpec:
    """Returns what a launcher needs to know of a lease.

    Raises:
        BadLeaseError: A part of it does not have its form.
    """
    from heliograph.api.v1.flow_service_pb2 import BUNDLE_FORMAT_PICKLE

    door.check_lease(lease)
    run, version = lease.flow_run, lease.flow_version
    bundle = version.bundle
    return RunSpec(
        flow_run=run.name,
        flow_version=version.name,
        run_name=run.run_name,
        epoch=lease.epoch,
        attempt=lease.attempt,
        parameters_json=run.parameters_json,
        bundle=BundleSpec(
            storage=bundle.storage,
            location=bundle.location,
            digest=bundle.digest,
            launch_digest=bundle.launch_digest,
            pickled=bundle.format == BUNDLE_FORMAT_PICKLE,
            python_version=bundle.python_version,
            host=bundle.host,
            image=version.launch.image,
            signature_hex=bundle.signature.hex(),
            signing_key_id=bundle.signing_key_id,
        ),
        graph_hash=version.graph.graph_hash,
        scheduled_time_micros=run.scheduled_time.ToMicroseconds(),
        labels=tuple(run.labels),
    )


def with_own_launch(spec: RunSpec) -> RunSpec:
    """Returns the spec with what this agent's own file says of the flow's launch settings."""
    _, project, _, flow, *_ = spec.flow_version.split("/")
    try:
        text = own_launch_text(project, flow)
    except LaunchSettingsError as error:
        _log.error("%s", error)
        text = "unreadable"  # no TOML: the run is refused where settings are put together, with its reason
    return replace(spec, bundle=replace(spec.bundle, own_launch=text)) if text else spec


def delay_value(delay: LaunchDelay | None) -> LaunchDelayValue.ValueType:
    """Returns a delay as the API has it."""
    return LaunchDelayValue.ValueType(delay or 0)


def _failure(reason: FailureCode, exit_code: int | None, signal: int | None) -> Failure:
    failure = Failure(reason=int(reason))  # type: ignore[arg-type]
    if exit_code is not None:
        failure.exit_code = exit_code
    if signal is not None:
        failure.signal = signal
    return failure


def _timestamp(micros: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(micros)
    return stamp
