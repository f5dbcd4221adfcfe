"""Why a run has not started, or how it ended: agents compared with what the run needs."""

from __future__ import annotations

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.engine.codes import StateCode
from heliograph_control_plane import calls
from heliograph_control_plane.domain import runs as rules
from heliograph_control_plane.domain.matching import match
from heliograph_control_plane.store.records import Agent, FlowRun, TaskRun

from . import convert
from .backend import Backend

MAX_AGENTS = 100
MAX_FAILED = 20
_FAILED = [state for state in StateCode if state.is_failed]


async def explain(backend: Backend, run: FlowRun) -> pb.ExplainFlowRunResponse:
    """Answers ExplainFlowRun."""
    scope = calls.principal().scope
    agents = [agent for agent in await _all_agents(backend) if _shares_project(agent, run.project, scope)]
    matches = sorted((_compare(agent, run) for agent in agents), key=_best_first)
    failed: tuple[TaskRun, ...] = ()
    if run.state.is_failed:
        failed = (await backend.store.list_task_runs(run.run_id, _FAILED, MAX_FAILED, "")).items
    slugs = (await backend.version_facts(run.project, run.flow, run.version)).slugs if failed else ()
    now = backend.store.now()
    return pb.ExplainFlowRunResponse(
        flow_run=convert.flow_run(run),
        situation=situation(run, matches, now),
        agents=matches[:MAX_AGENTS],
        failed_task_runs=[convert.task_run(task_run, run.project, slugs) for task_run in failed],
        required_labels=run.labels,
        required_host=run.host,
        launch_delay=convert.enum(rules.known_delay(run.launch_delay)),
        next_try_time=convert.timestamp(run.ready_micros) if _is_held_back(run, now) else None,
        put_back_count=run.put_backs,
    )


def situation(run: FlowRun, matches: list[pb.AgentMatch], now_micros: int) -> pb.Situation.ValueType:
    """In which situation the run is. `matches`: the agents of its project."""
    if run.state.is_finished:
        return pb.SITUATION_FINISHED
    if run.lost:
        return pb.SITUATION_LOST
    if run.state == StateCode.CANCELLING:
        return pb.SITUATION_CANCELLING
    if run.state == StateCode.SUBMITTED:
        return pb.SITUATION_LAUNCHING
    if run.state not in {StateCode.SCHEDULED, StateCode.QUEUED, StateCode.PENDING}:
        return pb.SITUATION_RUNNING
    if run.scheduled_micros > now_micros:
        return pb.SITUATION_NOT_DUE
    if not matches:
        return pb.SITUATION_NO_AGENT
    fitting = [found for found in matches if found.matches]
    if not fitting:
        return pb.SITUATION_NO_MATCHING_AGENT
    online = [found for found in fitting if not found.offline]
    if not online:
        return pb.SITUATION_MATCHING_AGENT_OFFLINE
    if run.put_backs and _is_held_back(run, now_micros):
        return pb.SITUATION_PUT_BACK
    if not any(found.free_slots and not found.draining for found in online):
        return pb.SITUATION_MATCHING_AGENT_FULL
    return pb.SITUATION_STARTING


def _is_held_back(run: FlowRun, now_micros: int) -> bool:
    """True while a due run is given to nobody: it was put back, or the store was restored from a backup."""
    return run.state == StateCode.SCHEDULED and run.scheduled_micros <= now_micros < run.ready_micros


async def _all_agents(backend: Backend) -> list[Agent]:
    agents: list[Agent] = []
    token = ""
    while True:
        page = await backend.store.list_agents(1_000, token)
        agents += page.items
        token = page.next_token
        if not token:
            return agents


def _shares_project(agent: Agent, project: str, scope: frozenset[str] | None) -> bool:
    works_for = not agent.projects or project in agent.projects
    return works_for and (scope is None or project in scope)


def _compare(agent: Agent, run: FlowRun) -> pb.AgentMatch:
    found = match(
        required_labels=run.labels,
        required_launcher=run.launcher,
        required_host=run.host,
        project=run.project,
        labels=agent.labels,
        launcher=agent.launcher,
        host=agent.host,
    )
    return pb.AgentMatch(
        agent=f"agents/{agent.name}",
        matches=found.fits,
        missing_labels=found.missing_labels,
        wrong_host=found.wrong_host,
        wrong_launcher=found.wrong_launcher,
        offline=not agent.online,
        free_slots=max(agent.capacity - agent.running, 0),
        draining=agent.draining,
    )


def _best_first(found: pb.AgentMatch) -> tuple[bool, bool, bool, int, int, str]:
    lacks = len(found.missing_labels) + found.wrong_host + found.wrong_launcher
    return (not found.matches, found.offline, found.draining, lacks, -found.free_slots, found.agent)
