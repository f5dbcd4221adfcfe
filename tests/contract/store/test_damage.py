"""Rows that cannot be read, on both stores: they cost what is in them, and nothing beside them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from sqlalchemy import Table, select, text, update
from tests.contract.store.helpers import SECOND, SQLITE_IS_QUICK, TOKEN, Bench, version
from tests.support.figures import Figure

from heliograph_control_plane import damage
from heliograph_control_plane.store import logs, schema
from heliograph_control_plane.store.records import FlowRunQuery, LogLine, NewToken

HOUR = 3600 * SECOND

DAMAGED: list[tuple[Table, str, Any]] = [
    (schema.requirements, "labels", "{"),
    (schema.requirements, "labels", "7"),
    (schema.agents, "labels", "]"),
    (schema.agents, "projects", "{"),
    (schema.tokens, "roles", "admin"),
    (schema.tokens, "projects", "["),
    (schema.flow_runs, "counts", "{"),
    (schema.flow_runs, "state", 99),
    (schema.flow_runs, "phase", 9),
    (schema.flow_runs, "state", 10),  # a success that still has a deadline
    (schema.schedules, "spec", b"\xff\xff"),
    (schema.flow_versions, "bundle", b"\xff\xff"),
    (schema.flow_versions, "graph", b"\xff\xff"),
]

BAD = {
    "requirements": "labels LIKE '%only-bad%'",
    "agents": "name = 'bad'",
    "tokens": "principal = 'users/bad'",
    "flow_runs": "run_name = 'bad'",
    "schedules": "id = (SELECT min(id) FROM schedules)",
    "flow_versions": "flow_id = (SELECT id FROM flows WHERE name = 'bad')",
}
"""Which row of each table is the damaged one."""


@pytest.fixture(autouse=True)
def nothing_told() -> Iterator[None]:
    """Lets each test begin as a process does."""
    damage._told.clear()
    yield
    damage._told.clear()


def scene(bench: Bench) -> None:
    """Makes a good and a bad row of everything."""
    store = bench.store
    store.register_flow_version(version("bad", labels=("only-bad",), schedule=b"\x0a\x00")).result()
    store.register_flow_version(version("good", schedule=b"\x0a\x00")).result()
    bench.agent("bad", labels=("only-bad",))
    for name in ("bad", "good"):
        store.create_token(NewToken(f"users/{name}", (1,), (), TOKEN, 0, "users/ann")).result()
    bench.create(flow="bad", run_name="bad")
    bench.create(flow="good", run_name="good")


def harms_no_other(bench: Bench, table: Table, column: str, value: Any) -> None:
    """Damages a row, then does all that reads rows of its kind."""
    scene(bench)
    store = bench.store
    store._write(
        lambda tx: tx.connection.execute(update(table).where(text(BAD[table.name])).values({column: value})).rowcount
    ).result()
    bench.reopen()  # nothing is remembered
    store = bench.store

    runs = [run.run_name for run in store.list_flow_runs(FlowRunQuery(project="p", page_size=50)).result().items]
    assert "good" in runs, "lists of runs go on"
    assert "good" in [flow.name for flow in store.list_flows("p", None, 50, "").result().items], "so do those of flows"
    assert "a" in [agent.name for agent in store.list_agents(50, "", None).result().items]
    assert "a" in [agent.name for agent in store.list_agents(50, "", frozenset({"p"})).result().items]
    tokens = {token.principal: token.token_id for token in store.list_tokens(50, "").result().items}
    assert "users/good" in tokens
    assert "good" in [one.flow for one in store.list_active_schedules(0, 50).result()]
    assert store.authenticate(tokens["users/good"], TOKEN).result() is not None, "good tokens are good"
    store.upcoming().result()
    assert [lease.flow_run.run_name for lease in bench.lease("a", 50) if lease.flow_run.run_name != "bad"] == ["good"]
    bench.clock.advance(8 * 24 * HOUR)
    reaped = store.reap().result()
    assert len(reaped.requeued) + len(reaped.crashed) >= 1, "the reaper goes on"
    assert store.reap().result().more is False
    assert not store.reap().result().requeued, "and what it cannot read does not come again"


def kinds(on_postgresql: Collection[int]) -> list[Any]:
    """Every kind of damage on both stores; on PostgreSQL these in the quick form, the others in the full one."""
    return [
        pytest.param(
            store, *damaged, id=f"{store}-{damaged[0].name}.{damaged[1]}={damaged[2]!r}",
            marks=[] if store == "sqlite" or number in on_postgresql else [pytest.mark.full],
        )
        for store in ("sqlite", "postgresql")
        for number, damaged in enumerate(DAMAGED)
    ]  # fmt: skip


@pytest.mark.parametrize(("url", "table", "column", "value"), kinds((0, 4, 6, 7, 10, 12)), indirect=["url"])
def test_a_damaged_row_harms_no_other(
    bench: Bench, table: Table, column: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    harms_no_other(bench, table, column, value)
    assert all(count == 1 for count in told(capsys).values()), "each damaged row is told of once"


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """Returns how often each damaged row was told of."""
    lines = [line.partition("left out")[2] for line in capsys.readouterr().out.splitlines() if "left out" in line]
    return {line: lines.count(line) for line in lines}


READ_BY_THE_STORE = [one for one in kinds((0, 4)) if one.values[1] not in (schema.schedules, schema.flow_versions)]
"""What is in the others is read by the services: `tests/integration/control_plane/test_damage.py`."""


@pytest.mark.parametrize(
    ("url", "table", "column", "value"), [one for one in READ_BY_THE_STORE if one.values[3] != 10], indirect=["url"]
)
def test_readers_that_trust_every_row_are_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, table: Table, column: str, value: Any
) -> None:
    """The planted twin: nobody expects a row that cannot be read."""
    from heliograph_control_plane.store import agents, flows, heads, leases, tokens

    for module in (damage, agents, flows, heads, leases, tokens):
        monkeypatch.setattr(module, "DAMAGE", ())
    with pytest.raises(Exception):  # noqa: B017, PT011 (each row breaks its reader in its own way)
        harms_no_other(bench, table, column, value)


def read_past_a_chunk(bench: Bench, page: int) -> None:
    """Damages the middle one of three chunks of a run's lines, and reads them by pages."""
    run = bench.running()
    for first in (1, 4, 7):
        lines = [LogLine(first + n, 1, 20, "load", f"line {first + n}") for n in range(3)]
        bench.store.write_log_lines(run.run_id, run.epoch, lines).result()
    bad = select(schema.log_chunks.c.id).where(schema.log_chunks.c.first_sequence == 4).scalar_subquery()
    spoil = update(schema.log_chunks).where(schema.log_chunks.c.id == bad).values(data=b"no chunk")
    bench.store._log_writer.submit(lambda tx: tx.connection.execute(spoil)).result()
    found: list[LogLine] = []
    cursor, more = "", True
    while more:
        got = bench.store.read_log_lines(run.run_id, cursor, page).result()
        found += got.lines
        cursor, more = got.cursor, got.more
    assert [line.message for line in found] == [f"line {n}" for n in (1, 2, 3, 7, 8, 9)]
    assert [line.dropped_before for line in found] == [0, 0, 0, 3, 0, 0], "those of the chunk are told as lost"


@pytest.mark.parametrize("page", [1, 2, 3, 4, 100])
def test_a_chunk_of_lines_that_cannot_be_read_costs_its_lines(bench: Bench, page: int) -> None:
    read_past_a_chunk(bench, page)


def test_a_chunk_of_lines_at_the_end_is_told_with_what_comes(bench: Bench) -> None:
    """Whoever follows the lines learns of the gap, however often he asked meanwhile."""
    run = bench.running()
    bench.store.write_log_lines(run.run_id, run.epoch, [LogLine(1, 1, 20, "load", "bad")]).result()
    spoil = update(schema.log_chunks).values(data=b"")
    bench.store._log_writer.submit(lambda tx: tx.connection.execute(spoil)).result()
    cursor = ""
    for _ in range(3):
        page = bench.store.read_log_lines(run.run_id, cursor).result()
        assert (page.lines, page.more) == ((), False)
        cursor = page.cursor
    bench.store.write_log_lines(run.run_id, run.epoch, [LogLine(2, 1, 20, "load", "good")]).result()
    page = bench.store.read_log_lines(run.run_id, cursor).result()
    assert [(line.message, line.dropped_before) for line in page.lines] == [("good", 1)]
    assert bench.store.read_log_lines(run.run_id, page.cursor).result().lines == ()


@SQLITE_IS_QUICK
def test_a_reader_that_trusts_every_chunk_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin."""
    monkeypatch.setattr(logs, "_UNREADABLE", ())
    with pytest.raises(zlib.error):
        read_past_a_chunk(bench, 100)


def test_how_many_kinds_of_damage_there_are(figure: Figure) -> None:
    figure(f"{len(DAMAGED)} kinds of damage in {len(BAD)} tables, on both stores: no list, claim or deadline of others")
