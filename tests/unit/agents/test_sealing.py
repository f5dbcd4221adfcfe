"""What is sealed is read with its key alone, and a change of any byte is noticed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from heliograph.engine.codes import FailureCode
from heliograph_agents.launcher import LaunchError
from heliograph_agents.sealing import SealError, derive_key, seal, unseal
from heliograph_agents.start_code import MAX_SEALED_BYTES, Start, StartCodes

KEY = derive_key("the run token", "test")


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 100_000])
def test_what_is_sealed_can_be_opened(size: int) -> None:
    text = bytes(number % 251 for number in range(size))
    sealed = seal(KEY, text)
    assert unseal(KEY, sealed) == text
    assert len(sealed) == size + 29


def test_nothing_of_the_text_shows() -> None:
    text = b"password=hunter2 " * 50
    first, second = seal(KEY, text), seal(KEY, text)
    assert first != second, "not even that it is the same"
    assert b"hunter2" not in first
    pairs = zip(first[13:], first[13 + 17 :], strict=False)
    assert sum(one == other for one, other in pairs) < 50, "no period shows through"


def test_another_key_opens_nothing() -> None:
    sealed = seal(KEY, b"secret")
    for other in (derive_key("the run token", "other"), derive_key("another token", "test"), bytes(32)):
        with pytest.raises(SealError):
            unseal(other, sealed)
    for work in (seal, unseal):
        with pytest.raises(ValueError, match="256 bits"):
            work(b"short", sealed)


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
    with pytest.raises(LaunchError, match="may have") as refused:
        await codes.ask("projects/p/flowRuns/r", 1, "token", "x" * MAX_SEALED_BYTES, {}, 60)
    assert refused.value.failure is FailureCode.LAUNCH_SETTINGS, "it will be as large the next time"


APART = """
import sys
from heliograph_agents import container, start_code
from heliograph_agents.sealing import seal

key = bytes(32)
sealed = seal(key, b'{"launch": "all of it", "files": {"tls_ca.pem": "ca"}}')

def exchange(start, request):
    import grpc
    return type("Answer", (), {"run_token": "hg_token", "sealed_launch": sealed})

start_code._exchange = exchange
start = start_code.Start("plane:4480", "code", key.hex())
found = start_code.collect_apart(start, tell=print)
assert (found.run_token, found.launch, found.files) == ("hg_token", "all of it", {"tls_ca.pem": b"ca"})
try:
    start_code.collect_apart(start_code.Start("plane:4480", "code", "11" * 32), tell=print)
except ValueError as error:
    assert "cannot be opened" in str(error)
else:
    raise AssertionError("opened with another key")
assert "grpc" not in sys.modules, "a process that forks has it not"
"""


def test_the_process_from_which_the_flow_is_forked_has_not_begun_with_grpc() -> None:
    told = subprocess.run([sys.executable, "-c", APART], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
