"""Every reason has words for people."""

from __future__ import annotations

import signal

import pytest

from heliograph.engine.codes import FailureCode
from heliograph.utilities.hints import failure_hint


@pytest.mark.parametrize("reason", FailureCode)
def test_every_reason_says_what_it_means_and_what_to_do(reason: FailureCode) -> None:
    """No reason of the closed list is left without words."""
    meaning, advice = failure_hint(reason)
    assert len(meaning) > 10
    assert len(advice) > 10


def test_a_signal_is_named() -> None:
    """Known signals by name and cause, others by number."""
    assert failure_hint(FailureCode.SIGNAL, signal.SIGKILL)[0].startswith("SIGKILL: ")
    assert "memory" in failure_hint(FailureCode.SIGNAL, signal.SIGKILL)[1]
    assert failure_hint(FailureCode.SIGNAL, signal.SIGUSR2)[0].startswith("SIGUSR2: ")
    assert failure_hint(FailureCode.SIGNAL, 99)[0].startswith("signal 99: ")
