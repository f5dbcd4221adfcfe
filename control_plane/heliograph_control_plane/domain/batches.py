"""Which part of a batch of events counts: the rules of sequence, epoch and incarnation.

A writer is (run, epoch) and numbers its events 1, 2, 3… The store keeps the newest sequence that it has. What it has
already is acknowledged again, what comes too early is asked for, and an older epoch never writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from heliograph_control_plane.domain.runs import Phase


@dataclass(frozen=True, slots=True)
class Apply:
    """Store the events after the first `skip` ones.

    Attributes:
        skip: Events at the head of the batch that are stored already.
        missing: Events before the batch that nobody has any more.
        adopt: The store was restored and has forgotten this lease: take it as it is told.
    """

    skip: int
    missing: int = 0
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """All of it is stored already (or it is empty): renew the lease and acknowledge."""

    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """Events are missing before the batch: the writer should go on at `expected`."""

    expected: int
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The writer's lease is not the run's: it must stop."""


Verdict: TypeAlias = Apply | Duplicate | Gap | LeaseLost


@dataclass(frozen=True, slots=True)
class Writer:
    """What the store knows of a run's newest writer."""

    epoch: int
    last_sequence: int
    phase: Phase
    finished: bool


def accept_batch(
    known: Writer,
    incarnation: str,
    *,
    epoch: int,
    first_sequence: int,
    count: int,
    told_incarnation: str = "",
    highest_forgotten: int = 0,
    hole_from_sequence: int = 0,
) -> Verdict:
    """Decides over one batch.

    Args:
        known: The store's side.
        incarnation: The store's own.
        epoch: The batch's epoch.
        first_sequence: Sequence of the batch's first event, or of the next one when it has none.
        count: Number of its events.
        told_incarnation: The store that the writer last heard from; empty before its first answer.
        highest_forgotten: No epoch above it was given out before the store was restored; 0 when it never was.
        hole_from_sequence: The writer no longer has events from here up to `first_sequence`; 0 means none.
    """
    adopt = False
    last = known.last_sequence
    if epoch != known.epoch:
        if not may_adopt(known, incarnation, epoch, told_incarnation, highest_forgotten):
            return LeaseLost()
        adopt, last = True, 0
    elif known.phase not in (Phase.HELD, Phase.ENDED):
        return LeaseLost()
    missing = 0
    if first_sequence > last + 1:
        if not 0 < hole_from_sequence <= last + 1:
            return Gap(last + 1, adopt)
        missing = first_sequence - last - 1
        last = first_sequence - 1
    if first_sequence + count - 1 <= last and not missing:
        return Duplicate(adopt)
    return Apply(last + 1 - first_sequence, missing, adopt)


def may_adopt(known: Writer, incarnation: str, epoch: int, told_incarnation: str, highest_forgotten: int) -> bool:
    """True when a writer of a newer epoch is one that a restored store has forgotten.

    Only writers that heard from another incarnation qualify, under an epoch that can have been given out before the
    restore. Leases that the restored store gave out itself have epochs above all those, so a newer epoch never belongs
    to a copy of a run that has been leased anew, and no writer can lift a run's epoch beyond the leases to come.
    """
    if not known.epoch < epoch <= highest_forgotten:
        return False
    return told_incarnation not in ("", incarnation) and not known.finished
