"""Takes secrets out of text that may leave the user's side.

What counts as a secret: every value that `Secret.get()` handed out, the values of environment variables whose names say
so, and passwords inside URLs of the environment. Each is looked for as it is and in the forms in which it usually
appears by accident: base64 (at any offset), URL-safe base64, hexadecimal, percent-encoded, and escaped as in JSON.

Values shorter than `MIN_LENGTH` characters are not looked for: replacing `1` or `no` everywhere would destroy ordinary
text, and where they stood would tell them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

__all__ = ["MIN_LENGTH", "remember", "remember_environment", "scrub"]

MIN_LENGTH = 4
MASK = "***"
_MIN_ENV_LENGTH = 6  # names only suggest a secret: `PASSWORD_CHECK=true` is none
_MIN_LINE_LENGTH = 16  # of a secret of several lines, such as a key: its lines are logged one by one

_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|_PWD$|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SIGNING_?KEY|ENCRYPTION_?KEY|CREDENTIAL"
    r"|CONNECTION_?STRING|(?:^|_)DSN$|(?:^|_)SALT$",
    re.IGNORECASE,
)
_NO_SECRET_NAME = re.compile(r"(?:_FILE|_PATH|_DIR|_NAME|_TYPE|_SECONDS|_TTL|_URI|_ENDPOINT|_ARN)$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:([^/\s@]+)@", re.IGNORECASE)

_NO_SECRETS = frozenset({"true", "false", "null", "None", "True", "False"})

_lock = threading.Lock()
_forms: set[str] = set()
_pattern: re.Pattern[str] | None = None
_environment_seen: frozenset[tuple[str, str]] | None = None


def remember(value: Any) -> None:
    """From now on, takes `value` out of scrubbed text; of a list or a mapping, every text and long number in it."""
    global _pattern
    found = {form for text in _texts(value) for form in _forms_of(text)}
    with _lock:
        if not found <= _forms:
            _forms.update(found)
            _pattern = None


def remember_environment(environment: Mapping[str, str] | None = None) -> None:
    """Takes out the values of variables whose names say that they are secret; by default of this process."""
    for name, value in (os.environ if environment is None else environment).items():
        for password in _URL_PASSWORD.findall(value):
            remember(password)
            remember(unquote(password))
        secret = name.upper().startswith("HELIOGRAPH__SECRETS__") or (
            _SECRET_NAME.search(name) is not None and _NO_SECRET_NAME.search(name) is None
        )
        # A short word without digits is rather a setting: `TOKEN_BACKEND=memory`.
        if secret and len(value) >= (2 * _MIN_ENV_LENGTH if value.isalpha() else _MIN_ENV_LENGTH):
            remember(value)


def scrub(text: str) -> str:
    """Returns `text` with `***` in place of every secret that is known."""
    pattern = _compiled()
    return pattern.sub(MASK, text) if pattern is not None else text


def forget_all() -> None:
    """Forgets every secret. For tests."""
    global _pattern, _environment_seen
    with _lock:
        _forms.clear()
        _pattern = None
        _environment_seen = None


def _compiled() -> re.Pattern[str] | None:
    global _pattern, _environment_seen
    if _environment_seen is None:
        _environment_seen = frozenset()
        remember_environment()
    pattern = _pattern
    if pattern is None:
        with _lock:
            if not _forms:
                return None
            # The longest first: of a secret and its own beginning, the whole is replaced.
            ordered = sorted(_forms, key=len, reverse=True)
            pattern = _pattern = re.compile("|".join(map(_regex_of, ordered)))
    return pattern


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if "\n" in value:
            yield from (line for line in value.splitlines() if len(line) >= _MIN_LINE_LENGTH)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _forms_of(text: str) -> set[str]:
    text = text.strip()
    if len(text) < MIN_LENGTH or text in _NO_SECRETS:
        return set()
    data = text.encode("utf-8", "surrogatepass")
    percent = {quote(text, safe=""), quote(text), quote_plus(text)} if text.isascii() or _encodable(text) else set()
    escaped = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    forms = {text, data.hex(), data.hex().upper(), *percent, *escaped}
    for offset in range(3):
        forms |= _base64_at(data, offset)
    return {form for form in forms if len(form) >= MIN_LENGTH}


def _regex_of(form: str) -> str:
    """Matches the form; the digits of percent escapes in either case."""
    return re.sub(r"%([0-9A-F]{2})", r"%(?i:\1)", re.escape(form))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64_at(data: bytes, offset: int) -> set[str]:
    """Returns the characters that every base64 text has in which `data` begins `offset` bytes into a group of three.

    The characters at both ends also hold bits of the neighbours, so they are left out.
    """
    encoded = base64.b64encode(b"\0" * offset + data).decode()
    start = (0, 2, 3)[offset]
    rest = (offset + len(data)) % 3
    end = len(encoded) - (0, 3, 2)[rest]
    inner = encoded[start:end]
    return {inner, inner.replace("+", "-").replace("/", "_")}
