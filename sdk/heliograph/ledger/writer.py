"""Writes a run's ledger: an append from any thread, one thread that writes segments."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from typing import Any

from heliograph.engine.sink import StoredResult
from heliograph.exceptions import ResultStoreError
from heliograph.ledger.records import ERROR, INPUTS, LOST, NAME, RESULT, Record, encode
from heliograph.ledger.stores import LedgerStore, segment_name, segment_order

__all__ = ["LedgerWriter"]

_log = logging.getLogger("heliograph.ledger")

FLUSH_SECONDS = 2.0
MAX_PENDING = 100_000
MAX_PENDING_TEXT_BYTES = 64 * 1024 * 1024
MAX_TEXT = 256 * 1024
"""Characters kept of one text: the beginning and, twice as much, the end."""

_ERROR_LINGER_SECONDS = 0.05
_RETRY_SECONDS = (0.5, 1, 2, 5)


class LedgerWriter:
    """Records what happens in one attempt of a run. Appending is cheap, never waits and never raises.

    Records are written within two seconds, errors at once. While the store does not take them they are kept and tried
    again; what exceeds the buffer is dropped, and the ledger says how much.

    Args:
        store: Where the ledger is.
        flow_run_id: The run.
        epoch: Number of the attempt's lease.
    """

    def __init__(self, store: LedgerStore, flow_run_id: str, epoch: int) -> None:
        self._store = store
        self._run = flow_run_id
        self._epoch = epoch
        self._pending: deque[Record] = deque()
        self._text_bytes = 0
        self._lost = 0
        self._number = 0
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._appended = 0
        self._written = 0
        self._urgent = False
        self._awaited = False
        self._closed = False

    def error(
        self,
        error_id: str,
        text: str,
        *,
        task: int | None = None,
        map_index: int | None = None,
        exception_class: str = "",
        reason: str = "",
    ) -> None:
        """Records the text of an error under its id."""
        if len(text) > MAX_TEXT:
            head, tail = text[: MAX_TEXT // 3], text[-2 * MAX_TEXT // 3 :]
            text = f"{head}\n… {len(text) - MAX_TEXT:,} characters left out …\n{tail}"
        fields = {"id": error_id, "task": task, "map_index": map_index, "class": exception_class, "reason": reason}
        self._append(ERROR, {**fields, "text": text}, len(text))

    def new_error_id(self) -> str:
        """Returns an id that leads `errors show` from here to this ledger: the run's, and eight random digits."""
        return f"{self._run}.{secrets.token_hex(4)}"

    def result(self, task: int, map_index: int | None, stored: StoredResult) -> None:
        """Records where a result is, or why it was not kept."""
        self._append(RESULT, {"task": task, "map_index": map_index, "stored": stored})

    def mapped_input(self, task: int, map_index: int, inputs: dict[str, StoredResult]) -> None:
        """Records where the inputs of a child are."""
        self._append(INPUTS, {"task": task, "map_index": map_index, "inputs": inputs})

    def rendered_name(self, task: int, map_index: int | None, name: str) -> None:
        """Records the rendered name of a task run."""
        self._append(NAME, {"task": task, "map_index": map_index, "name": name})

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Waits until all that was recorded before is written; False when the time was not enough."""
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            wanted = self._appended
            self._urgent = self._awaited = True
            self._condition.notify_all()
            while self._written < wanted:
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None:
                    return False
                self._condition.wait(left)
        return True

    def close(self, timeout_seconds: float = 30.0) -> bool:
        """Writes what is left and ends the thread; False when something could not be written in time."""
        done = self.flush(timeout_seconds)
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(1.0)
        return done

    def _append(self, kind: str, fields: dict[str, Any], text_bytes: int = 0) -> None:
        fields["time_unix_micros"] = time.time_ns() // 1000
        with self._condition:
            if self._closed:
                return
            if len(self._pending) >= MAX_PENDING or self._text_bytes + text_bytes > MAX_PENDING_TEXT_BYTES:
                self._lost += 1
                return
            self._pending.append((kind, fields))
            self._text_bytes += text_bytes
            self._appended += 1
            self._urgent = self._urgent or kind == ERROR
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_thread, name="heliograph-ledger", daemon=True)
                self._thread.start()
            elif self._urgent or len(self._pending) == 1:
                self._condition.notify_all()

    def _run_thread(self) -> None:
        failures = 0
        while True:
            batch = self._next_batch()
            if not batch:
                return
            while True:
                try:
                    self._write(batch)
                except (ResultStoreError, OSError) as error:
                    if not failures:
                        _log.warning("The ledger cannot be written now; trying again. %s", error)
                    if self._pause(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]):
                        return
                    failures += 1
                else:
                    failures = 0
                    break
            with self._condition:
                self._written += len(batch)
                self._condition.notify_all()

    def _next_batch(self) -> list[Record]:
        """Waits for records and a little for more of them; an empty batch means the end."""
        with self._condition:
            while not self._pending and not self._closed:
                self._condition.wait()
            deadline = time.monotonic() + FLUSH_SECONDS
            while not self._closed and not self._urgent and (left := deadline - time.monotonic()) > 0:
                self._condition.wait(left)
            if self._urgent and not (self._closed or self._awaited):
                self._condition.wait(_ERROR_LINGER_SECONDS)  # errors seldom come alone
            self._urgent = self._awaited = False
            batch = list(self._pending)
            self._pending.clear()
            self._text_bytes = 0
            if batch and self._lost:
                batch.append((LOST, {"count": self._lost}))
                self._lost = 0
                self._appended += 1
            return batch

    def _write(self, batch: list[Record]) -> None:
        if not self._number:  # a writer before this one, of the same epoch, may have left segments
            orders = filter(None, map(segment_order, self._store.names(self._run)))
            self._number = 1 + max((number for epoch, number in orders if epoch == self._epoch), default=0)
        self._store.put(self._run, segment_name(self._epoch, self._number), encode(batch))
        self._number += 1

    def _pause(self, seconds: float) -> bool:
        """Waits; True when the writer was closed meanwhile."""
        with self._condition:
            return self._condition.wait_for(lambda: self._closed, seconds)
