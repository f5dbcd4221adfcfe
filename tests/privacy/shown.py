"""What launchers show to the infrastructure: of which slot, and where. Compared for equality, like what crosses.

Docker, ECS and Kubernetes are somebody else's programs, and more people may look into them than may see the data: what
an agent asks of them is a sink of its own. Besides the canaries every token is looked for that crossed in the session.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.privacy import sinks
from tests.privacy.session import Session

Table = dict[str, set[str]]
"""Slot to the places where it is shown, and nowhere else."""

_RECORD = (
    "agent_label", "agent_name", "flow_name", "home_folder", "image", "parameter_value", "project_name",
    "results_folder", "run_name", "secret", "secret_file", "secret_token", "secret_url", "secret_variable",
    "storage_folder", "user_name",
)  # fmt: skip
"""What an agent hands to a run: which it is, its parameters, its place, and what the agent's owner gives to all."""


_START = "RunTask.overrides.containerOverrides[].environment[HELIOGRAPH_START]"


def _table(record: str, token: str, places: Table) -> Table:
    """Returns a table: where the launch record is, where the run token is, and what is elsewhere.

    The author's own environment, results, code and everything that a task says are in none: they are in the bundle,
    and in the user's storage.
    """
    table = {"run token": {token}, **{slot: {record} for slot in _RECORD}}
    for slot, found in places.items():
        table[slot] = table.get(slot, set()) | found
    return table


def _labelled(key: str) -> set[str]:
    """Returns where a label of ours is in an engine."""
    return {f"POST /{kind}/create.Labels.heliograph.io/{key}" for kind in ("containers", "volumes")}


def _noted(key: str) -> set[str]:
    """Returns where an annotation of ours is in a cluster."""
    return {f"{place}.annotations.heliograph.io/{key}"
            for place in ("jobs.metadata", "jobs.spec.template.metadata", "pods.metadata")}  # fmt: skip


EXPECTED: dict[str, Table] = {
    # Arguments of processes.
    "local": {},
    # Labels and options are shown to whoever may ask the engine; what is copied into a container is the container's.
    "docker": _table(
        "PUT /containers/NAME/archive offer/launch.json",
        "PUT /containers/NAME/archive offer/token",
        {
            "agent_name": _labelled("agent") | {"GET ?filters"},
            "image": _labelled("image") | {"GET /images/NAME/json path"},
            "place_label": {"POST /containers/create.Labels.note"},
            "project_name": _labelled("flow-run"),
            "working_folder": {"POST /containers/create.WorkingDir"},
        },
    ),
    # No record: it is sealed, and comes from the control plane for the start code.
    "ecs": {
        "agent_name": {"ListTasks.startedBy", "RunTask.startedBy", "RunTask.tags[heliograph.io/agent]"},
        "flow_name": {
            "DescribeTaskDefinition.taskDefinition", "RegisterTaskDefinition.family", "RunTask.taskDefinition",
            "RegisterTaskDefinition.tags[heliograph.io/flow]",
        },
        "image": {"RegisterTaskDefinition.containerDefinitions[].image"},
        "place_label": {"RunTask.tags[note]"},
        "project_name": {"RunTask.tags[heliograph.io/flow-run]"},
        "start token": {_START, f"{_START}.code"},
    },
    "kubernetes": _table(
        "secrets.data.launch.json",
        "secrets.data.token",
        {
            "agent_name": _noted("agent-name"),
            "flow_name": {"name of the Job"},
            "image": {"jobs.spec.template.spec.containers[].image", "pods.spec.containers[].image"},
            "place_label": {"jobs.spec.template.metadata.labels.note", "pods.metadata.labels.note"},
            "project_name": _noted("flow-run"),
            "run_name": _noted("run-name"),
        },
    ),
}  # fmt: skip
"""Kind of launcher to what it shows."""


def learn_tokens(session: Session) -> None:
    """Has the secret part of every token be looked for that crossed: the other part is the id that it is for."""
    known = set(session.canaries.by_slot.values())
    for place, text in sinks.messages(session.tap):
        if place == "metadata authorization" or place.endswith((".run_token", ".start_code")):
            public, _, secret = text.decode().removeprefix("Bearer ").rpartition("_")
            if secret not in known:
                known.add(secret)
                kind = public.removeprefix("hg_").partition("-")
                session.canaries.learn(f"{len(known)}.{f'{kind[0]} token' if kind[1] else 'token'}", secret)


def shown(session: Session) -> Table:
    """Returns which slots were shown where; those of all endings together."""
    found: Table = {}
    for name, places in sinks.hits(session.canaries, session.place.shown()).items():
        found.setdefault(name.rpartition(".")[2], set()).update(places)
    return found


def judge_shown(session: Session) -> set[str]:
    """Returns all that differs from the table."""
    learn_tokens(session)
    return set(_differences(shown(session), EXPECTED[session.place.kind]))


def _differences(found: Table, wanted: Table) -> Iterable[str]:
    for slot in found.keys() | wanted.keys():
        yield from (f"{slot} leaks into {place}" for place in found.get(slot, set()) - wanted.get(slot, set()))
        yield from (f"{slot} is missing in {place}" for place in wanted.get(slot, set()) - found.get(slot, set()))
