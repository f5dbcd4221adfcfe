"""Method by role, whose things and state of the token: every cell is the one that the table of `table.py` has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.integration.access import table
from tests.integration.access.cells import Cell, Seen, call_all, full_name
from tests.integration.access.world import REQUESTS, Lease, Names, World, accept, nobodys, words_of
from tests.support.control_plane import control_plane
from tests.support.figures import Figure
from tests.support.scene import Scene, flow_event, task_event

from heliograph.api import contract
from heliograph.api.v1 import agent_service_pb2 as agents_pb
from heliograph.api.v1 import run_reporting_service_pb2 as reporting_pb
from heliograph.api.v1 import token_service_pb2 as tokens_pb
from heliograph.exceptions import NotFoundError
from heliograph_control_plane.interceptors import Guard
from heliograph_control_plane.principals import Principal
from heliograph_control_plane.services import agents, backend
from heliograph_control_plane.store import start_codes as start_codes_store

METHODS = {f"{method.containing_service.name}/{method.name}" for method in contract.methods()}
PAIRS = {"foreign": "absent", "mixed": "mixed with nobody's", "any": "any of nobody's"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane, ExitStack() as stack:
        yield Scene(stack, plane)


@pytest.fixture(scope="module")
def worlds(scene: Scene) -> tuple[World, World]:
    return World(scene), World(scene)


def bearer(token: str) -> str:
    return f"Bearer {token}"


def variants(own: Names, foreign: Names) -> dict[str, Names]:
    """Whose things a request is about, in the ways that are compared."""
    nobody = nobodys()

    def of_any(names: Names) -> Names:
        whichever = replace(own, project="projects/-")
        return whichever.mixed_with(names)

    return {
        # A name of its own each time: an administrator takes over the agents that it registers.
        "own": replace(own, new_agent=""),
        "foreign": foreign,
        "absent": nobody,
        "mixed": own.mixed_with(foreign),
        "mixed with nobody's": own.mixed_with(nobody),
        "any": of_any(foreign),
        "any of nobody's": of_any(nobody),
    }


def request_bytes(method: str, names: Names, role: str) -> bytes:
    if role == "run":
        names = replace(names, reporter="")
    return REQUESTS[method](names).SerializeToString()


def deviations(scene: Scene, worlds: tuple[World, World], methods: set[str]) -> tuple[list[str], int]:
    """Returns the cells that are not as the table has them, and the number of cells."""
    own, foreign = (world.names for world in worlds)
    expected, rows = variants(own, foreign), table.rows()
    cells = [
        Cell((method, role, variant), method, request_bytes(method, names, role), bearer(worlds[0].tokens[role]))
        for variant, names in expected.items()
        for method in sorted(methods)
        for role in table.ROLES
    ]
    words = words_of(expected.values())
    with grpc.insecure_channel(scene.plane.address) as channel:
        seen = call_all(channel, cells, words)
    found = []
    for (method, role, variant), got in seen.items():
        row = rows[method]
        if role not in row.allowed:
            wanted = table.NOT_ALLOWED
        elif variant == "own":
            wanted = row.own
        elif variant in {"foreign", "absent"}:
            wanted = row.foreign
        elif variant.startswith("mixed"):
            wanted = row.mixed
        else:
            wanted = ""
        exempt = method in table.TELLS_WHAT_IS_TAKEN and "foreign" not in variant and variant not in {"own", "mixed"}
        if wanted and not exempt and not got.matches(wanted):
            found.append(f"{method} as {role} about {variant}: {got.answer}, not {wanted}")
        twin = seen[method, role, PAIRS[variant]] if variant in PAIRS else got
        if got != twin and method not in table.TELLS_WHAT_IS_TAKEN:
            found.append(f"{method} as {role}: {variant} and {PAIRS[variant]} can be told apart: {got} {twin}")
    return found, len(cells)


def test_every_method_has_a_row_and_a_request() -> None:
    assert set(table.rows()) == METHODS
    assert set(REQUESTS) == METHODS
    assert {method for method, row in table.rows().items() if "run" in row.allowed} == set(table.RUN_TOKENS)


def test_the_documented_table_is_this_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    documented = {}
    for line in text.splitlines():
        method, *marks = (cell.strip() for cell in line.strip("|").split("|"))
        if method.strip("`") in METHODS:
            assert set(marks) <= {"yes", ""}
            roles = zip(table.ROLES, marks, strict=True)
            documented[method.strip("`")] = frozenset(role for role, mark in roles if mark)
    assert documented == {method: row.allowed for method, row in table.rows().items()}


def test_roles_and_projects_decide_as_the_table_says(scene: Scene, worlds: tuple[World, World], figure: Figure) -> None:
    found, cells = deviations(scene, worlds, METHODS)
    assert not found, "\n".join(found)
    figure(f"{cells:,} cells of method by role by whose things: all as the table has them")


def test_what_another_project_has_is_in_no_list(scene: Scene, worlds: tuple[World, World]) -> None:
    own, foreign = worlds
    methods = {"ListAgents": "agents", "ListTokens": "tokens"}
    api = scene.api(own.tokens["admin"])
    strange = foreign.names.words()
    for method, items in methods.items():
        stub = api.agents if method == "ListAgents" else api.tokens
        token, pages = "", 0
        while True:
            request = agents_pb.ListAgentsRequest if method == "ListAgents" else tokens_pb.ListTokensRequest
            page = getattr(stub, method)(request(page_size=1, page_token=token))
            pages += 1
            # A page that is short, or a token that goes on where nothing follows, would tell of what was left out.
            assert len(getattr(page, items)) == 1
            assert not strange & set(re.findall(r"[\w-]+", str(page)))
            token = page.next_page_token
            if not token:
                break
        assert pages >= 2


@pytest.mark.parametrize("planted", ["a role too many", "a project too many", "a text of its own", "an agent too many"])
def test_a_planted_hole_is_found(
    scene: Scene, worlds: tuple[World, World], planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted == "a role too many":
        monkeypatch.setattr(Guard, "_authorize", lambda *_: None)
    elif planted == "a project too many":
        monkeypatch.setattr(Principal, "may_see", lambda *_: True)
    elif planted == "a text of its own":
        visible = backend.Backend.visible_run

        async def talkative(self: backend.Backend, path: str, name: str) -> object:
            try:
                return await visible(self, path, name)
            except NotFoundError:
                await self.store.get_flow_run(name.rpartition("/")[2])
                raise NotFoundError("no such flow run here") from None

        monkeypatch.setattr(backend.Backend, "visible_run", talkative)
    else:
        monkeypatch.setattr(agents, "judge_agent", lambda _: None)
    subset = {"FlowRunService/GetFlowRun", "FlowService/GetFlow", "ProjectService/GetProject"}
    found, _ = deviations(scene, worlds, subset | {"AgentService/RegisterAgent"})
    assert found


# --- tokens that are no good ----------------------------------------------------------------------------------------


def test_a_token_that_is_no_good_gets_one_answer_everywhere(
    scene: Scene, worlds: tuple[World, World], tmp_path: Path, figure: Figure
) -> None:
    own = worlds[0].names
    whose = {"own": own, "another project's": worlds[1].names, "nobody's": nobodys()}
    headers: dict[tuple[str, str], str | None] = {}
    given = [role for role in table.ROLES if role not in ("run", "start")]
    with control_plane(tmp_path) as other, ExitStack() as stack:
        elsewhere = World(Scene(stack, other))
        for role, good in worlds[0].tokens.items():
            identity, secret = good.rpartition("_")[::2]
            headers |= {
                ("none", role): None,
                ("empty", role): "Bearer ",
                ("not a token", role): "Bearer nonsense",
                ("another scheme", role): f"Basic {good}",
                ("wrong secret", role): bearer(f"{identity}_{secret[::-1]}"),
                ("another server", role): bearer(elsewhere.tokens[role]),
            }
        for role in given:
            expiring = scene.token(role, projects=(own.project,), lifetime=Duration(nanos=1_000_000))
            revoked = scene.token(role, projects=(own.project,))
            scene.admin.tokens.RevokeToken(tokens_pb.RevokeTokenRequest(name=revoked.token.name))
            headers |= {("expired", role): bearer(expiring.secret), ("revoked", role): bearer(revoked.secret)}
    assert {state for state, _ in headers} == set(table.TOKEN_STATES)
    cells = [
        Cell(
            (method, role, state, about),
            method,
            request_bytes(method, names, role) if method in METHODS else b"",
            authorization,
        )
        for (state, role), authorization in headers.items()
        for about, names in whose.items()
        for method in [*sorted(METHODS), *(table.STANDARD if about == "own" else ())]
    ]
    with grpc.insecure_channel(scene.plane.address) as channel:
        seen = call_all(channel, cells, set())
    assert {key: got.answer for key, got in seen.items() if got.answer != table.NO_TOKEN} == {}
    assert len(set(seen.values())) == 1
    figure(f"{len(cells):,} cells of method by role by whose things by state of the token: one answer")


def test_health_reflection_and_channelz_are_as_the_table_says(scene: Scene, worlds: tuple[World, World]) -> None:
    cells = [
        Cell((method, role), method, b"", bearer(worlds[0].tokens[role]))
        for method in table.STANDARD
        for role in table.ROLES
    ]
    with grpc.insecure_channel(scene.plane.address) as channel:
        seen = call_all(channel, cells, set())
    for (method, role), got in seen.items():
        allowed = role in table.roles_of(table.STANDARD[method])
        assert got.matches(table.NOT_ALLOWED) is not allowed, (method, role, got.answer)


# --- tokens of runs -------------------------------------------------------------------------------------------------


def test_the_token_of_a_run_is_worth_what_the_table_says(
    scene: Scene, worlds: tuple[World, World], figure: Figure
) -> None:
    world = worlds[0]
    own = replace(world.names, reporter="", first_sequence=1)
    current, moved, ended, replaced = (world.lease() for _ in range(4))
    for lease in (moved, ended):
        # Heard of once, so that its token is not replaced but outlived.
        scene.api(lease.token).logs.WriteLogEntries(REQUESTS["LogService/WriteLogEntries"](with_run(own, lease)))
    release = agents_pb.ReleaseFlowRunRequest(agent=own.agent, flow_run=moved.run, epoch=moved.epoch)
    world.api.agents.ReleaseFlowRun(release)
    (again,) = scene.lease(own.agent, 5, api=world.api)
    assert again.flow_run.name == moved.run
    assert again.epoch > moved.epoch
    accept(world.api, own.agent, again)
    batch = REQUESTS["RunReportingService/ReportRunEvents"](with_run(own, ended))
    batch.events.extend([flow_event("RUNNING"), flow_event("SUCCESS")])
    scene.api(ended.token).reporting.ReportRunEvents(batch)
    # By another token of the agent's principal: the same one would be told the same again.
    rotated = scene.api_as("agent", projects=(world.project,), principal=world.agent_principal)
    rotated.agents.AcceptFlowRun(
        agents_pb.AcceptFlowRunRequest(agent=own.agent, flow_run=replaced.run, epoch=replaced.epoch)
    )
    holders = {
        "current": (current, current),
        "another run": (current, world.names.accepted),
        "old epoch": (moved, moved),
        "ended": (ended, ended),
        "replaced": (replaced, replaced),
    }
    assert tuple(holders) == table.RUN_TOKEN_STATES
    cells = [
        Cell((method, state), method, REQUESTS[method](with_run(own, about)).SerializeToString(), bearer(holder.token))
        for state, (holder, about) in holders.items()
        for method in sorted(METHODS)
    ]
    # The task run must be there, for the holder of the current lease to read.
    scene.api(current.token).reporting.ReportRunEvents(first_states(own, current))
    with grpc.insecure_channel(scene.plane.address) as channel:
        seen: dict[tuple[str, ...], Seen] = call_all(channel, cells, own.words())
    found = []
    for (method, state), got in seen.items():
        row = table.RUN_TOKENS.get(method)
        if row is not None:
            wanted = row[table.RUN_TOKEN_STATES.index(state)]
        else:
            wanted = table.NOT_ALLOWED if state in {"current", "another run"} else table.NO_TOKEN
        if not got.matches(wanted):
            found.append(f"{method} with the token {state}: {got.answer}, not {wanted}")
    assert not found, "\n".join(found)
    figure(f"{len(cells):,} cells of method by state of a run's token: all as the table has them")


# --- start codes ----------------------------------------------------------------------------------------------------


def start_codes(scene: Scene, world: World) -> dict[str, str]:
    """A start code in each state that the table has."""
    held = {state: world.lease() for state in table.START_CODES}

    def code(lease: Lease, **more: Any) -> str:
        request = agents_pb.CreateStartCodeRequest(
            agent=world.agent, flow_run=lease.run, epoch=lease.epoch, sealed_launch=b"sealed", **more
        )
        return str(world.api.agents.CreateStartCode(request).start_code)

    def report(lease: Lease, token: str, *states: str) -> None:
        batch = reporting_pb.RunEventBatch(flow_run=lease.run, epoch=lease.epoch, first_sequence=1)
        batch.events.extend(flow_event(state) for state in states)
        scene.api(token).reporting.ReportRunEvents(batch)

    def exchange(code: str) -> str:
        request = agents_pb.ExchangeStartCodeRequest(request_id="another-request")
        return str(scene.api(code).agents.ExchangeStartCode(request).run_token)

    brief = Duration(nanos=1_000_000)
    codes = {state: code(lease, **({"lifetime": brief} if state == "expired" else {})) for state, lease in held.items()}
    exchange(codes["exchanged"])
    report(held["run begun"], exchange(codes["run begun"]), "RUNNING")
    report(held["ended"], exchange(codes["ended"]), "RUNNING", "SUCCESS")
    # By another token of the agent's principal: the same one would be given the same code again.
    rotated = scene.api_as("agent", projects=(world.project,), principal=world.agent_principal)
    place = held["replaced"]
    rotated.agents.CreateStartCode(
        agents_pb.CreateStartCodeRequest(agent=world.agent, flow_run=place.run, epoch=place.epoch)
    )
    moved = held["old epoch"]
    world.api.agents.ReleaseFlowRun(
        agents_pb.ReleaseFlowRunRequest(agent=world.agent, flow_run=moved.run, epoch=moved.epoch)
    )
    (again,) = scene.lease(world.agent, 5, api=world.api)
    assert again.flow_run.name == moved.run
    accept(world.api, world.agent, again)
    return codes


def code_deviations(scene: Scene, worlds: tuple[World, World]) -> tuple[list[str], int]:
    """Returns the cells of start codes that are not as the table has them, and the number of cells."""
    whose = {"own": worlds[0].names, "another project's": worlds[1].names, "nobody's": nobodys()}
    cells = [
        Cell((method, state, about), method, REQUESTS[method](names).SerializeToString(), bearer(code))
        for state, code in start_codes(scene, worlds[0]).items()
        for about, names in whose.items()
        for method in sorted(METHODS)
    ]
    with grpc.insecure_channel(scene.plane.address) as channel:
        seen = call_all(channel, cells, words_of(whose.values()))
    found = []
    for (method, state, about), got in seen.items():
        late = state in table.OUTLIVED_CODES and method in table.LATE
        wanted = table.NOT_ALLOWED if late or state in table.KNOWN_CODES else table.NO_TOKEN
        if method == "AgentService/ExchangeStartCode":
            wanted = table.START_CODES[state]
        if not got.matches(wanted):
            found.append(f"{method} with a start code {state} about {about}: {got.answer}, not {wanted}")
    return found, len(cells)


def test_a_start_code_is_worth_what_the_table_says(scene: Scene, worlds: tuple[World, World], figure: Figure) -> None:
    found, cells = code_deviations(scene, worlds)
    assert not found, "\n".join(found)
    figure(f"{cells:,} cells of method by state of a start code by whose things: all as the table has them")


@pytest.mark.parametrize("planted", ["exchanged twice", "good for ever"])
def test_a_start_code_that_is_worth_too_much_is_found(
    scene: Scene, worlds: tuple[World, World], planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted == "exchanged twice":
        monkeypatch.setattr(start_codes_store, "_is_used", lambda *_: False)
        monkeypatch.setattr(start_codes_store.hmac, "compare_digest", lambda *_: True)
    else:
        genuine = start_codes_store.authenticate
        monkeypatch.setattr(start_codes_store, "authenticate", lambda *given: genuine(*given[:-1], 0))
    assert code_deviations(scene, worlds)[0]


def with_run(names: Names, lease: Lease) -> Names:
    return replace(names, running=lease)


def first_states(names: Names, lease: Lease) -> Any:
    batch = REQUESTS["RunReportingService/ReportRunEvents"](with_run(names, lease))
    batch.events.extend([flow_event("RUNNING"), task_event(0, "RUNNING")])
    return batch


def test_all_names_on_the_wire_are_known() -> None:
    assert all(full_name(method).startswith("/heliograph.api.v1.") for method in METHODS)
