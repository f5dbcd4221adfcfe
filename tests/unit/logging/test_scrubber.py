"""The scrubber finds secrets in every usual form, and leaves ordinary text alone."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from heliograph.logging.scrubber import MIN_LENGTH, forget_all, remember, remember_environment, scrub


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    forget_all()
    yield
    forget_all()


@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=6, max_size=30),
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
)
def test_no_form_survives(secret: str, before: bytes, after: bytes) -> None:
    assume(secret == secret.strip() and len(secret) >= 6)
    forget_all()
    remember(secret)
    data = secret.encode()
    forms = [
        secret,
        urllib.parse.quote(secret),
        urllib.parse.quote(secret, safe="").replace("%2F", "%2f"),
        urllib.parse.quote_plus(secret),
        urllib.parse.urlencode({"p": secret}).removeprefix("p="),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        data.hex(),
    ]
    for form in forms:
        assert scrub(f"<{form}>") == "<***>"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + data + after).decode()
        scrubbed = scrub(text)
        assert "***" in scrubbed
        assert len(scrubbed.replace("***", "")) <= len(encode(before + after)) + 4, "only neighbours are left"


def test_ordinary_text_stays() -> None:
    remember("no")
    remember("1")
    remember(True)
    remember("true")
    remember(None)
    remember("")
    text = "no 1 true True None: 210 countries, 25 MB"
    assert scrub(text) == text
    assert MIN_LENGTH == 4


def test_lines_of_a_key_are_found_one_by_one() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ\n-----END KEY-----"
    remember(key)
    assert scrub(f"the key is {key}.") == "the key is ***."
    assert scrub("line: MIIEvQIBADANBgkqhkiG9w0BAQ") == "line: ***"


def test_the_longest_secret_is_replaced_whole() -> None:
    remember("alpha")
    remember("alphabet")
    assert scrub("alphabet alpha") == "*** ***"


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DB_PASSWORD", "hunter2-x", True),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI", True),
        ("GITHUB_TOKEN", "ghp_4711abc", True),
        ("STRIPE_API_KEY", "sk_live_4711", True),
        ("HELIOGRAPH__SECRETS__X", "value-of-x", True),
        ("PGPASSWORD", "postgres1", True),
        ("TOKEN_BACKEND", "memory", False),
        ("SECRET_FILE", "/run/secrets/x", False),
        ("HELIOGRAPH__CLIENT__TOKEN_FILE", "/run/token", False),
        ("TOKEN_TTL", "3600000", False),
        ("PASSWORD", "short", False),
        ("PWD", "/home/alice/flows", False),
        ("DB_PWD", "hunter2-x", True),
        ("HOME", "/home/alice", False),
        ("KEYBOARD", "qwertyuiop", False),
    ],
)
def test_names_of_variables_say_whether_they_are_secret(name: str, value: str, secret: bool) -> None:
    remember_environment({name: value})
    assert scrub(f"x {value} y") == ("x *** y" if secret else f"x {value} y")


def test_passwords_in_urls_are_found_whatever_the_name() -> None:
    remember_environment({"DATABASE_URL": "postgresql://alice:p%40ssw0rd@db.example.org/cases"})
    assert scrub("p%40ssw0rd or p@ssw0rd at db.example.org") == "*** or *** at db.example.org"


def test_the_environment_is_read_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "k-4711-4711")
    assert scrub("k-4711-4711") == "***"
