"""Tokens: known by their hashes, ended at once; run tokens bound to (run, epoch)."""

from __future__ import annotations

import pytest
from tests.contract.store.helpers import SECOND, TOKEN, Bench, flow

from heliograph.engine.codes import StateCode
from heliograph.exceptions import NotFoundError, RequestIdReusedError
from heliograph_control_plane.store.records import NewToken, RequestKey, Token


def new(secret: bytes = b"h1", *, expire: int = 0) -> NewToken:
    """A token to issue."""
    return NewToken("users/ann", (3, 2), ("p",), secret, expire, "users/root")


def settled(bench: Bench) -> None:
    """Waits until what was queued before is written."""
    bench.store.reap().result()


def test_a_token_is_good_until_it_is_revoked(bench: Bench) -> None:
    made = bench.store.create_token(new()).result()
    assert (made.principal, made.roles, made.projects) == ("users/ann", (2, 3), ("p",))
    found = bench.store.authenticate(made.token_id, b"h1").result()
    assert isinstance(found, Token)
    assert bench.store.authenticate(made.token_id, b"h2").result() is None
    assert bench.store.authenticate("nothing", b"h1").result() is None
    for _ in range(2):
        assert bench.store.revoke_token(made.token_id).result().revoke_micros == bench.clock.now
    assert bench.store.authenticate(made.token_id, b"h1").result() is None
    with pytest.raises(NotFoundError):
        bench.store.revoke_token("nothing").result()


def test_a_token_expires(bench: Bench) -> None:
    made = bench.store.create_token(new(expire=bench.clock.now + 10 * SECOND)).result()
    bench.clock.advance(9)
    assert bench.store.authenticate(made.token_id, b"h1").result() is not None
    bench.clock.advance(1)
    assert bench.store.authenticate(made.token_id, b"h1").result() is None


def test_the_same_request_replaces_the_secret_until_it_was_used(bench: Bench) -> None:
    key = RequestKey("CreateToken/users/root", "r", b"content")
    first = bench.store.create_token(new(b"h1"), key).result()
    second = bench.store.create_token(new(b"h2"), key).result()
    assert second.token_id == first.token_id
    assert bench.store.authenticate(first.token_id, b"h1").result() is None
    assert bench.store.authenticate(first.token_id, b"h2").result() is not None
    settled(bench)
    with pytest.raises(RequestIdReusedError):
        bench.store.create_token(new(b"h3"), key).result()
    with pytest.raises(RequestIdReusedError):
        bench.store.create_token(new(b"h3"), RequestKey(key.scope, key.request_id, b"other")).result()


def test_the_last_use_is_noted_to_the_minute(bench: Bench) -> None:
    made = bench.store.create_token(new()).result()
    for seconds in (0, 30, 31):
        bench.clock.advance(seconds)
        bench.store.authenticate(made.token_id, b"h1").result()
        settled(bench)
    noted = bench.store.list_tokens(10, "").result().items[0].last_used_micros
    assert noted == bench.clock.now


def test_tokens_are_listed_newest_first(bench: Bench) -> None:
    made = [bench.store.create_token(new(bytes([n]))).result().token_id for n in range(3)]
    page = bench.store.list_tokens(2, "").result()
    rest = bench.store.list_tokens(2, page.next_token).result()
    assert [one.token_id for one in (*page.items, *rest.items)] == made[::-1]


def test_a_run_token_ends_with_the_run_but_for_late_reports(bench: Bench) -> None:
    run = bench.running()

    def ended() -> bool | None:
        found = bench.store.authenticate_run(run.run_id, run.epoch, TOKEN).result()
        return None if found is None else found.ended

    assert ended() is False
    assert bench.store.authenticate_run(run.run_id, run.epoch, b"other").result() is None
    assert bench.store.authenticate_run(run.run_id, run.epoch + 1, TOKEN).result() is None
    assert bench.store.authenticate_run("nothing", run.epoch, TOKEN).result() is None
    assert bench.store.authenticate_run(run.run_id, 1 << 63, TOKEN).result() is None
    bench.send(run, 2, flow(StateCode.SUCCESS))
    assert ended() is True
    bench.clock.advance(599)
    assert ended() is True
    bench.clock.advance(2)
    assert ended() is None


def test_a_run_token_outlives_a_presumption_of_death(bench: Bench) -> None:
    run = bench.running()
    bench.clock.advance(601)
    bench.store.reap().result()
    bench.clock.advance(100_000)
    found = bench.store.authenticate_run(run.run_id, run.epoch, TOKEN).result()
    assert found is not None
    assert not found.ended


def test_the_token_of_an_older_epoch_is_known_but_ended(bench: Bench) -> None:
    run = bench.submitted()
    bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result()
    (lease,) = bench.lease()
    bench.store.accept_flow_run("a", run.run_id, lease.epoch, b"new").result()
    old = bench.store.authenticate_run(run.run_id, run.epoch, TOKEN).result()
    assert old is not None
    assert old.ended


def test_worthless_run_tokens_are_pruned(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, flow(StateCode.SUCCESS))
    live = bench.running()
    bench.clock.advance(3_000)
    bench.send(live, 2)
    assert bench.store.prune().result() == 1
    assert bench.store.authenticate_run(live.run_id, live.epoch, TOKEN).result() is not None
