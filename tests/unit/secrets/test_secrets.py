"""Secrets: where they are found, and that they are not shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heliograph import Flow
from heliograph.client.secrets import Secret
from heliograph.context import context
from heliograph.exceptions import ConfigurationError, InvalidArgumentError, SecretNotFoundError
from heliograph.logging.scrubber import scrub


def _file(home: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = home / "secrets" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_source_that_has_it_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret("DB_PASSWORD")
    assert not secret.exists()
    (home / "secrets.toml").write_text('DB_PASSWORD = "from the table"\n')
    assert secret.get() == "from the table"
    _file(home, "DB_PASSWORD", "from the file\n")
    assert secret.get() == "from the file"
    monkeypatch.setenv("HELIOGRAPH__SECRETS__DB_PASSWORD", "from the environment")
    assert secret.get() == "from the environment"
    with context(secrets={"DB_PASSWORD": "from the context"}):
        assert secret.get() == "from the context"
    assert secret.exists()


def test_json_is_parsed_and_other_text_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, value in {'{"a": 1}': {"a": 1}, "plain": "plain", "[1": "[1", "17": 17, '"x"': "x"}.items():
        monkeypatch.setenv("HELIOGRAPH__SECRETS__S", text)
        assert Secret("S").get() == value


def test_a_missing_secret_names_the_places(home: Path) -> None:
    with pytest.raises(SecretNotFoundError, match=r"context.secrets, HELIOGRAPH__SECRETS__NONE") as caught:
        Secret("NONE").get()
    assert str(home / "secrets" / "NONE") in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 201])
def test_names_cannot_be_paths(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Secret(name)


def test_a_secret_is_not_built_into_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH__SECRETS__S", "value")
    with Flow("x"), pytest.raises(ConfigurationError, match="while a flow is being built"):
        Secret("S").get()


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX's")
def test_a_file_that_others_can_write_is_refused(home: Path) -> None:
    _file(home, "S", "x", 0o666)
    with pytest.raises(ConfigurationError, match="can be written by others"):
        Secret("S").get()


def test_what_cannot_be_read_says_nothing_of_its_content(home: Path) -> None:
    (home / "secrets.toml").write_text("S = c4nary7711 nonsense")
    with pytest.raises(ConfigurationError) as caught:
        Secret("S").get()
    assert "c4nary" not in str(caught.value)
    assert caught.value.__cause__ is None
    _file(home, "S", "").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UnicodeDecodeError"):
        Secret("S").get()


def test_what_was_handed_out_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "HELIOGRAPH__SECRETS__S", '{"user": "alice-the-admin", "deep": ["hunter2secret"], "port": 54321}'
    )
    Secret("S").get()
    assert scrub("login alice-the-admin hunter2secret at 54321") == "login *** *** at ***"
    assert "alice" not in repr(Secret("S"))
