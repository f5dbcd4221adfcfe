"""`heliograph flows check`: what an agent with this machine's policy, keys and Python would say of the flows of a file.

Everything is made as `heliograph register` makes it, judged as an agent judges it, and stored nowhere.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heliograph.cli.boundary import show_error
from heliograph.cli.lazy import Command
from heliograph.cli.output import output_option, print_json
from heliograph.cli.register import load_flows
from heliograph.cli.session import Session, pass_session
from heliograph.cli.text import clean, paint, use_color
from heliograph.exceptions import HeliographError

if TYPE_CHECKING:
    from heliograph.api.v1.flow_service_pb2 import RegisterFlowVersionRequest
    from heliograph.core.flow import Flow
    from heliograph.storage import LaunchSettings
    from heliograph_agents.launcher import PlanFacts, RunSpec
    from heliograph_agents.most import Most
    from heliograph_agents.policy import Policy

REFUSED = 6
MAX_SHOWN = 12


@dataclass
class Verdict:
    """What was found out about one flow.

    Attributes:
        flow: `project/flow`.
        bundle: What the bundle takes and leaves out.
        crosses: Names that the control plane would learn, by what they name.
        launch: What the run asks of its infrastructure.
        signature: Who signs it, and whether this home's agents trust that key.
        python: What the bundle was made by, and what it imports.
        warnings: What should be looked at.
        refused: Why an agent would refuse it; nothing when it would run it.
    """

    flow: str
    bundle: list[str] = field(default_factory=list)
    crosses: dict[str, list[str]] = field(default_factory=dict)
    launch: dict[str, str] = field(default_factory=dict)
    signature: str = ""
    python: str = ""
    warnings: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@click.command(
    cls=Command,
    examples="""
    heliograph flows check flow.py --project covid
    heliograph flows check flow.py --project covid --policy policy.toml -o json
    """,
)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--project", required=True, metavar="PROJECT", help="The project that it would be registered in.")
@click.option("--name", "names", multiple=True, metavar="FLOW", help="Only flows of this name. May be repeated.")
@click.option(
    "--policy", default="", metavar="FILE", help="An agent's policy. [that of the settings, else of the home]"
)
@click.option("--pickle", is_flag=True, help="Check a pickle of the flow, not its file.")
@output_option("table", "json")
@pass_session
def check(
    session: Session, file: Path, project: str, names: tuple[str, ...], policy: str, pickle: bool, output: str
) -> int:
    """Say what an agent would say of the flows of FILE: nothing is registered, stored or sent.

    Shown are the bundle, the names that would cross, the launch settings, and the verdict of policy, signature, Python
    and requirements as they are on this machine. It ends with 6 when an agent would refuse one of the flows.
    """
    from heliograph.config import home
    from heliograph_agents.start import find_policy

    rules = find_policy(policy, home())
    verdicts = []
    try:
        flows = [flow for flow in load_flows(file) if not names or flow.name in names]
    except HeliographError as error:
        show_error(error)
        return error.exit_code
    for flow in flows:
        try:
            verdicts.append(verdict_on(flow, project, rules, pickle=True if pickle else None))
        except HeliographError as error:
            hint = f" ({error.hint})" if error.hint else ""
            verdicts.append(Verdict(f"{project}/{flow.name}", refused=[f"it cannot be registered: {error}{hint}"]))
    if output == "json":
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            for line in _lines(verdict, color=use_color(session.color, sys.stdout)):
                click.echo(line)
    if not verdicts:
        print("Error: there is no such flow in this file.", file=sys.stderr)
        return 1
    return REFUSED if any(verdict.refused for verdict in verdicts) else 0


def verdict_on(flow: Flow, project: str, policy: Policy, *, pickle: bool | None = None) -> Verdict:
    """Returns what an agent with this policy, and this machine's trusted keys and Python, would say of a flow.

    Raises:
        HeliographError: It cannot be registered at all.
    """
    from heliograph.api.contract import violations
    from heliograph.api.v1.flow_service_pb2 import BUNDLE_FORMAT_PICKLE, BUNDLE_FORMAT_SOURCE
    from heliograph.client.registration import describe_flow, sign
    from heliograph.storage import launch_settings
    from heliograph.storage.default import storage_of
    from heliograph.storage.load import preflight

    storage, chosen = storage_of(flow)
    as_pickle = storage.pickle if pickle is None else pickle
    request = describe_flow(flow, project, storage)
    bundle = storage.make_bundle(flow, pickle=as_pickle)
    if chosen:
        bundle.report.notes.append(chosen)
    settings = launch_settings(flow, storage)
    reference = request.bundle
    reference.storage, reference.location, reference.host = storage.reference_kind, storage.location, storage.host
    reference.digest, reference.launch_digest = bundle.manifest.digest, settings.digest
    reference.format = BUNDLE_FORMAT_PICKLE if as_pickle else BUNDLE_FORMAT_SOURCE
    sign(request)

    made = Verdict(f"{project}/{flow.name}", bundle=bundle.report.lines())
    made.refused = [f"{item.path} may not cross: {item.description}" for item in violations(request)]
    made.crosses = _crossing(request)
    made.launch = _asked(settings)
    made.signature = _signature(request, policy, made)
    spec = _spec(request)
    made.refused += policy.refuse_origin(spec)
    facts = _facts(spec, settings, policy.most, made)
    made.refused += policy.refuse_plan(facts) if facts is not None else []
    manifest = bundle.manifest
    imports = ", ".join(f"{name} {version}" for name, version in sorted(manifest.requirements.items()))
    made.python = f"{manifest.implementation} {manifest.python}; imports {imports or 'nothing that is installed'}"
    try:
        made.warnings += preflight(manifest)
    except HeliographError as error:
        made.refused.append(f"{error}")
    return made


def _crossing(request: RegisterFlowVersionRequest) -> dict[str, list[str]]:
    graph, launch = request.graph, request.launch
    named = {
        "tasks": [task.slug for task in graph.tasks],
        "parameters": [parameter.name for parameter in graph.parameters],
        "labels": list(launch.labels),
        "variables": list(launch.env_names),
        "image": [launch.image] if launch.image else [],
        "bundle": [f"{request.bundle.storage} {request.bundle.location}"],
        "host": [request.bundle.host] if request.bundle.host else [],
    }
    return {what: names for what, names in named.items() if names}


def _asked(settings: LaunchSettings) -> dict[str, str]:
    asked = {
        "launcher": settings.launcher,
        "image": settings.image,
        "cores": f"{settings.cpu_millis / 1000:g}" if settings.cpu_millis else "",
        "memory": f"{settings.memory_bytes:,} bytes" if settings.memory_bytes else "",
        "variables": ", ".join(sorted(settings.env)),
        "options": ", ".join(sorted(settings.options)),
        "working folder": settings.working_dir,
    }
    return {what: text for what, text in asked.items() if text}


def _signature(request: RegisterFlowVersionRequest, policy: Policy, made: Verdict) -> str:
    from heliograph.signing import TrustStore

    known = TrustStore().keys()
    wanted = policy.require_signature if policy.require_signature is not None else bool(known)
    key = request.bundle.signing_key_id
    if not key:
        if wanted:
            made.refused.append("it is not signed: make a key with `heliograph keys new`")
        return "none; signatures are wanted here" if wanted else "none; none is wanted here"
    if key in known:
        return f"{key}, trusted here as {known[key][0]}"
    if wanted:
        made.refused.append(f"it is signed by {key}, which is not trusted here: `heliograph keys trust FILE`")
    return f"{key}, not trusted here"


def _spec(request: RegisterFlowVersionRequest) -> RunSpec:
    from heliograph.api.v1.flow_service_pb2 import BUNDLE_FORMAT_PICKLE
    from heliograph_agents.launcher import BundleSpec, RunSpec

    reference = request.bundle
    return RunSpec(
        flow_run=f"{request.parent}/flowRuns/check",
        flow_version=f"{request.parent}/flows/{request.flow_id}/versions/1",
        run_name="check",
        epoch=1,
        attempt=1,
        parameters_json="{}",
        bundle=BundleSpec(
            reference.storage, reference.location, reference.digest, reference.launch_digest,
            reference.format == BUNDLE_FORMAT_PICKLE, "", reference.host, request.launch.image,
        ),
        graph_hash=request.graph.graph_hash,
        scheduled_time_micros=0,
    )  # fmt: skip


def _facts(spec: RunSpec, settings: LaunchSettings, most: Most, made: Verdict) -> PlanFacts | None:
    """Returns what an agent's launcher would start; None, and why, when it would not."""
    from heliograph_agents.host import folders
    from heliograph_agents.launcher import LaunchError, PlanFacts
    from heliograph_agents.launchers.kinds import Ground, defaults, kind
    from heliograph_agents.run_directory import RunSettings

    try:
        chosen = kind(settings.launcher or "local")
        ground = Ground(RunSettings("", "check", "", ""), folders("check"), defaults(chosen), most=most)
        launcher = chosen.make(ground)
        return launcher.plan(spec, settings).facts
    except LaunchError as error:
        made.refused.append(str(error))
        return None
    except (HeliographError, ImportError, OSError, TypeError, ValueError) as error:
        # That kind of launcher cannot be made here, for want of a daemon, say. What was asked for is judged at least.
        made.warnings.append(f"what an agent of type {settings.launcher} adds is not checked: {error}")
        return PlanFacts(
            image=settings.image,
            env=tuple(sorted(settings.env)),
            cpu_millis=settings.cpu_millis,
            memory_bytes=settings.memory_bytes,
            options=tuple(sorted(settings.options)),
        )


def _lines(verdict: Verdict, *, color: bool) -> list[str]:
    refused = bool(verdict.refused)
    said = (
        paint("an agent would refuse it", "red", color) if refused else paint("an agent would run it", "green", color)
    )
    lines = [f"{paint(clean(verdict.flow), 'bold', color)}: {said}"]
    lines += [f"  refused: {clean(text)}" for text in verdict.refused]
    lines += [f"  warning: {clean(text)}" for text in verdict.warnings]
    if verdict.bundle:
        lines += [
            f"  bundle: {clean(verdict.bundle[0])}",
            *(f"    {clean(text)}" for text in verdict.bundle[1:MAX_SHOWN]),
        ]
        lines.append("  would cross:")
        lines += [f"    {what}: {clean(_listed(names))}" for what, names in verdict.crosses.items()]
        asked = "; ".join(f"{what} {text}" for what, text in verdict.launch.items())
        lines.append(f"  launch settings: {clean(asked) or 'none'} (values of variables stay in your storage)")
        lines.append(f"  signature: {clean(verdict.signature)}")
        lines.append(f"  Python: {clean(verdict.python)}")
    return lines


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more
