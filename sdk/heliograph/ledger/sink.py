"""The part of a `RunSink` that concerns the ledger."""

from __future__ import annotations

import os

from heliograph.engine.codes import FailureCode
from heliograph.engine.sink import FailureInfo, NullSink, StoredResult
from heliograph.failures import FailureText, describe_exception, plain_text
from heliograph.ledger.writer import LedgerWriter

__all__ = ["LedgerSink"]


class LedgerSink(NullSink):
    """Records errors, results, inputs and names in a ledger; states are not its business.

    Args:
        writer: The ledger.
        root: Folder of the bundle: paths of frames are relative to it.
        failure_text: How much of a failure's text may be told.
    """

    def __init__(
        self,
        writer: LedgerWriter,
        root: str | os.PathLike[str] | None = None,
        failure_text: FailureText = "local",
    ) -> None:
        self.writer = writer
        self._root = root
        self._failure_text: FailureText = failure_text

    def failed(self, error: BaseException, task: int | None, map_index: int | None, reason: FailureCode) -> FailureInfo:
        """Records the whole traceback, and returns class, frames and the record's id."""
        told = describe_exception(error, self._root, self._failure_text)
        error_id = self.writer.new_error_id()
        self.writer.error(
            error_id,
            plain_text(error),
            task=task,
            map_index=map_index,
            exception_class=told.exception_class,
            reason=reason.name,
        )
        return FailureInfo(reason, told.exception_class, told.frames, error_id, text=told.text)

    def result(self, task: int, map_index: int | None, stored: StoredResult) -> None:
        """Records where a result is."""
        self.writer.result(task, map_index, stored)

    def mapped_input(self, task: int, map_index: int, inputs: dict[str, StoredResult]) -> None:
        """Records where inputs are."""
        self.writer.mapped_input(task, map_index, inputs)

    def rendered_name(self, task: int, map_index: int | None, name: str) -> None:
        """Records a name."""
        self.writer.rendered_name(task, map_index, name)
