"""Ignore rules say what git says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliograph.storage.ignore import DEFAULT_RULES, IgnoreRules


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        (["*.csv"], "data/big.csv", True),
        (["/data"], "src/data", False),
        (["data/"], "a/data/x.py", True),
        (["data/"], "data", False),
        (["*.csv", "!keep.csv"], "keep.csv", False),
        (["data/", "!data/keep.csv"], "data/keep.csv", True),
        (["a/**/b"], "a/x/y/b", True),
        (["a/**/b"], "a/b", True),
        (["**/b"], "x/b", True),
        (["a/**"], "a/x/y", True),
        (["a?c"], "a/c", False),
        (["[a-c].py"], "b.py", True),
        (["[!a-c].py"], "b.py", False),
        (["# comment", "", "\\#x"], "#x", True),
        (["x  "], "x", True),
        (["x\\ "], "x ", True),
        (["doc/*.md"], "doc/deep/a.md", False),
        (list(DEFAULT_RULES), ".venv/lib/x.py", True),
        (list(DEFAULT_RULES), ".env", True),
        (list(DEFAULT_RULES), "flows/etl.py", False),
    ],
)
def test_rules(rules: list[str], path: str, ignored: bool) -> None:
    assert IgnoreRules(rules).ignores(path) is ignored


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in (".", "..") and name.strip("."))
PATTERNS = st.lists(
    st.sampled_from(["a", "b", "*", "**", "?", "a*", "*b", "[ab]", "[!a]", ".a"]), min_size=1, max_size=3
)
RULES = st.builds(
    lambda negated, anchored, parts, folder: f"{'!' * negated}{'/' * anchored}{'/'.join(parts)}{'/' * folder}",
    st.booleans(), st.booleans(), PATTERNS, st.booleans(),
)  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rules=st.lists(RULES, max_size=4), paths=st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=8)
)
def test_git_agrees(tmp_path: Path, rules: list[str], paths: list[list[str]]) -> None:
    if not (tmp_path / ".git").exists():
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("\n".join(rules) + "\n")
    names = sorted({"/".join(parts) for parts in paths})
    asked = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin", "-v", "-n", "-z"],
        input="\0".join(names), capture_output=True, text=True, check=False,
    ).stdout.split("\0")  # fmt: skip
    answers = {
        asked[at + 3]: bool(asked[at + 2]) and not asked[at + 2].startswith("!") for at in range(0, len(asked) - 3, 4)
    }
    ours = IgnoreRules(rules)
    assert {name: ours.ignores(name) for name in names} == answers
