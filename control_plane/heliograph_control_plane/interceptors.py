"""What happens around every call, in this order: request id, token, role, deadline, size, contract; then errors and
metrics on the way out.

One interceptor does it for all four kinds of methods, the standard services included, and denies by default: a method
that is in no table of policies is refused. Token and role are judged before the request's bytes are looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from heliograph.api import contract
from heliograph.api.v1 import options_pb2
from heliograph.exceptions import (
    DeadlineRequiredError,
    HeliographError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from heliograph_control_plane import calls
from heliograph_control_plane.auth import Authenticator, refused
from heliograph_control_plane.errors import STATUS_KEY, BadRequestError, code_of, describe_fault, to_status
from heliograph_control_plane.limits import (
    MAX_DEADLINE_SECONDS,
    MAX_GRAPH_REQUEST_BYTES,
    MAX_REQUEST_BYTES,
    CallCounter,
    check_metadata,
)
from heliograph_control_plane.metrics import Metrics
from heliograph_control_plane.principals import READERS, Principal

# Larger requests are parsed and checked on a thread, so that they hold up nobody.
_LARGE_BYTES = 128 * 1024

_PROCESS = secrets.token_hex(8)
_numbers = itertools.count(1)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:+/=\-]{1,64}")
_STANDARD_SERVICES = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.channelz.v1.Channelz/",
)

_LATE_REPORTS = frozenset(
    {
        "/heliograph.api.v1.RunReportingService/StreamRunEvents",
        "/heliograph.api.v1.RunReportingService/ReportRunEvents",
        "/heliograph.api.v1.LogService/WriteLogEntries",
    }
)
"""All that the token of a run may do whose lease is over."""

_log = structlog.get_logger("heliograph.server")

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


@dataclass(frozen=True, slots=True)
class MethodRule:
    """What the descriptors say of one method. No roles means: any authenticated principal."""

    mutation: bool
    roles: frozenset[int]
    max_bytes: int = MAX_REQUEST_BYTES


def method_rules() -> dict[str, MethodRule]:
    """The rules of all methods of the API, by `/package.Service/Method`."""
    rules = {}
    for method in contract.methods():
        policy = contract.policy(method)
        large = method.name == "RegisterFlowVersion"
        rules[f"/{method.containing_service.full_name}/{method.name}"] = MethodRule(
            policy.mutation,
            frozenset(policy.roles),
            MAX_GRAPH_REQUEST_BYTES if large else MAX_REQUEST_BYTES,
        )
    return rules


class Guard(grpc.aio.ServerInterceptor):
    """The one interceptor of the server."""

    def __init__(self, authenticator: Authenticator, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._rules = method_rules()
        self._calls = CallCounter()
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Judges token and role, and hands out the wrapped handler."""
        method = handler_call_details.method
        metadata: Sequence[tuple[str, Any]] = handler_call_details.invocation_metadata or ()
        request_id = _request_id(metadata)
        try:
            check_metadata(metadata)
            principal, credential = await self._authenticator.authenticate(metadata)
            self._authorize(method, principal)
            self._calls.enter(principal)
        except HeliographError as error:
            return self._refuse(method, request_id, error)
        except Exception as error:  # noqa: BLE001  # boundary: the store may be gone while a token is looked up
            return self._refuse(method, request_id, _internal(error, method, request_id))
        calls.set_current(calls.Call(method, request_id, principal, credential))
        known = self._wrapped.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            known = self._wrapped[method] = self._wrap(method, handler)
        return known

    def _authorize(self, method: str, principal: Principal) -> None:
        if principal.run is not None and principal.run.ended and method not in _LATE_REPORTS:
            raise refused()
        rule = self._rules.get(method)
        if rule is not None:
            anybody = not rule.roles and options_pb2.ROLE_START not in principal.roles
            allowed = anybody or bool(rule.roles & principal.roles)
        else:
            allowed = method.startswith(_STANDARD_SERVICES) and bool(READERS & principal.roles)
        if not allowed:
            raise PermissionDeniedError("the token's roles do not allow this call")

    def _refuse(self, method: str, request_id: str, error: HeliographError) -> Handler:
        label = method if method in self._rules or method.startswith(_STANDARD_SERVICES) else "(unknown)"
        self._metrics.calls[label, code_of(error).name] += 1

        # A bidi handler starts without waiting for the first message, whatever kind the method is.
        async def refuse(_requests: object, context: Any) -> AsyncIterator[bytes]:
            await abort(context, request_id, error)
            yield b""

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _wrap(self, method: str, handler: Handler) -> Handler:
        rule = self._rules.get(method, MethodRule(mutation=False, roles=READERS))
        around = _Around(method, rule, handler, self._authenticator, self._metrics)
        make: Any
        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else None
            behaviour: Any = around.stream_stream
        elif handler.response_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, around.unary_stream
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, around.unary_unary
        assert make is not None, "the API has no method that streams requests only"
        wrapped: Handler = make(behaviour, None, handler.response_serializer)
        return wrapped


class _Around:
    """One method's handler with everything around it. Requests come as bytes, so that their size is judged first."""

    def __init__(
        self, method: str, rule: MethodRule, handler: Any, authenticator: Authenticator, metrics: Metrics
    ) -> None:
        self._method = method
        self._rule = rule
        self._handler = handler
        self._authenticator = authenticator
        self._metrics = metrics
        self._checks = method.startswith("/heliograph.")

    async def unary_unary(self, raw: bytes, context: Any) -> object:
        call, started = self._start(context)
        code = "OK"
        try:
            self._judge_deadline(context)
            request = self._parse(raw) if len(raw) < _LARGE_BYTES else await asyncio.to_thread(self._parse, raw)
            with self._authenticator.lasting(call.credential) as live:
                try:
                    return await self._handler.unary_unary(request, context)
                except asyncio.CancelledError:
                    if live.ended:
                        raise refused() from None
                    raise
        except BaseException as error:
            answer, code = self._judge(error, call, context)
            if answer is None:
                raise
            await abort(context, call.request_id, answer)
        finally:
            self._metrics.finished(self._method, code, time.monotonic() - started)

    async def unary_stream(self, raw: bytes, context: Any) -> AsyncIterator[object]:
        async for answer in self._stream(lambda: self._handler.unary_stream(self._parse(raw), context), context):
            yield answer

    async def stream_stream(self, raws: AsyncIterator[bytes], context: Any) -> AsyncIterator[object]:
        requests = (self._parse(raw) async for raw in raws)
        async for answer in self._stream(lambda: self._handler.stream_stream(requests, context), context):
            yield answer

    async def _stream(self, begin: Callable[[], Any], context: Any) -> AsyncIterator[object]:
        call, started = self._start(context)
        code = "OK"
        try:
            with self._authenticator.lasting(call.credential) as live:
                try:
                    answers = begin()
                    if hasattr(answers, "__aiter__"):
                        async with aclosing(answers):
                            async for answer in answers:
                                yield answer
                    else:  # a servicer that writes to the context itself, as the health service does
                        await answers
                except asyncio.CancelledError:
                    if live.ended:
                        raise refused() from None
                    raise
        except BaseException as error:
            refusal, code = self._judge(error, call, context)
            if refusal is None:
                raise
            await abort(context, call.request_id, refusal)
        finally:
            self._metrics.finished(self._method, code, time.monotonic() - started)

    def _start(self, context: Any) -> tuple[calls.Call, float]:
        call = calls.current()
        self._metrics.started(self._method)
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        return call, time.monotonic()

    def _judge_deadline(self, context: Any) -> None:
        if not self._rule.mutation:
            return
        remaining = context.time_remaining()
        # Without a deadline grpc answers None, or as long as its clock can count.
        if remaining is None or remaining > 10 * 365 * 86_400:
            raise DeadlineRequiredError(
                "a call that changes something needs a deadline", hint=f"at most {MAX_DEADLINE_SECONDS:.0f} s"
            )
        if remaining > MAX_DEADLINE_SECONDS + 1:
            raise DeadlineRequiredError(f"the deadline is further away than {MAX_DEADLINE_SECONDS:.0f} s")

    def _parse(self, raw: bytes) -> Message:
        if len(raw) > self._rule.max_bytes:
            raise ResourceExhaustedError(f"the request is larger than {self._rule.max_bytes:,} bytes")
        try:
            request: Message = self._handler.request_deserializer(raw)
        except DecodeError:
            raise InvalidArgumentError("the request is not a message of this method") from None
        if self._checks:
            # What the contract does not name does not get further than this line.
            request.DiscardUnknownFields()
            if found := contract.violations(request):
                raise BadRequestError(found)
        return request

    def _judge(self, error: BaseException, call: calls.Call, context: Any) -> tuple[HeliographError | None, str]:
        """What to answer, if anything is left to be answered, and the code that is counted."""
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return None, "CANCELLED"
        if isinstance(error, grpc.aio.AbortError):
            return None, str(getattr(context.code(), "name", context.code()))
        if not isinstance(error, Exception):
            return None, "INTERNAL"
        answer = error if isinstance(error, HeliographError) else _internal(error, self._method, call.request_id)
        return answer, code_of(answer).name


async def abort(context: Any, request_id: str, error: HeliographError) -> NoReturn:
    """Ends a call with the status of `error`."""
    status = to_status(error)
    await context.abort(
        code_of(error),
        status.message,
        trailing_metadata=((STATUS_KEY, status.SerializeToString()), ("x-request-id", request_id)),
    )
    raise AssertionError("abort raises")


def _internal(error: Exception, method: str, request_id: str) -> HeliographError:
    _log.error("call failed", method=method, request_id=request_id, **describe_fault(error))
    return InternalError(f"a fault of the server; quote request {request_id}")


def _request_id(metadata: Sequence[tuple[str, Any]]) -> str:
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return f"{_PROCESS}{next(_numbers):016x}"
