"""TokenService: credentials of named users and services."""

from __future__ import annotations

import secrets
from typing import Any

from heliograph.api.contract import FieldViolation
from heliograph.api.v1 import options_pb2, token_service_pb2_grpc
from heliograph.api.v1 import token_service_pb2 as pb
from heliograph.exceptions import PermissionDeniedError
from heliograph_control_plane import calls
from heliograph_control_plane.errors import BadRequestError
from heliograph_control_plane.principals import repeatable_secret, token_text
from heliograph_control_plane.store.records import NewToken

from . import convert, names
from .backend import Backend, gather, page_size, request_key


class TokenService(token_service_pb2_grpc.TokenServiceServicer):
    """Answers TokenService."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._authenticator = backend.authenticator
        self._key = secrets.token_bytes(32)

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        """See the API."""
        key = request_key("CreateToken", request)
        names.principal("principal", request.principal)
        projects = tuple(dict.fromkeys(names.project("projects", name) for name in request.projects))
        lifetime = convert.duration_micros(request.lifetime) if request.HasField("lifetime") else 0
        _check(request, lifetime)
        caller = calls.principal()
        if caller.projects and not (projects and set(projects) <= caller.projects):
            raise PermissionDeniedError("the token would reach further than yours")
        # The network may deliver a call twice: both answers must tell the secret that is good.
        secret, digest = repeatable_secret(self._key, caller.token_id, request.principal, request.request_id)
        new = NewToken(
            principal=request.principal,
            roles=tuple(sorted(set(request.roles))),
            projects=projects,
            secret_hash=digest,
            expire_micros=self._store.now() + lifetime if lifetime else 0,
            created_by=caller.name,
        )
        token = await self._store.create_token(new, key)
        # A call repeated after a restart, or at another replica, replaced the secret: the one before is worth nothing.
        self._authenticator.forget(token.token_id, keep=digest)
        return pb.CreateTokenResponse(token=convert.token(token), secret=token_text(token.token_id, secret))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> pb.ListTokensResponse:
        """See the API. A token that is limited to projects sees and revokes those that reach no further."""
        scope = calls.principal().scope
        tokens, after = await gather(
            lambda size, after: self._store.list_tokens(size, after, scope),
            convert.token,
            page_size(request.page_size),
            request.page_token,
            at_once=100,
        )
        return pb.ListTokensResponse(tokens=tokens, next_page_token=after)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.Token:
        """See the API. Open streams and long polls of the token end before this answers."""
        caller = calls.principal()
        token = await self._store.revoke_token(names.token("name", request.name), caller.scope)
        if token.token_id == caller.token_id:
            self._authenticator.distrust([token.token_id])
        else:
            self._authenticator.forget(token.token_id)
        return convert.token(token)


def _check(request: pb.CreateTokenRequest, lifetime: int) -> None:
    found = []
    if not request.roles or options_pb2.ROLE_UNSPECIFIED in request.roles:
        found.append(FieldViolation("roles", "must name at least one role, and no unspecified one"))
    if {options_pb2.ROLE_RUN, options_pb2.ROLE_START}.intersection(request.roles):
        found.append(FieldViolation("roles", "run tokens and start codes are made for runs only"))
    if request.HasField("lifetime") and lifetime <= 0:
        found.append(FieldViolation("lifetime", "must be positive"))
    if found:
        raise BadRequestError(found)
