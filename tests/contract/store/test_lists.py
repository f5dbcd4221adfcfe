"""Lists by pages: whatever the page size, each row once and in order, also where keys are equal and rows come and go.

The clock stands still, so that whatever was made at one time has equal times.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.contract.store.helpers import SQLITE_IS_QUICK, TOKEN, Bench, task, version

from heliograph.engine.codes import StateCode
from heliograph.exceptions import NotFoundError, RequestIdReusedError
from heliograph_control_plane.store import SqlStore, admin, flow_runs
from heliograph_control_plane.store.paging import decode_token
from heliograph_control_plane.store.records import FlowRunQuery, LogLine, NewToken, RequestKey, TaskEvent

S = StateCode
Fetch = Callable[[int, str], Any]
COUNT = 7


def _child(map_index: int | None) -> int:
    """Returns a map index as events and the order have it."""
    return -1 if map_index is None else map_index


class Lists:
    """Every list of the store, with what it is to hold.

    Attributes:
        fetch: Reads a page of a list.
        key: What a row of it is known by.
        add: Makes another row.
    """

    def __init__(self, bench: Bench) -> None:
        store, self._bench = bench.store, bench
        store.register_flow_version(version("versions")).result()
        self._run = bench.running()
        self._sent = 1
        self.fetch: dict[str, Fetch] = {
            "projects": lambda size, token: store.list_projects(None, size, token),
            "flows": lambda size, token: store.list_flows("", None, size, token),
            "flows of a project": lambda size, token: store.list_flows("p", None, size, token),
            "versions": lambda size, token: store.list_flow_versions("p", "versions", size, token),
            "schedules": lambda size, token: store.list_schedules("", None, size, token),
            "schedules of a project": lambda size, token: store.list_schedules("p", None, size, token),
            "runs": lambda size, token: store.list_flow_runs(FlowRunQuery(page_size=size, page_token=token)),
            "task runs": lambda size, token: store.list_task_runs(self._run.run_id, (), size, token),
            "task states": lambda size, token: store.list_task_run_states(self._run.run_id, None, None, size, token),
            "agents": store.list_agents,
            "tokens": store.list_tokens,
        }
        self.key: dict[str, Callable[[Any], Any]] = {
            "projects": lambda row: row.name, "flows": lambda row: (row.project, row.name),
            "flows of a project": lambda row: row.name, "versions": lambda row: -row.version,
            "schedules": lambda row: (row.project, row.flow), "schedules of a project": lambda row: row.flow,
            "runs": lambda row: row.run_id, "task runs": lambda row: (row.task, _child(row.map_index)),
            "task states": lambda row: row.sequence, "agents": lambda row: row.name, "tokens": lambda row: row.token_id,
        }  # fmt: skip

    def add(self, name: str, number: int) -> None:
        """Makes a row of a list, at a place of its order that `number` decides."""
        bench, store = self._bench, self._bench.store
        match name.partition(" of a ")[0]:
            case "projects":
                store.create_project(f"x{number}", "").result()
            case "flows":
                store.register_flow_version(version(f"x{number}")).result()
            case "versions":
                store.register_flow_version(version("versions", content_hash=f"sha256:{number}", graph=b"")).result()
            case "schedules":
                store.register_flow_version(version(f"s{number}", schedule=b"\x0a\x00")).result()
            case "runs":
                bench.create()
            case "agents":
                bench.agent(f"x{number}")
            case "tokens":
                store.create_token(NewToken(f"users/{number}", (1,), (), TOKEN, 0, "users/ann")).result()
            case _:
                bench.send(self._run, self._sent + 1, task(number, S.RUNNING, child=number % 3))
                self._sent += 1

    def pages(self, name: str, size: int) -> Iterator[list[Any]]:
        """Reads a list, page by page; returns the rows' keys."""
        token = ""
        while True:
            page = self.fetch[name](size, token).result()
            yield [self.key[name](row) for row in page.items]
            token = page.next_token
            if not token:
                return


NAMES = (
    "projects", "flows", "flows of a project", "versions", "schedules", "schedules of a project", "runs", "task runs",
    "task states", "agents", "tokens",
)  # fmt: skip
BACKWARDS = ("runs", "tokens")
"""Newest first: rows that come later are before the first page."""


def in_pages(bench: Bench, name: str) -> None:
    """Reads a list by pages of every size, then while rows come."""
    lists = Lists(bench)
    for number in range(COUNT):
        lists.add(name, 100 * number)
    (whole,) = lists.pages(name, 1_000)
    assert len(whole) == len(set(whole)) >= COUNT
    if name not in BACKWARDS:
        assert whole == sorted(whole), "in the order of its key"
    for size in (1, 2, 3, len(whole) - 1, len(whole), len(whole) + 1):
        pages = list(lists.pages(name, size))
        assert list(itertools.chain(*pages)) == whole, f"by pages of {size}"
        assert all(len(page) == size for page in pages[:-1])
        assert pages[-1], "no page is empty"
    fresh = itertools.count(1)
    seen: list[Any] = []
    for page in lists.pages(name, 2):
        seen += page
        number = next(fresh)
        if number < 100:  # others are made between all pages, here and there
            lists.add(name, 100 * (number % COUNT) + number)
    assert len(seen) == len(set(seen)), "none is there twice"
    assert set(whole) <= set(seen), "and none that was there all the time is left out"
    if name not in BACKWARDS:
        assert seen == sorted(seen)


@pytest.mark.parametrize("name", NAMES)
def test_every_list_holds_each_row_once_by_whatever_pages(bench: Bench, name: str) -> None:
    in_pages(bench, name)


@SQLITE_IS_QUICK
@pytest.mark.parametrize("name", ["task states", "runs"])
def test_pages_that_leave_a_row_out_are_found(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: a page begins behind the row after the one where the page before ended."""

    def careless(token: str, *kinds: type) -> tuple[Any, ...] | None:
        found = decode_token(token, *kinds)
        return None if found is None else (*found[:-1], found[-1] + (-1 if name == "runs" else 1))

    monkeypatch.setattr(flow_runs, "decode_token", careless)
    with pytest.raises(AssertionError, match="by pages of"):
        in_pages(bench, name)


def test_what_is_deleted_between_pages_hides_no_other(bench: Bench) -> None:
    for number in range(20):
        bench.agent(f"x{number:02}")
    seen: list[str] = []
    token = ""
    while True:
        page = bench.store.list_agents(3, token).result()
        seen += [agent.name for agent in page.items]
        token = page.next_token
        if not token:
            break
        bench.store.delete_agent(seen[-1]).result()  # that which the next page begins after
        bench.store.delete_agent(f"x{len(seen) + 3:02}").result()
    assert len(seen) == len(set(seen))
    deleted = {name for name in (f"x{number:02}" for number in range(20)) if not _is_there(bench, name)}
    assert deleted
    assert {f"x{number:02}" for number in range(20)} - deleted <= set(seen)


def _is_there(bench: Bench, name: str) -> bool:
    with suppress(NotFoundError):
        return bool(bench.store.get_agent(name).result())
    return False


def test_runs_whose_states_change_between_pages_are_listed_once(bench: Bench) -> None:
    """Of a list by states: one that leaves them may be missing, one that stays is there, none is there twice."""
    made = [bench.create().run_id for _ in range(12)]
    seen: list[str] = []
    token = ""
    while True:
        query = FlowRunQuery(states=(S.SCHEDULED, S.CANCELLED), page_size=2, page_token=token)
        page = bench.store.list_flow_runs(query).result()
        seen += [run.run_id for run in page.items]
        token = page.next_token
        if not token:
            break
        bench.store.cancel_flow_run(made[len(seen) // 2], "users/ann").result()  # one that is still to come, or was
        bench.create()
    assert seen == made[::-1]


# --- every filter, against a model ----------------------------------------------------------------------------------


def filtered_runs(bench: Bench) -> None:
    """Compares lists of runs under all combinations of filters with what they mean."""
    store = bench.store
    store.create_project("q", "").result()
    for project, name in (("p", "other"), ("q", "etl"), ("q", "other")):
        store.register_flow_version(version(name, project=project)).result()
    made: list[tuple[str, str, str, S, str]] = []
    for number, (project, name) in enumerate([("p", "etl"), ("q", "etl"), ("p", "other"), ("q", "other")] * 4):
        run = bench.create(project=project, flow=name, run_name=f"{'ab'[number % 2]}-{number}")
        state = S.SCHEDULED
        if number % 3 == 1:
            store.cancel_flow_run(run.run_id, "users/ann").result()
            state = S.CANCELLED
        made.append((project, name, run.run_id, state, run.run_name))
    places = [("", ""), ("p", ""), ("p", "etl"), ("q", "other")]
    states = [(), (S.SCHEDULED,), (S.CANCELLED,), (S.CANCELLED, S.SCHEDULED), (S.SUCCESS,)]
    prefixes = ["", "a-", "b-1", made[5][2][:13], "none"]
    scopes = [None, frozenset({"p"}), frozenset({"p", "q"}), frozenset()]
    for (project, name), wanted, prefix, scope in itertools.product(places, states, prefixes, scopes):
        query = FlowRunQuery(project, name, wanted, prefix, scope, 3)
        if project and scope is not None and project not in scope:
            with pytest.raises(NotFoundError):
                store.list_flow_runs(query).result()
            continue
        expected = [
            run
            for in_project, of_flow, run, state, run_name in reversed(made)
            if (not project or in_project == project)
            and (not name or of_flow == name)
            and (not wanted or state in wanted)
            and (run.startswith(prefix) or run_name.startswith(prefix))
            and (scope is None or in_project in scope)
        ]
        found: list[str] = []
        while True:
            page = store.list_flow_runs(query).result()
            found += [run.run_id for run in page.items]
            if not page.next_token:
                break
            query = FlowRunQuery(project, name, wanted, prefix, scope, 3, page.next_token)
        assert found == expected, query


def test_all_filters_of_runs_together_mean_what_each_of_them_means(bench: Bench) -> None:
    filtered_runs(bench)


@SQLITE_IS_QUICK
def test_a_filter_that_is_forgotten_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: states are not looked at when a prefix is given."""
    listed = flow_runs.list_flow_runs

    def forgetful(connection: Any, query: FlowRunQuery, now: int) -> Any:
        return listed(connection, FlowRunQuery(**{**_fields(query), "states": ()}) if query.prefix else query, now)

    monkeypatch.setattr(flow_runs, "list_flow_runs", forgetful)
    with pytest.raises(AssertionError):
        filtered_runs(bench)


def _fields(query: FlowRunQuery) -> dict[str, Any]:
    return {name: getattr(query, name) for name in query.__dataclass_fields__}


def test_all_filters_of_task_runs_and_their_states(bench: Bench) -> None:
    store: SqlStore = bench.store
    run = bench.running()
    events: list[TaskEvent] = []
    for index, state in enumerate((S.SUCCESS, S.FAILED, S.RUNNING, S.SUCCESS)):
        for child in (-1, 0, 1):
            events += [task(index, S.RUNNING, child=child)] + ([task(index, state, child=child)] * (state != S.RUNNING))
    bench.send(run, 2, *events)
    last = {(event.task, event.map_index): S(event.state) for event in events}
    for wanted in ((), (S.SUCCESS,), (S.FAILED, S.RUNNING), (S.CACHED,)):
        found: list[tuple[int, int]] = []
        token = ""
        while True:
            page = store.list_task_runs(run.run_id, wanted, 4, token).result()
            found += [(row.task, _child(row.map_index)) for row in page.items]
            token = page.next_token
            if not token:
                break
        assert found == sorted(place for place, state in last.items() if not wanted or state in wanted)
    for index, child in ((None, None), (1, None), (1, 0), (2, 1), (9, None)):
        expected = [
            event for event in events if index is None or (event.task, event.map_index) == (index, _child(child))
        ]  # fmt: skip
        states: list[tuple[int, int]] = []
        token = ""
        while True:
            records = store.list_task_run_states(run.run_id, index, child, 5, token).result()
            states += [(record.task, int(record.state)) for record in records.items]
            token = records.next_token
            if not token:
                break
        assert states == [(event.task, event.state) for event in expected]


def test_all_filters_of_log_lines(bench: Bench) -> None:
    store = bench.store
    run = bench.running()
    made: list[tuple[int, int, int]] = []
    for number in range(1, 31):
        if number % 7 == 0:
            bench.clock.advance(1)
        level = (10, 20, 30, 40)[number % 4]
        store.write_log_lines(run.run_id, run.epoch, [LogLine(number, number, level, "load", "x")]).result()
        made.append((number, level, bench.clock.now))
    for limit, level, after in itertools.product((1, 4, 100), (0, 20, 40, 50), (0, made[0][2], made[20][2])):
        found: list[int] = []
        cursor, more = "", True
        while more:
            page = store.read_log_lines(run.run_id, cursor, limit, level, after).result()
            found += [line.sequence for line in page.lines]
            cursor, more = page.cursor, page.more
        assert found == [number for number, of, at in made if of >= level and (not after or at > after)]


# --- how long requests are remembered -------------------------------------------------------------------------------


def remembered(bench: Bench) -> None:
    """Makes runs on request, and asks again when a day has passed, and when two have."""
    keys = [RequestKey("CreateFlowRun/users/ann", f"c{number}", b"") for number in range(5)]
    first = [bench.create(key).run_id for key in keys]
    bench.clock.advance(24 * 3600)
    assert bench.store.prune().result() == 0, "what was promised is kept"
    assert [bench.create(key).run_id for key in keys] == first, "a repeat has the same answer"
    with pytest.raises(RequestIdReusedError):
        bench.create(RequestKey(keys[0].scope, keys[0].request_id, b"other"))
    bench.clock.advance(24 * 3600)
    young = RequestKey("CreateFlowRun/users/ann", "young", b"")
    last = bench.create(young).run_id
    assert [bench.store.prune(2).result() for _ in range(4)] == [2, 2, 1, 0], "old ones go, in portions"
    assert bench.create(young).run_id == last
    assert bench.create(keys[0]).run_id not in first, "it is a new request"
    assert {run.run_id for run in bench.store.list_flow_runs(FlowRunQuery()).result().items} >= set(first)


def test_requests_are_remembered_as_long_as_promised_and_swept_then(bench: Bench) -> None:
    remembered(bench)


@SQLITE_IS_QUICK
@pytest.mark.parametrize("hours", [1, 10_000])
def test_requests_that_are_forgotten_too_early_or_never_are_found(
    bench: Bench, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twins."""
    monkeypatch.setattr(admin, "_RECORDS_KEPT", hours * 3_600 * 1_000_000)
    with pytest.raises(AssertionError, match=r"is kept|old ones go"):
        remembered(bench)
