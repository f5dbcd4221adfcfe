"""Ignore rules in the syntax of gitignore: comments, `!`, anchors, folders, `*`, `?`, `**` and character classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["DEFAULT_RULES", "IgnoreRules"]

DEFAULT_RULES = (
    ".*/", ".env", ".env.*", ".DS_Store", "__pycache__/", "*.py[cod]", "*.egg-info/", "venv/", "node_modules/",
    "*.pem", "*.key", "*.token", "id_rsa*", "id_ed25519*", "*.sqlite", "*.db", "*.log",
)  # fmt: skip
"""Left out where no version control says what belongs to the project: hidden folders, caches, environments, keys."""


class IgnoreRules:
    """An ordered list of rules; the last one that matches decides.

    Args:
        lines: Lines of an ignore file.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for line in lines if (rule := _parse(line)) is not None]

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        """Returns True when `path`, relative with `/`, or a folder above it is left out.

        As in git, nothing below an ignored folder can be taken back.
        """
        parts = path.split("/")
        return any(
            self._matches("/".join(parts[:depth]), folder or depth < len(parts)) for depth in range(1, len(parts) + 1)
        )

    def _matches(self, path: str, folder: bool) -> bool:
        for pattern, negated, only_folders in reversed(self._rules):
            if (folder or not only_folders) and pattern.fullmatch(path):
                return not negated
        return False


def _parse(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    text = line.rstrip("\r\n")
    while text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1]
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[negated:]
    only_folders = text.endswith("/")
    text = text.rstrip("/") if only_folders else text
    anchored = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    regex = _translate(text)
    return re.compile(regex if anchored else f"(?:.*/)?{regex}", re.DOTALL), negated, only_folders


def _translate(glob: str) -> str:
    """Returns the regular expression of a glob in which `*` stays within one folder."""
    out: list[str] = []
    at = 0
    while at < len(glob):
        letter = glob[at]
        if letter == "*":
            end = at
            while end < len(glob) and glob[end] == "*":
                end += 1
            before, after = at == 0 or glob[at - 1] == "/", end == len(glob) or glob[end] == "/"
            if end - at == 2 and before and after:
                if end == len(glob):
                    out.append(".+")
                else:
                    out.append("(?:.*/)?")
                    end += 1  # the slash belongs to it
            else:
                out.append("[^/]*")
            at = end
            continue
        if letter == "[" and (close := _class_end(glob, at)):
            body = glob[at + 1 : close]
            negated = body[:1] in ("!", "^")
            escaped = re.sub(r"([\[&~|\\])", r"\\\1", body[negated:].replace("\\", ""))
            out.append(f"(?!/)[{'^' if negated else ''}{_escape_edges(escaped)}]")
            at = close + 1
            continue
        if letter == "\\" and at + 1 < len(glob):
            at += 1
            letter = glob[at]
            out.append(re.escape(letter))
        else:
            out.append("[^/]" if letter == "?" else re.escape(letter))
        at += 1
    return "".join(out)


def _class_end(glob: str, start: int) -> int:
    at = start + 1
    if glob[at : at + 1] in ("!", "^"):
        at += 1
    if glob[at : at + 1] == "]":
        at += 1
    return max(0, glob.find("]", at))


def _escape_edges(body: str) -> str:
    """A `]` or `^` that comes first means itself."""
    return f"\\{body}" if body[:1] in ("]", "^") else body
