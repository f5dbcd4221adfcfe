"""Verification of tokens: from the `authorization` header to a `Principal`, and the end of calls whose token ended.

A verified token is remembered only where this process is the only one that revokes (`remember=True`, an embedded
store), and until the first change of any token. `forget` ends a token's open streams and long polls before it
returns. With replicas every call reads the store, and `sweep` ends what lasts longer than its token.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from heliograph.api.v1 import options_pb2
from heliograph.exceptions import UnauthenticatedError
from heliograph_control_plane.principals import Credential, Principal, RunIdentity, parse_token, run_token_id
from heliograph_control_plane.store.interface import Store

_MAX_REMEMBERED = 10_000
# The store notes when a token was last used, to the minute: so often it must be asked anyway.
_REMEMBER_MICROS = 60 * 1_000_000

Verify = Callable[[Credential], Awaitable[Principal | None]]


@dataclass(eq=False, slots=True)
class LiveCall:
    """A call that may outlast its token."""

    task: asyncio.Task[object]
    credential: Credential
    ended: bool = False

    def end(self) -> None:
        """Ends it, once."""
        if not self.ended:
            self.ended = True
            self.task.cancel()


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    principal: Principal
    until_micros: int


class Authenticator:
    """Turns a call's metadata into a principal.

    Args:
        verify: Asks the store whom a credential stands for; None when it is not good now.
        now_micros: The server's clock.
        remember: True to keep verified tokens in memory until a token changes.
    """

    def __init__(self, verify: Verify, now_micros: Callable[[], int], *, remember: bool) -> None:
        self._verify = verify
        self._now_micros = now_micros
        self._remember = remember
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._of_runs: defaultdict[str, set[str]] = defaultdict(set)
        self._generation = 0
        self._live: defaultdict[str, set[LiveCall]] = defaultdict(set)

    async def authenticate(self, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[Principal, Credential]:
        """Returns whom the call's metadata stands for.

        Raises:
            UnauthenticatedError: No token, or one that is malformed, unknown, expired or revoked; always the same text.
        """
        credential = parse_token(bearer(metadata))
        principal = await self._principal(credential) if credential else None
        if principal is None or credential is None:
            raise refused()
        return principal, credential

    async def _principal(self, credential: Credential) -> Principal | None:
        known = self._known.get(credential.token_id)
        if known is not None and hmac.compare_digest(known.digest, credential.digest):
            now, expires = self._now_micros(), known.principal.expire_micros
            if expires and now >= expires:
                return None
            if now < known.until_micros:
                return known.principal
        generation = self._generation
        found = await self._verify(credential)
        # What was read before a change must not be remembered after it.
        if found is not None and self._remember and generation == self._generation:
            until = self._now_micros() + _REMEMBER_MICROS
            self._known[credential.token_id] = _Known(credential.digest, found, until)
            if found.run is not None:
                self._of_runs[found.run.run_id].add(credential.token_id)
            if len(self._known) > _MAX_REMEMBERED:
                self._drop(next(iter(self._known)))
        return found

    def _drop(self, token_id: str) -> None:
        known = self._known.pop(token_id, None)
        if known is not None and known.principal.run is not None:
            run_id = known.principal.run.run_id
            self._of_runs[run_id].discard(token_id)
            if not self._of_runs[run_id]:
                del self._of_runs[run_id]

    def forget(self, token_id: str, keep: bytes = b"") -> None:
        """Ends a token at once: nothing of it is remembered, and its open streams and long polls end.

        Args:
            token_id: Which one.
            keep: Digest of the secret that is good from now on. Calls that were made with it go on: who mints a token
                a second time must not cut off those that use it since the first.
        """
        self._generation += 1
        self._drop(token_id)
        for call in tuple(self._live.get(token_id, ())):
            if call.credential.digest != keep:
                call.end()

    def distrust(self, token_ids: Iterable[str] | None = None) -> None:
        """Asks the store again at the next call: for these tokens, or for all of them."""
        self._generation += 1
        for token_id in tuple(self._known) if token_ids is None else token_ids:
            self._drop(token_id)

    def distrust_runs(self, run_ids: frozenset[str]) -> None:
        """Asks the store again for the tokens of these runs: what they may do depends on the run."""
        self._generation += 1
        for run_id in self._of_runs.keys() & run_ids:
            for token_id in tuple(self._of_runs[run_id]):
                self._drop(token_id)

    @contextmanager
    def lasting(self, credential: Credential) -> Iterator[LiveCall]:
        """Registers the current task as a call that ends when its token does."""
        task = asyncio.current_task()
        assert task is not None
        call = LiveCall(task, credential)
        calls = self._live[credential.token_id]
        calls.add(call)
        try:
            yield call
        finally:
            calls.discard(call)
            if not calls and self._live.get(credential.token_id) is calls:
                del self._live[credential.token_id]

    async def sweep(self) -> None:
        """Ends the open calls of tokens that expired, or that another replica revoked."""
        for token_id, live in list(self._live.items()):
            for credential in {call.credential for call in live}:
                if await self._principal(credential) is None:
                    self._drop(token_id)
                    for call in live:
                        if call.credential == credential:
                            call.end()


def store_verifier(store: Store) -> Verify:
    """Returns the verifier that asks the store."""

    async def verify(credential: Credential) -> Principal | None:
        if credential.run is not None:
            run_id, epoch = credential.run
            run = await store.authenticate_run(run_id, epoch, credential.digest)
            if run is None:
                return None
            return Principal(
                name=f"projects/{run.project}/flowRuns/{run.run_id}",
                roles=frozenset({options_pb2.ROLE_RUN}),
                projects=frozenset({run.project}),
                token_id=run_token_id(run.run_id, run.epoch),
                run=RunIdentity(run.run_id, run.epoch, run.ended),
            )
        if credential.start is not None:
            return await _verify_start(store, credential, *credential.start)
        token = await store.authenticate(credential.token_id, credential.digest)
        if token is None:
            return None
        return Principal(
            name=token.principal,
            roles=frozenset(token.roles),
            projects=frozenset(token.projects),
            token_id=token.token_id,
            expire_micros=token.expire_micros,
        )

    return verify


async def _verify_start(store: Store, credential: Credential, run_id: str, epoch: int) -> Principal | None:
    found = await store.authenticate_start_code(run_id, epoch, credential.digest)
    if found is None:
        return None
    run, expire_micros = found
    return Principal(
        name=f"projects/{run.project}/flowRuns/{run.run_id}",
        roles=frozenset({options_pb2.ROLE_START}),
        projects=frozenset({run.project}),
        token_id=credential.token_id,
        expire_micros=expire_micros,
        run=RunIdentity(run.run_id, run.epoch, run.ended),
    )


def bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the text of the token that a call carries; empty when its header is of another scheme.

    Raises:
        UnauthenticatedError: There is no such header, or more than one.
    """
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        raise refused()
    scheme, _, text = values[0].partition(" ")
    return text if scheme.lower() == "bearer" else ""


def refused() -> UnauthenticatedError:
    """The one answer to a call without a good token."""
    return UnauthenticatedError("no valid token")
