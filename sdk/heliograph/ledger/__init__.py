"""The ledger: what a run records on the user's side only, in the storage of its flow's results.

Texts of errors, where results are, inputs of mapped children, rendered names. Records are JSON lines in immutable
segments `ledger/<flow run>/<epoch>-<n>.jsonl`; a segment is written whole, and never changed. Whoever may read the
results may read the ledger; the control plane cannot.
"""

from __future__ import annotations

from heliograph.ledger.reader import LedgerError, LedgerReader
from heliograph.ledger.sink import LedgerSink
from heliograph.ledger.stores import LedgerStore, LocalLedgerStore, open_store
from heliograph.ledger.writer import LedgerWriter

__all__ = [
    "LedgerError",
    "LedgerReader",
    "LedgerSink",
    "LedgerStore",
    "LedgerWriter",
    "LocalLedgerStore",
    "open_store",
]
