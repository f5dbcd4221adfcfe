"""AgentService: agents lease runs, accept them, and report what became of their infrastructure."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from heliograph.api.contract import FieldViolation
from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.api.v1 import agent_service_pb2_grpc, options_pb2, states_pb2
from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.exceptions import NotFoundError, PermissionDeniedError
from heliograph_control_plane import calls
from heliograph_control_plane.auth import bearer
from heliograph_control_plane.damage import DAMAGE, tell_damage
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.errors import BadRequestError, bad_field
from heliograph_control_plane.principals import repeatable_secret, run_token_id, start_code_id, token_text
from heliograph_control_plane.store.records import Agent, AgentSpec, HeldRun, Lease, Spent
from heliograph_control_plane.store.start_codes import NewStartCode

from . import convert, names
from .acting import covers, judge_agent, visible_agent
from .backend import Backend, gather, page_size

MAX_WAIT_SECONDS = 60.0
MAX_LEASES = 100
MAX_HELD = 10_000
MAX_CAPACITY = 10_000
MAX_BACK_OFF_MICROS = 3_600 * convert.MICROS
START_CODE_MICROS = 900 * convert.MICROS
MAX_START_CODE_MICROS = 86_400 * convert.MICROS
RETURNS_PER_SECOND = 50
"""How many agents come back in a second after this server was away; each makes two calls at once."""
MAX_SPREAD_SECONDS = 25.0
NEXT_HEARTBEAT = convert.duration(15 * convert.MICROS)


class AgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """Answers AgentService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store
        self._wakeups = backend.wakeups

    async def RegisterAgent(self, request: pb.RegisterAgentRequest, context: Any) -> pb.Agent:
        """See the API. The agent works for the projects that its token is limited to."""
        spec = AgentSpec(
            name=names.new_id("agent_id", request.agent_id, 100),
            launcher=request.launcher,
            labels=tuple(dict.fromkeys(request.labels)),
            version=request.version,
            host=request.host,
            capacity=min(request.capacity, MAX_CAPACITY),
            projects=tuple(sorted(calls.principal().projects)),
            owner=calls.principal().name,
        )
        if not spec.launcher:
            raise bad_field("launcher", "is empty")
        with suppress(NotFoundError):
            judge_agent(await self._store.get_agent(spec.name))
        return convert.agent(await self._store.register_agent(spec))

    async def LeaseFlowRuns(self, request: pb.LeaseFlowRunsRequest, context: Any) -> pb.LeaseFlowRunsResponse:
        """See the API."""
        name = names.agent("agent", request.agent)
        wait = convert.duration_micros(request.wait) / convert.MICROS if request.HasField("wait") else 0.0
        found = []
        if not request.request_id:
            found.append(FieldViolation("request_id", "is empty"))
        if not 1 <= request.max_runs <= MAX_LEASES:
            found.append(FieldViolation("max_runs", f"must be 1 to {MAX_LEASES}"))
        if not 0 <= wait <= MAX_WAIT_SECONDS:
            found.append(FieldViolation("wait", f"must be 0 to {MAX_WAIT_SECONDS:.0f} s"))
        if found:
            raise BadRequestError(found)
        agent = await self._acting(name)
        leases = await self._lease(agent, request, time.monotonic() + wait)
        answer = pb.LeaseFlowRunsResponse(spent=isinstance(leases, Spent))
        for lease in leases:
            try:
                answer.leases.append(_lease_message(lease))
            except DAMAGE as error:  # its version's row: the run cannot be had by anybody, the others can
                tell_damage("flow_run", lease.flow_run.run_id, error)
                failure = states_pb2.Failure(reason=states_pb2.FAILURE_REASON_LAUNCH_FAILED).SerializeToString()
                await self._store.release_flow_run(name, lease.flow_run.run_id, lease.epoch, failure, 0)
        return answer

    async def _lease(self, agent: Agent, request: pb.LeaseFlowRunsRequest, until: float) -> tuple[Lease, ...]:
        scope = calls.principal().scope
        # Parked before the first look, so that nothing that comes between is missed.
        with self._wakeups.parked(agent, scope, request.request_id) as waiter:
            while True:
                leases = await self._store.lease_flow_runs(agent.name, request.request_id, request.max_runs, scope)
                self._wakeups.tell_outcome(waiter, got_runs=bool(leases))
                if leases or isinstance(leases, Spent):
                    return leases
                if not await self._wakeups.wait_for_run(waiter, until - time.monotonic()):
                    return leases
                self._backend.metrics.wakeups += 1

    async def AcceptFlowRun(self, request: pb.AcceptFlowRunRequest, context: Any) -> pb.AcceptFlowRunResponse:
        """See the API."""
        name = names.agent("agent", request.agent)
        if not request.epoch:
            raise bad_field("epoch", "is not set")
        project, run_id = names.run("flow_run", request.flow_run)
        caller = calls.principal()
        token_id = run_token_id(run_id, request.epoch)
        # The network may deliver an accept twice, the second time when the first answer is in use already, or to
        # another replica: all must give one token. What it is made of is the caller's own secret, which the store has
        # not, so that who reads the database can make none.
        key = bearer(context.invocation_metadata()).encode()
        secret, digest = repeatable_secret(key, "AcceptFlowRun", token_id, name)
        # The store looks whether the caller may see the run, and whether the agent is its own: one hop, not three.
        await self._store.accept_flow_run(
            name,
            run_id,
            request.epoch,
            digest,
            "" if project == names.ANY else project,
            caller.scope,
            "" if caller.has(options_pb2.ROLE_ADMIN) else caller.name,
        )
        # Where it was another before (by another token of the agent's), that one is worth nothing from now on.
        self._backend.authenticator.forget(token_id, keep=digest)
        return pb.AcceptFlowRunResponse(
            run_token=token_text(token_id, secret),
            lease=convert.duration(rules.RUN_LEASE),
            renew_every=convert.duration(rules.RENEW_EVERY),
            incarnation=self._store.incarnation,
        )

    async def CreateStartCode(self, request: pb.CreateStartCodeRequest, context: Any) -> pb.CreateStartCodeResponse:
        """See the API."""
        name = names.agent("agent", request.agent)
        if not request.epoch:
            raise bad_field("epoch", "is not set")
        lifetime = START_CODE_MICROS
        if request.HasField("lifetime"):
            lifetime = convert.duration_micros(request.lifetime)
        if not 0 < lifetime <= MAX_START_CODE_MICROS:
            raise bad_field("lifetime", "must be positive, and at most one day")
        project, run_id = names.run("flow_run", request.flow_run)
        caller = calls.principal()
        code_id = start_code_id(run_id, request.epoch)
        # As for run tokens: delivered twice, it is one code, and who reads the database can make none.
        key = bearer(context.invocation_metadata()).encode()
        secret, digest = repeatable_secret(key, "CreateStartCode", code_id, name)
        expire = await self._store.put_start_code(
            NewStartCode(
                name,
                run_id,
                request.epoch,
                digest,
                request.sealed_launch,
                lifetime,
                "" if project == names.ANY else project,
                caller.scope,
                "" if caller.has(options_pb2.ROLE_ADMIN) else caller.name,
            )
        )
        self._backend.authenticator.forget(code_id, keep=digest)
        return pb.CreateStartCodeResponse(start_code=token_text(code_id, secret), expire_time=convert.timestamp(expire))

    async def ExchangeStartCode(
        self, request: pb.ExchangeStartCodeRequest, context: Any
    ) -> pb.ExchangeStartCodeResponse:
        """See the API."""
        if not request.request_id:
            raise bad_field("request_id", "is empty")
        run = calls.principal().run
        assert run is not None, "who calls holds a start code"
        token_id = run_token_id(run.run_id, run.epoch)
        # The code and the request id together make the token, so that an answer that was lost can be given again, and
        # neither the store nor whoever reads the code can make it.
        key = bearer(context.invocation_metadata()).encode()
        secret, digest = repeatable_secret(key, "ExchangeStartCode", token_id, request.request_id)
        _, request_hash = repeatable_secret(key, "request", token_id, request.request_id)
        sealed = await self._store.exchange_start_code(run.run_id, run.epoch, request_hash, digest)
        self._backend.authenticator.forget(token_id, keep=digest)
        return pb.ExchangeStartCodeResponse(run_token=token_text(token_id, secret), sealed_launch=sealed)

    async def ReleaseFlowRun(self, request: pb.ReleaseFlowRunRequest, context: Any) -> runs_pb.FlowRun:
        """See the API."""
        name, run_id = await self._held(request)
        back_off = convert.duration_micros(request.back_off) if request.HasField("back_off") else 0
        if not 0 <= back_off <= MAX_BACK_OFF_MICROS:
            raise bad_field("back_off", "must be at most one hour")
        failure = request.failure.SerializeToString() if request.HasField("failure") else b""
        return convert.flow_run(
            await self._store.release_flow_run(name, run_id, request.epoch, failure, back_off, request.delay)
        )

    async def HeartbeatAgent(self, request: pb.HeartbeatAgentRequest, context: Any) -> pb.HeartbeatAgentResponse:
        """See the API."""
        name = names.agent("agent", request.agent)
        if len(request.runs) > MAX_HELD:
            raise bad_field("runs", f"has more than {MAX_HELD:,} elements")
        caller = calls.principal()
        await self._acting(name)
        held, by_id, foreign = [], {}, []
        for run in request.runs:
            project, run_id = names.run("runs.flow_run", run.flow_run)
            if not caller.may_see(project):
                foreign.append(run)
                continue
            by_id[run_id] = run.flow_run
            where = "" if project == names.ANY else project
            held.append(HeldRun(run_id, run.epoch, run.renew, where, run.waits_for))
        commands = await self._store.heartbeat_agent(name, held, request.draining)
        return pb.HeartbeatAgentResponse(
            commands=[
                pb.RunCommand(flow_run=by_id[c.run_id], epoch=c.epoch, command=convert.enum(c.command.value))
                for c in commands
                if c.run_id in by_id
            ]
            + [pb.RunCommand(flow_run=r.flow_run, epoch=r.epoch, command=pb.COMMAND_ABANDON) for r in foreign],
            next_heartbeat=NEXT_HEARTBEAT,
            incarnation=self._store.incarnation,
            spread_return=convert.duration(int(spread_seconds(self._wakeups.parked_polls) * convert.MICROS)),
        )

    async def ReportFlowRunExit(self, request: pb.ReportFlowRunExitRequest, context: Any) -> runs_pb.FlowRun:
        """See the API."""
        name, run_id = await self._held(request)
        failure = request.failure.SerializeToString() if request.HasField("failure") else b""
        ended = convert.micros_of(request.time) if request.HasField("time") else self._store.now()
        return convert.flow_run(
            await self._store.report_flow_run_exit(name, run_id, request.epoch, failure, max(ended, 1))
        )

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.Agent:
        """See the API."""
        return convert.agent(await self._visible(names.agent("name", request.name)))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        """See the API. A token that is limited to projects sees the agents that work for one of them."""
        scope = calls.principal().scope
        agents, token = await gather(
            lambda size, after: self._store.list_agents(size, after, scope),
            convert.agent,
            page_size(request.page_size),
            request.page_token,
            at_once=200,
        )
        return pb.ListAgentsResponse(agents=agents, next_page_token=token)

    async def DeleteAgent(self, request: pb.DeleteAgentRequest, context: Any) -> pb.DeleteAgentResponse:
        """See the API. An agent that the caller cannot see is not there, and one that is not there is deleted."""
        name = names.agent("name", request.name)
        try:
            agent = await self._visible(name)
        except NotFoundError:
            return pb.DeleteAgentResponse()
        if not covers(agent):
            raise PermissionDeniedError("the agent works for projects beyond those of the token")
        await self._store.delete_agent(name)
        return pb.DeleteAgentResponse()

    async def _visible(self, name: str) -> Agent:
        """The agent of that name. Not there and not for this caller are one answer."""
        return await visible_agent(self._backend, name)

    async def _acting(self, name: str) -> Agent:
        """The agent of that name, when the caller is that agent."""
        agent = await self._visible(name)
        judge_agent(agent)
        return agent

    async def _held(self, request: Any) -> tuple[str, str]:
        """The names of the agent and of its run, when the caller is that agent and may see that run."""
        name = names.agent("agent", request.agent)
        if not request.epoch:
            raise bad_field("epoch", "is not set")
        run = await self._backend.visible_run("flow_run", request.flow_run)
        await self._acting(name)
        return name, run.run_id


def spread_seconds(agents: int) -> float:
    """Returns over how long so many agents spread their return."""
    return min(agents / RETURNS_PER_SECOND, MAX_SPREAD_SECONDS)


def _lease_message(lease: Lease) -> pb.FlowRunLease:
    return pb.FlowRunLease(
        flow_run=convert.flow_run(lease.flow_run),
        flow_version=convert.flow_version(lease.flow_version, tasks=False),
        epoch=lease.epoch,
        attempt=lease.attempt,
        accept_within=convert.duration(rules.ACCEPT_WITHIN),
    )
