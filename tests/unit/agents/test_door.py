"""The door: what a control plane says of times and identities is kept within reason. Whole leases: `hostile`."""

from __future__ import annotations

import pytest

from heliograph_agents import door


def test_pauses_stay_within_reason() -> None:
    assert door.heartbeat_seconds(0.0, 15.0) == 15.0
    assert door.heartbeat_seconds(-5.0, 15.0) == 1.0
    assert door.heartbeat_seconds(1e12, 15.0) == 60.0
    assert door.renew_seconds(0.0) == 15.0
    assert door.renew_seconds(-1.0) == 1.0
    assert door.spread_seconds(-1.0) == 0.0
    assert door.spread_seconds(1e12) == 3600.0


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "a\0", "é", "x" * 5000])
def test_what_is_no_token(text: str) -> None:
    assert not door.check_token(text)


def test_tokens_and_identities() -> None:
    assert door.check_token("hg_1_" + "x" * 43)
    assert door.check_incarnation("")
    assert door.check_incarnation("01a204e4-fe1f-72dd-924f-2efeceeea975")
    assert not door.check_incarnation("../../x\n")
    assert not door.check_incarnation("x" * 129)
