"""Ships a run's states from the outbox: the supervisor's first pump, a thread with its own lane and its own pace.

One batch at a time on a stream; the next gathers while the acknowledgement is under way. Where streams do not pass, the
unary twin is used. After an outage everything goes out in order with its own times.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliograph.api.v1 import run_reporting_service_pb2
from heliograph.api.v1.agent_service_pb2 import Command
from heliograph.engine.codes import StateCode
from heliograph.exceptions import (
    ClientTooOldError,
    HeliographError,
    InvalidArgumentError,
    SequenceGapError,
    UnavailableError,
)
from heliograph.reporting.batches import MAX_EVENT_BYTES, MAX_RECORDS, event_batch
from heliograph.reporting.lanes import STATES, Chunk, LaneReader
from heliograph_agents.pumping import ACK_SECONDS, Link, Pump, Verdict, Writer

if TYPE_CHECKING:
    import grpc

STREAM_METHOD = "/heliograph.api.v1.RunReportingService/StreamRunEvents"
UNARY_METHOD = "/heliograph.api.v1.RunReportingService/ReportRunEvents"

STREAM_SECONDS = 3600.0
"""Deadline of one stream; another follows."""

LOGS_FIRST_SECONDS = 3.0
"""How long the final state waits for the log lines before it."""

FLOW_RUN_TAG = 0x12
"""First byte of a `RunEvent` that tells of the flow run: field 2, length-delimited."""

_log = logging.getLogger("heliograph.supervisor")


OnAck = Callable[[run_reporting_service_pb2.RunEventAck | HeliographError], None]
"""Takes an acknowledgement, or why there will be none."""


class _Stream:
    """One `StreamRunEvents` call: batches up; acknowledgements and commands down, on a thread of their own."""

    def __init__(self, channel: grpc.Channel, on_ack: OnAck) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._on_ack = on_ack
        method: Any = channel.stream_stream(
            STREAM_METHOD,
            request_serializer=None,
            response_deserializer=run_reporting_service_pb2.RunEventAck.FromString,
        )
        self._call = method(_until_none(self._requests), timeout=STREAM_SECONDS)
        threading.Thread(target=self._receive, name="heliograph-acks", daemon=True).start()

    def send(self, batch: bytes) -> None:
        self._requests.put(batch)

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()

    def _receive(self) -> None:
        import grpc

        from heliograph.client.errors import to_error

        try:
            for ack in self._call:
                self._on_ack(ack)
        except grpc.RpcError as error:
            known = to_error(error)
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                known = _NoStreamsError(str(known))
            self._on_ack(known)
        else:
            self._on_ack(UnavailableError("the control plane ended the stream"))


class _NoStreamsError(HeliographError):
    """The way to the control plane lets no stream pass."""

    retryable = True


class _Unary:
    """The same by `ReportRunEvents`, for networks that let no stream pass."""

    def __init__(self, channel: grpc.Channel, on_ack: OnAck) -> None:
        self._on_ack = on_ack
        self._method: Any = channel.unary_unary(
            UNARY_METHOD,
            request_serializer=None,
            response_deserializer=run_reporting_service_pb2.RunEventAck.FromString,
        )

    def send(self, batch: bytes) -> None:
        import grpc

        from heliograph.client.errors import to_error

        try:
            self._on_ack(self._method(batch, timeout=ACK_SECONDS))
        except grpc.RpcError as error:
            self._on_ack(to_error(error))

    def close(self) -> None:
        """Nothing to close."""


class StatePump(Pump):
    """Ships run events, renews the lease, and brings commands back.

    The flow's final state waits until the log lines before it are shipped, at most `LOGS_FIRST_SECONDS`: whoever sees
    the end has seen the lines. That of a cancelled flow also waits for `finish`, which comes when nothing of it lives.

    Args:
        link: The channel.
        folder: The outbox.
        writer: Who ships.
        incarnation: The store that the run was leased from.
        renew_every_seconds: The longest silence.
        on_contact: Called once, when the control plane has answered first.
        on_command: Called with each `Command` that is not UNSPECIFIED.
        on_end: Called when the pump has ended, with `verdict` set.
        drain_logs: Waits until log lines are shipped, at most the given seconds.

    Attributes:
        acked: Sequence up to which all events are committed.
        idle: Set while nothing waits to be shipped.
    """

    def __init__(
        self,
        link: Link,
        folder: Path,
        writer: Writer,
        *,
        incarnation: str,
        renew_every_seconds: float,
        on_contact: Callable[[], None],
        on_command: Callable[[int], None],
        on_end: Callable[[], None],
        drain_logs: Callable[[float], None],
    ) -> None:
        super().__init__("heliograph-states", link)
        self.acked = 0
        self.idle = threading.Event()
        self._reader = LaneReader(folder, STATES)
        self._writer = writer
        self._incarnation = incarnation
        self._renew_every_seconds = renew_every_seconds
        self._on_contact: Callable[[], None] | None = on_contact
        self._on_command, self._on_end, self._drain_logs = on_command, on_end, drain_logs
        self._unary = False
        self._hole_from = 0
        self._most = MAX_RECORDS
        self._news = True
        self._exchange: _Stream | _Unary | None = None
        self._answers: queue.SimpleQueue[run_reporting_service_pb2.RunEventAck | HeliographError] = queue.SimpleQueue()
        self._in_flight: tuple[int, bool] | None = None
        self._sent_at = 0.0
        self._final_shipped = False
        self._held: Chunk | None = None

    def poke(self) -> None:
        """Says that there may be something new. Only then is the lane read: events gather between two pokes."""
        self._news = True
        super().poke()

    def run(self) -> None:
        """Ships until there is a verdict."""
        try:
            while self.verdict is None and not self._stopped:
                self._session()
        finally:
            if self.verdict is None:
                self.verdict = Verdict.STOPPED
            self._reader.close()
            self.idle.set()
            self._on_end()

    def check(self) -> None:
        """Ends an exchange whose acknowledgement is overdue: a half-open connection never fails by itself."""
        exchange, sent_at = self._exchange, self._sent_at
        if exchange is not None and sent_at and time.monotonic() - sent_at > ACK_SECONDS:
            exchange.close()

    def _session(self) -> None:
        """One exchange, from its first batch until it breaks, is old, or nothing is left."""
        answers: queue.SimpleQueue[run_reporting_service_pb2.RunEventAck | HeliographError] = queue.SimpleQueue()

        def on_ack(answer: run_reporting_service_pb2.RunEventAck | HeliographError) -> None:
            answers.put(answer)
            self._wake.set()

        self._answers = answers
        exchange = (_Unary if self._unary else _Stream)(self._link.channel(), on_ack)
        self._exchange = exchange
        try:
            self._talk(exchange)
        except HeliographError as error:
            self._failed(error)
        finally:
            exchange.close()
            self._exchange, self._in_flight, self._held, self._sent_at = None, None, None, 0.0

    def _failed(self, error: HeliographError) -> None:
        if self._stopped:
            return
        if isinstance(error, _NoStreamsError):
            self._unary = True
            self._rewind(self.acked + 1)
        elif isinstance(error, SequenceGapError):
            self._rewind(int(error.metadata.get("expected_sequence", "0")) or self.acked + 1)
            self._back_off()
        elif isinstance(error, InvalidArgumentError) and self._in_flight is not None and self._in_flight[1]:
            self._refused(error, self._in_flight[0])
        else:
            if isinstance(error, ClientTooOldError):
                self._unary = False  # not even single calls pass: whatever answers, it is not the control plane
            self.verdict = self._judge(error)
            self._rewind(self.acked + 1)
            self._link.failed(error)
            if self.verdict is None:
                self._back_off()

    def _refused(self, error: InvalidArgumentError, last: int) -> None:
        """An event of the batch was refused, and would be again: it is found by halves and left out, as a hole."""
        first = self.acked + 1
        self._most = max(1, (last - self.acked) // 2)
        self._rewind(first)
        if last <= first:
            _log.error("event %d of this run was refused and is left out: %s", last, error)
            self._reader.seek(last + 1)
            self._hole_from = first

    def _talk(self, exchange: _Stream | _Unary) -> None:
        """Keeps one batch in flight until nothing is left, or the exchange breaks or is old."""
        renew = True  # the first batch goes out even when it is empty: it is the first contact
        limit = time.monotonic() + STREAM_SECONDS / 2
        while not self._stopped:
            self._wake.clear()
            no_more = self._no_more
            while not self._answers.empty():
                self._take(self._answers.get())
            if self._in_flight is not None:
                self._wake.wait(ACK_SECONDS)
                continue
            if time.monotonic() > limit:
                self._rewind(self.acked + 1)
                return
            look, self._news = self._news or no_more, False
            chunk = self._next_chunk() if look or self._held is not None else Chunk(self._reader.next_sequence, [])
            self._news = self._news or (bool(chunk.payloads) and self._reader.more)
            if chunk.payloads or renew or self._hole_from:
                renew = False
                self.idle.clear()
                self._send(exchange, chunk)
                continue
            self.idle.set()
            if no_more:
                self.verdict = Verdict.DONE
                return
            renew = not self._wake.wait(self._renew_every_seconds)  # a silence: renew the lease
            # And look: a flow that lets no other thread of its process run has written what it cannot tell of.
            self._news = self._news or renew

    def _next_chunk(self) -> Chunk:
        """Returns what is to be sent next; the final state alone, and only after the log lines before it."""
        chunk, self._held = self._held, None
        if chunk is None:
            at = self._reader.next_sequence
            chunk = self._reader.read(self._most, MAX_EVENT_BYTES)
            payloads = chunk.payloads
            if payloads and chunk.first_sequence > at:
                _log.error("%d events before event %d are lost", chunk.first_sequence - at, chunk.first_sequence)
                self._hole_from = self._hole_from or at
            if not payloads or final_state(payloads[-1]) is None:
                return chunk
            if len(payloads) > 1:
                self._held = Chunk(chunk.first_sequence + len(payloads) - 1, payloads[-1:])
                return Chunk(chunk.first_sequence, payloads[:-1])
        self.idle.set()
        if not self._no_more and final_state(chunk.payloads[-1]) is StateCode.CANCELLED:
            self._held = chunk  # first every process of the run ends, then it is called cancelled
            return Chunk(chunk.first_sequence, [])
        self._drain_logs(LOGS_FIRST_SECONDS)
        self._final_shipped = True
        return chunk

    def _send(self, exchange: _Stream | _Unary, chunk: Chunk) -> None:
        rest = run_reporting_service_pb2.RunEventBatch(
            flow_run=self._writer.flow_run,
            epoch=self._writer.epoch,
            first_sequence=chunk.first_sequence,
            incarnation=self._incarnation,
            hole_from_sequence=self._hole_from,
        )
        self._in_flight = (chunk.first_sequence + len(chunk.payloads) - 1, bool(chunk.payloads))
        self._sent_at = time.monotonic()
        exchange.send(event_batch(rest.SerializeToString(), chunk.payloads))

    def _take(self, answer: run_reporting_service_pb2.RunEventAck | HeliographError) -> None:
        """Takes an acknowledgement: of the batch in flight, or one that only brings a command."""
        if isinstance(answer, HeliographError):
            raise answer
        self._answered()
        if self._on_contact is not None:
            self._on_contact()
            self._on_contact = None
        restored = bool(self._incarnation) and answer.incarnation != self._incarnation
        self._incarnation = answer.incarnation
        asked = answer.command
        if asked != Command.COMMAND_UNSPECIFIED and not (asked == Command.COMMAND_FORGET and self._final_shipped):
            self._on_command(asked)
        if self._in_flight is None:
            return
        sent, had_events = self._in_flight
        if restored:
            _log.warning("the control plane was restored: it has events up to %d of %d", answer.acked_sequence, sent)
        elif had_events and answer.acked_sequence < sent and asked != Command.COMMAND_UNSPECIFIED:
            return  # it brought the command; that of the batch will follow
        self.acked, self._in_flight, self._sent_at, self._hole_from = answer.acked_sequence, None, 0.0, 0
        if answer.acked_sequence < sent or restored:
            self._held = None
            self._rewind(answer.acked_sequence + 1)
        elif had_events:
            self._most = min(MAX_RECORDS, self._most * 2)
            self._reader.trim(answer.acked_sequence)

    def _rewind(self, sequence: int) -> None:
        """Goes on from `sequence`; where that is gone, says that there is a hole."""
        found = self._reader.seek(sequence)
        self._news = True
        self._hole_from = sequence if found > sequence else 0


def final_state(payload: bytes) -> StateCode | None:
    """Returns the flow run's finished state that a serialized `RunEvent` tells of, or None for any other event."""
    if payload[0] != FLOW_RUN_TAG:
        return None
    state = StateCode(run_reporting_service_pb2.RunEvent.FromString(payload).flow_run.state)
    return state if state.is_finished else None


def _until_none(requests: queue.SimpleQueue[bytes | None]) -> Iterator[bytes]:
    while (request := requests.get()) is not None:
        yield request
