"""Which part of a batch counts, for every position that a batch can have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliograph_control_plane.domain.batches import Apply, Duplicate, Gap, LeaseLost, Writer, accept_batch
from heliograph_control_plane.domain.runs import Phase

HELD = Writer(epoch=3, last_sequence=10, phase=Phase.HELD, finished=False)


@given(last=st.integers(0, 50), first=st.integers(1, 60), count=st.integers(0, 20))
def test_exactly_the_events_beyond_the_last_are_stored(last: int, first: int, count: int) -> None:
    known = Writer(3, last, Phase.HELD, finished=False)
    verdict = accept_batch(known, "i", epoch=3, first_sequence=first, count=count)
    new = [sequence for sequence in range(first, first + count) if sequence > last]
    if first > last + 1:
        assert verdict == Gap(last + 1)
    elif new:
        assert isinstance(verdict, Apply)
        assert list(range(first, first + count))[verdict.skip :] == new
        assert new[0] == last + 1
    else:
        assert verdict == Duplicate()


@given(hole=st.integers(0, 30), first=st.integers(1, 30), count=st.integers(0, 5))
def test_a_hole_counts_only_what_is_really_missing(hole: int, first: int, count: int) -> None:
    verdict = accept_batch(HELD, "i", epoch=3, first_sequence=first, count=count, hole_from_sequence=hole)
    if first > 11 and 0 < hole <= 11:
        assert verdict == Apply(0, missing=first - 11)
    else:
        assert getattr(verdict, "missing", 0) == 0


@given(
    epoch=st.integers(0, 8),
    told=st.sampled_from(["", "i", "before"]),
    finished=st.booleans(),
    highest=st.integers(0, 8),
)
def test_only_the_epoch_writes_or_one_that_a_restored_store_forgot(
    epoch: int, told: str, finished: bool, highest: int
) -> None:
    known = Writer(3, 10, Phase.ENDED if finished else Phase.HELD, finished)
    verdict = accept_batch(
        known, "i", epoch=epoch, first_sequence=1, count=1, told_incarnation=told, highest_forgotten=highest
    )
    if epoch == 3:
        assert verdict == Duplicate()
    elif 3 < epoch <= highest and told == "before" and not finished:
        assert verdict == Apply(0, adopt=True)
    else:
        assert verdict == LeaseLost()


def test_a_lease_that_was_not_accepted_or_was_given_back_writes_nothing() -> None:
    for phase in (Phase.NONE, Phase.OFFERED):
        known = Writer(3, 0, phase, finished=False)
        assert accept_batch(known, "i", epoch=3, first_sequence=1, count=1) == LeaseLost()
