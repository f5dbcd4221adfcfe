"""Reads a run's ledger, with the caller's own credentials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heliograph.engine.sink import StoredResult
from heliograph.exceptions import NotFoundError
from heliograph.ledger.records import ERROR, INPUTS, LOST, NAME, RESULT, parse_lines, stored_from
from heliograph.ledger.stores import LedgerStore, segment_order

__all__ = ["LedgerError", "LedgerReader", "TaskRunKey"]

TaskRunKey = tuple[int, int | None]
"""Index of the task in the graph, and index of the child or None."""


@dataclass(frozen=True, slots=True)
class LedgerError:
    """An error as the ledger has it.

    Attributes:
        error_id: Its id, as the control plane shows it.
        text: The whole traceback.
        task: Index of the task; None for the flow run's own.
        map_index: Index of the child.
        exception_class: Dotted name.
        reason: Name of the failure reason.
        time_unix_micros: When it was recorded.
        epoch: Attempt that recorded it.
    """

    error_id: str
    text: str
    task: int | None
    map_index: int | None
    exception_class: str
    reason: str
    time_unix_micros: int
    epoch: int


class LedgerReader:
    """Reads the ledger of one run; segments are read once, `refresh` reads new ones.

    Args:
        store: Where the ledger is.
        flow_run_id: The run.

    Attributes:
        damaged: Lines that could not be read; a process that was killed leaves at most one.
        lost: Records that the writer had to drop.
    """

    def __init__(self, store: LedgerStore, flow_run_id: str) -> None:
        self._store = store
        self._run = flow_run_id
        self._records: list[tuple[int, dict[str, Any]]] = []
        self._seen: set[str] = set()
        self.damaged = 0
        self.lost = 0
        self.refresh()

    def refresh(self) -> int:
        """Reads segments that were written since; returns how many.

        Raises:
            ResultStoreError: If the store cannot be read.
        """
        new = [name for name in self._store.names(self._run) if name not in self._seen]
        for name in new:
            records, damaged = parse_lines(self._store.read(self._run, name))
            epoch = (segment_order(name) or (0, 0))[0]
            self._records.extend((epoch, record) for record in records)
            self._seen.add(name)
            self.damaged += damaged
            self.lost += sum(int(record.get("count", 0)) for record in records if record["kind"] == LOST)
        if new:
            self._records.sort(key=lambda item: item[0])  # stable: within an epoch, order of writing
        return len(new)

    def errors(self) -> list[LedgerError]:
        """Returns all errors, in order of recording."""
        return [
            LedgerError(
                error_id=str(record.get("id", "")),
                text=str(record.get("text", "")),
                task=record.get("task"),
                map_index=record.get("map_index"),
                exception_class=str(record.get("class", "")),
                reason=str(record.get("reason", "")),
                time_unix_micros=int(record.get("time_unix_micros", 0)),
                epoch=epoch,
            )
            for epoch, record in self._of(ERROR)
        ]

    def error(self, error_id: str) -> LedgerError:
        """Returns one error.

        Raises:
            NotFoundError: If the ledger has no such error.
        """
        for found in self.errors():
            if found.error_id == error_id:
                return found
        raise NotFoundError(
            f"the ledger in {self._store} has no error {error_id}",
            hint="Its process may have been killed before the ledger was written; standard error has it then.",
        )

    def results(self) -> dict[TaskRunKey, StoredResult]:
        """Returns where results are, or why they were not kept; of several attempts, the last."""
        return {_key(record): stored_from(record["stored"]) for _, record in self._of(RESULT)}

    def mapped_inputs(self) -> dict[TaskRunKey, dict[str, StoredResult]]:
        """Returns where inputs of children are, by name of the argument."""
        return {
            _key(record): {name: stored_from(stored) for name, stored in record["inputs"].items()}
            for _, record in self._of(INPUTS)
        }

    def rendered_names(self) -> dict[TaskRunKey, str]:
        """Returns rendered names of task runs."""
        return {_key(record): str(record["name"]) for _, record in self._of(NAME)}

    def _of(self, kind: str) -> list[tuple[int, dict[str, Any]]]:
        return [item for item in self._records if item[1]["kind"] == kind]


def _key(record: dict[str, Any]) -> TaskRunKey:
    return record["task"], record.get("map_index")
