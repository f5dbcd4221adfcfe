"""Rows that cannot be read, on both stores: they cost what is in them, and nothing beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Table, text, update
from tests.contract.store.helpers import SECOND, TOKEN, Bench, version
from tests.support.figures import Figure

from heliograph_control_plane import damage
from heliograph_control_plane.store import schema
from heliograph_control_plane.store.records import FlowRunQuery, NewToken

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


@pytest.mark.parametrize(
    ("table", "column", "value"), DAMAGED, ids=[f"{table.name}.{column}={value!r}" for table, column, value in DAMAGED]
)
def test_a_damaged_row_harms_no_other(
    bench: Bench, table: Table, column: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    harms_no_other(bench, table, column, value)
    assert all(count == 1 for count in told(capsys).values()), "each damaged row is told of once"


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """Returns how often each damaged row was told of."""
    lines = [line.partition("left out")[2] for line in capsys.readouterr().out.splitlines() if "left out" in line]
    return {line: lines.count(line) for line in lines}


@pytest.mark.parametrize(
    ("table", "column", "value"), [DAMAGED[0], DAMAGED[2], DAMAGED[4], DAMAGED[6], DAMAGED[7]], ids=str
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


def test_how_many_kinds_of_damage_there_are(figure: Figure) -> None:
    figure(f"{len(DAMAGED)} kinds of damage in {len(BAD)} tables, on both stores: no list, claim or deadline of others")
