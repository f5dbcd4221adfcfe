"""What is remembered of tokens, and for how long: with replicas nothing, with one process until a token changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from heliograph.exceptions import UnauthenticatedError
from heliograph_control_plane.auth import Authenticator
from heliograph_control_plane.principals import (
    Credential,
    Principal,
    RunIdentity,
    digest_of,
    make_secret,
    parse_token,
    run_token_id,
    token_text,
)

RUN = "018f0000-0000-7000-8000-000000000001"


class Tokens:
    """Stands for the store: one token, and how often it was asked for."""

    def __init__(self, token_id: str = "t1", run: RunIdentity | None = None) -> None:
        self.secret, self.digest = make_secret()
        self.text = token_text(token_id, self.secret)
        self.principal = Principal("users/a", frozenset({4}), frozenset(), token_id, expire_micros=100, run=run)
        self.good = True
        self.asked = 0
        self.now = 0

    async def verify(self, credential: Credential) -> Principal | None:
        self.asked += 1
        return self.principal if self.good and credential.digest == self.digest else None

    def authenticator(self, *, remember: bool) -> Authenticator:
        return Authenticator(self.verify, lambda: self.now, remember=remember)

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        return [("authorization", f"Bearer {self.text}")]


async def test_one_process_asks_once_until_a_token_changes() -> None:
    tokens = Tokens()
    authenticator = tokens.authenticator(remember=True)
    for _ in range(3):
        await authenticator.authenticate(tokens.metadata)
    assert tokens.asked == 1
    authenticator.distrust()
    await authenticator.authenticate(tokens.metadata)
    assert tokens.asked == 2
    tokens.good = False
    authenticator.forget("t1")
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(tokens.metadata)


async def test_replicas_ask_every_time() -> None:
    tokens = Tokens()
    authenticator = tokens.authenticator(remember=False)
    for _ in range(3):
        await authenticator.authenticate(tokens.metadata)
    assert tokens.asked == 3


async def test_what_is_remembered_still_expires() -> None:
    tokens = Tokens()
    authenticator = tokens.authenticator(remember=True)
    await authenticator.authenticate(tokens.metadata)
    tokens.now = 100
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(tokens.metadata)


async def test_another_secret_for_a_remembered_id_is_worth_nothing() -> None:
    tokens = Tokens()
    authenticator = tokens.authenticator(remember=True)
    await authenticator.authenticate(tokens.metadata)
    other = token_text("t1", make_secret()[0])
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate([("authorization", f"Bearer {other}")])


async def test_an_answer_that_was_under_way_while_a_token_changed_is_not_remembered() -> None:
    tokens = Tokens()
    changed = asyncio.Event()
    read = asyncio.Event()

    async def slowly(credential: Credential) -> Principal | None:
        found = await tokens.verify(credential)
        read.set()
        await changed.wait()
        return found

    authenticator = Authenticator(slowly, lambda: 0, remember=True)
    call = asyncio.create_task(authenticator.authenticate(tokens.metadata))
    await read.wait()
    authenticator.forget("t1")
    changed.set()
    await call
    await authenticator.authenticate(tokens.metadata)
    assert tokens.asked == 2


async def test_a_secret_that_is_given_again_ends_the_calls_of_others_alone() -> None:
    tokens = Tokens()
    authenticator = tokens.authenticator(remember=True)
    _, good = await authenticator.authenticate(tokens.metadata)
    ended: list[str] = []

    async def last(name: str, credential: Credential) -> None:
        with authenticator.lasting(credential):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

    names = {"good": good, "before": replace(good, digest=b"another")}
    calls = [asyncio.create_task(last(name, credential)) for name, credential in names.items()]
    await asyncio.sleep(0)
    authenticator.forget("t1", keep=good.digest)
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert ended == ["before"]
    await authenticator.sweep()
    await asyncio.sleep(0)
    assert ended == ["before"]
    tokens.good = False
    authenticator.distrust()
    await authenticator.sweep()
    await asyncio.gather(*calls, return_exceptions=True)
    assert ended == ["before", "good"]


async def test_a_change_of_a_run_ends_what_is_remembered_of_its_token() -> None:
    tokens = Tokens(run_token_id(RUN, 3), RunIdentity(RUN, 3, ended=False))
    authenticator = tokens.authenticator(remember=True)
    await authenticator.authenticate(tokens.metadata)
    authenticator.distrust_runs(frozenset({"another"}))
    await authenticator.authenticate(tokens.metadata)
    assert tokens.asked == 1
    authenticator.distrust_runs(frozenset({RUN}))
    await authenticator.authenticate(tokens.metadata)
    assert tokens.asked == 2


@pytest.mark.parametrize(
    "header", [[], ["Bearer"], ["Bearer x", "Bearer y"], [b"Bearer x"], ["hg_a_b"], ["Bearer hg_a_"]]
)
async def test_anything_but_one_bearer_token_is_refused(header: list[str | bytes]) -> None:
    tokens = Tokens()
    with pytest.raises(UnauthenticatedError):
        await tokens.authenticator(remember=True).authenticate([("authorization", value) for value in header])
    assert tokens.asked == 0


def test_tokens_are_read_as_they_are_written() -> None:
    secret, digest = make_secret()
    assert len(secret) == 64
    credential = parse_token(token_text("t1", secret))
    assert credential == Credential("t1", digest)
    assert credential.run is None
    run = parse_token(token_text(run_token_id(RUN, 12), secret))
    assert run is not None
    assert run.run == (RUN, 12)
    assert digest_of(secret) == digest
    assert parse_token("hg_run-xyz_" + secret) == Credential("run-xyz", digest)
    assert parse_token("hg__" + secret) is None
