"""What is sealed is read with its key alone, and a change of any byte is noticed."""

from __future__ import annotations

import pytest

from heliograph_agents.launcher import LaunchError
from heliograph_agents.sealing import SealError, derive_key, seal, unseal
from heliograph_agents.start_code import MAX_SEALED_BYTES, Start, StartCodes

KEY = derive_key("the run token", "test")


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 100_000])
def test_what_is_sealed_can_be_opened(size: int) -> None:
    text = bytes(number % 251 for number in range(size))
    sealed = seal(KEY, text)
    assert unseal(KEY, sealed) == text
    assert len(sealed) == size + 49


def test_nothing_of_the_text_shows() -> None:
    text = b"password=hunter2 " * 50
    first, second = seal(KEY, text), seal(KEY, text)
    assert first != second, "not even that it is the same"
    assert b"hunter2" not in first
    pairs = zip(first[49:], first[49 + 17 :], strict=False)
    assert sum(one == other for one, other in pairs) < 50, "no period shows through"


def test_another_key_opens_nothing() -> None:
    sealed = seal(KEY, b"secret")
    for other in (derive_key("the run token", "other"), derive_key("another token", "test"), bytes(32)):
        with pytest.raises(SealError):
            unseal(other, sealed)
    with pytest.raises(ValueError, match="256 bits"):
        seal(b"short", b"secret")


def test_a_change_of_any_byte_is_noticed() -> None:
    sealed = seal(KEY, b"a small secret")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(SealError):
            unseal(KEY, bytes(changed))
    for end in range(len(sealed)):
        with pytest.raises(SealError):
            unseal(KEY, sealed[:end])


def test_a_start_is_one_word_and_shows_no_secret_to_whoever_prints_it() -> None:
    start = Start("plane:4480", "the-code", "the-key", tls_ca="-----BEGIN", seconds=5)
    assert Start.parse(start.text()) == start
    assert " " not in start.text()
    assert "the-code" not in repr(start)
    assert "the-key" not in repr(start)
    for nonsense in ("", "!", "aGVsbG8=", "e30="):
        with pytest.raises((ValueError, TypeError)):
            Start.parse(nonsense)


async def test_a_record_that_is_too_large_is_refused_before_it_is_sent() -> None:
    codes = StartCodes("agents/a", None)  # type: ignore[arg-type]
    with pytest.raises(LaunchError, match="may have"):
        await codes.ask("projects/p/flowRuns/r", 1, "token", "x" * MAX_SEALED_BYTES, {}, 60)
