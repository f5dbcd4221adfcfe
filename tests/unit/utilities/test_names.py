"""Names and resource names: what is refused and why, and that building and parsing undo each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.exceptions import InvalidArgumentError
from heliograph.utilities import names

characters = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf"), exclude_characters="<>/")
segments = st.text(characters, min_size=1, max_size=40).filter(
    lambda text: text == text.strip() and len(text.encode()) <= 200 and text != "-"
)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "is empty"),
        ("x" * 201, "201 bytes"),
        ("é" * 101, "202 bytes"),
        ("a\nb", r"U\+000A at position 2"),
        ("a\u202eb", r"U\+202E"),
        ("\u2028", "begins or ends|U\\+2028"),
        ("a<b", "'<' at position 2"),
        ("a/b", "'/' at position 2"),
        (" a", "white space"),
        ("\ud800", "surrogate"),
        (3, "must be text"),
        ("-", "every project"),
    ],
)
def test_refused_project_names(value, why):
    with pytest.raises(InvalidArgumentError, match=why):
        names.check_name(value, "project")


def test_labels_and_tasks_may_have_slashes():
    assert names.check_name("team/data", "label") == "team/data"
    assert names.check_name("x" * 200, "flow")
    assert names.check_name("Täglicher Lauf 日次", "flow")


@given(segments, segments, st.integers(1, 10**9))
def test_flows(project, flow, version):
    assert names.parse_flow(names.flow_name(project, flow)) == (project, flow, "")
    assert names.parse_flow(names.flow_version_name(project, flow, version)) == (project, flow, str(version))
    assert names.parse_schedule(names.schedule_name(project, flow)) == (project, flow, "")
    if project != "projects":
        assert names.parse_flow(f"{project}/{flow}") == (project, flow, "")


@given(segments)
def test_others(name):
    assert names.parse_project(names.project_name(name)) == names.parse_project(name) == name
    assert names.parse_agent(names.agent_name(name)) == name
    assert names.parse_flow_run(names.flow_run_name(name, "0190")) == (name, "0190")


def test_runs():
    assert names.parse_flow_run("0190-1") == ("-", "0190-1")
    assert names.flow_run_name("-", "0190") == "projects/-/flowRuns/0190"
    assert names.parse_flow_run("projects/-/flowRuns/0190") == ("-", "0190")
    assert names.parse_flow("projects/p/flows/f/versions/latest").version == "latest"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (names.parse_flow, text)
        for text in ("", "p", "p/", "/f", "projects/p", "projects/p/flows", "projects/p/flows/f/versions", "a/b/c",
                     "projects/p/flows/f/versions/0", "projects/p/flows/f/versions/01", "projects/p/flows/f/versions/x",
                     "projects/p/flows/f/versions/²", "projects/-/flows/f/x/1", "projects/p/flows/f/versions/1/")
    ]
    + [(names.parse_flow_run, text) for text in ("", "a/b", "projects/p/flowRuns/", "projects/p/runs/1")]
    + [(names.parse_project, text) for text in ("", "projects/", "projects/a/b", "-", "x/y")]
    + [(names.parse_schedule, text) for text in ("", "projects/p/flows/f", "schedule", "/schedule")]
    + [(names.parse_agent, text) for text in ("", "a", "agents/", "agents/a/b")],
)  # fmt: skip
def test_what_is_no_name(parse, text):
    with pytest.raises(InvalidArgumentError):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_cleanly(text):
    for parse in (names.parse_flow, names.parse_flow_run, names.parse_project, names.parse_schedule, names.parse_agent):
        try:
            parse(text)
        except InvalidArgumentError:
            continue
