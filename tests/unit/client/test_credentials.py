"""Tokens are kept per address, for their owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from heliograph.client.credentials import check_token, find_token, forget_token, save_token, token_path
from heliograph.exceptions import ConfigurationError

TOKEN = "hg_abc_0123456789"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TOKEN", "TOKEN_FILE", "ADDRESS"):
        monkeypatch.delenv(f"HELIOGRAPH__CLIENT__{name}", raising=False)
    monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path))
    return tmp_path


def test_a_saved_token_is_found_by_its_address_alone() -> None:
    path = save_token("127.0.0.1:4480", TOKEN)
    found = find_token("127.0.0.1")
    assert found is not None
    assert (found.token, found.source) == (TOKEN, str(path))
    assert find_token("127.0.0.1:4481") is None


def test_the_file_is_for_its_owner_alone() -> None:
    path = save_token("example.org:4480", TOKEN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_address_cannot_lead_out_of_the_folder(own_home: Path) -> None:
    assert token_path("unix:/../../etc/x").parent == own_home / "tokens"


def test_the_variable_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save_token("127.0.0.1:4480", TOKEN)
    monkeypatch.setenv("HELIOGRAPH__CLIENT__TOKEN", "hg_other_1")
    found = find_token("127.0.0.1:4480")
    assert found is not None
    assert found.token == "hg_other_1"


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HELIOGRAPH__CLIENT__TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="cannot read the token file"):
        find_token("127.0.0.1:4480")


def test_forgetting_twice_is_no_error() -> None:
    save_token("127.0.0.1:4480", TOKEN)
    assert forget_token("127.0.0.1:4480") is not None
    assert forget_token("127.0.0.1:4480") is None


@pytest.mark.parametrize("bad", ["", "  ", "two words", "line\nbreak", "ümlaut"])
def test_what_is_no_token_is_refused_without_quoting_it(bad: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_token(bad, "the input")
    assert not bad.strip() or bad not in str(caught.value)
