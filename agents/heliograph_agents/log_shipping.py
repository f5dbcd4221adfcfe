"""Ships a run's log lines from the outbox: the supervisor's second pump, a thread with its own lane and its own pace.

By unary calls, and only while no states wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliograph.api.v1 import log_service_pb2
from heliograph.exceptions import InvalidArgumentError
from heliograph.reporting.batches import MAX_ENTRY_BYTES, MAX_RECORDS, log_request
from heliograph.reporting.lanes import LOGS, Chunk, LaneReader
from heliograph_agents.pumping import ACK_SECONDS, Link, Pump, Verdict, Writer

LOG_METHOD = "/heliograph.api.v1.LogService/WriteLogEntries"

LOGS_WAIT_SECONDS = 0.1
"""How long log lines wait for states."""

_log = logging.getLogger("heliograph.supervisor")


class LogPump(Pump):
    """Ships log lines: behind states, and at least every `LOGS_WAIT_SECONDS` beside them.

    Args:
        link: The channel.
        folder: The outbox.
        writer: Who ships.
        on_end: Called when the pump has ended, with `verdict` set.
    """

    def __init__(self, link: Link, folder: Path, writer: Writer, on_end: Callable[[], None]) -> None:
        super().__init__("heliograph-logs", link)
        self._reader = LaneReader(folder, LOGS)
        self._rest = log_service_pb2.WriteLogEntriesRequest(
            flow_run=writer.flow_run, epoch=writer.epoch
        ).SerializeToString()
        self._on_end = on_end
        self._waiting: list[threading.Event] = []
        self.states_idle: threading.Event | None = None

    def drain(self, timeout_seconds: float) -> None:
        """Waits until all lines that are on disk now are shipped."""
        drained = threading.Event()
        self._waiting.append(drained)
        self._wake.set()
        if self.is_alive():
            drained.wait(timeout_seconds)

    def run(self) -> None:
        """Ships until there is a verdict."""
        try:
            while self.verdict is None and not self._stopped:
                self._turn()
        finally:
            if self.verdict is None:
                self.verdict = Verdict.STOPPED
            self._reader.close()
            for drained in self._waiting:
                drained.set()
            self._on_end()

    def _turn(self) -> None:
        no_more = self._no_more
        waiting, self._waiting = self._waiting, []
        if self.states_idle is not None and not waiting:
            self.states_idle.wait(LOGS_WAIT_SECONDS)
        chunk = self._reader.read(MAX_RECORDS, MAX_ENTRY_BYTES)
        if chunk.payloads:
            self._waiting[:0] = waiting  # in one step: another thread adds to it
            self._ship(chunk)
            return
        for drained in waiting:
            drained.set()
        if no_more:
            self.verdict = Verdict.DONE
        elif not self._waiting:
            self._wake.wait()
            self._wake.clear()

    def _ship(self, chunk: Chunk) -> None:
        import grpc

        from heliograph.client.errors import to_error

        payloads = chunk.payloads
        call: Any = self._link.channel().unary_unary(
            LOG_METHOD,
            request_serializer=None,
            response_deserializer=log_service_pb2.WriteLogEntriesResponse.FromString,
        )
        try:
            call(log_request(self._rest, payloads), timeout=ACK_SECONDS)
        except grpc.RpcError as error:
            known = to_error(error)
            self.verdict = self._judge(known)
            if self.verdict is not None or self._stopped:
                return
            if isinstance(known, InvalidArgumentError):
                # The lines themselves were refused: they would be refused again, and must not hold up the others.
                _log.warning("%d log lines were refused: %s", len(payloads), known)
                return
            self._link.failed(known)
            self._reader.seek(chunk.first_sequence)
            self._back_off()
        else:
            self._answered()
            self._reader.trim(chunk.first_sequence + len(payloads) - 1)
