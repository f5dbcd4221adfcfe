"""The kind `kubernetes`: runs are Jobs of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.launchers.kubernetes.options import PULL_POLICIES, KubernetesOptions
from heliograph_agents.most import BOUNDLESS, Most

if TYPE_CHECKING:
    from heliograph_agents.launcher import Launcher
    from heliograph_agents.launchers.kinds import Ground

OPTIONS: Sequence[click.Option] = (
    click.Option(
        ["--namespace", "namespaces"],
        multiple=True,
        help="Namespace of Jobs; the first is that of runs that name none. Repeatable. [default: the context's]",
    ),
    click.Option(
        ["--kubeconfig"],
        default="",
        metavar="FILE",
        help="[default: the pod's service account, then KUBECONFIG, then ~/.kube/config]",
    ),
    click.Option(["--context"], default="", help="Context of the kubeconfig. [default: the current one]"),
    click.Option(
        ["--advertise-address"],
        default="",
        metavar="HOST:PORT",
        help="The control plane as pods reach it. [default: the agent's own address]",
    ),
    click.Option(
        ["--job-template"],
        default="",
        metavar="FILE",
        help="YAML of a Job, PodTemplate or Pod that all Jobs are made from.",
    ),
    click.Option(["--image"], default="", help="Image of flows that name none."),
    click.Option(
        ["--image-pull-policy"], type=click.Choice(PULL_POLICIES), help="When images are pulled, where nobody says."
    ),
    click.Option(
        ["--image-pull-secret", "image_pull_secrets"],
        multiple=True,
        help="Secret of a registry, where nobody says. Repeatable.",
    ),
    click.Option(["--service-account"], default="", help="Service account of runs that name none."),
    click.Option(["--cpu"], default="", help="Processors of runs that say nothing, as 500m or 2."),
    click.Option(["--memory"], default="", help="Memory of runs that say nothing, as 512Mi or 2Gi."),
    click.Option(
        ["--keep-success"],
        type=click.FloatRange(0),
        default=300.0,
        show_default=True,
        help="Seconds that the Job of a good run is kept.",
    ),
    click.Option(
        ["--keep-failed"],
        type=click.FloatRange(0),
        default=3600.0,
        show_default=True,
        help="Seconds that the Job of a failed run is kept.",
    ),
    click.Option(
        ["--ttl"],
        type=click.IntRange(3600),
        default=86400,
        show_default=True,
        help="Seconds after which the cluster removes an ended Job by itself, should no agent be there.",
    ),
    click.Option(
        ["--image-grace"],
        type=click.FloatRange(0),
        default=300.0,
        show_default=True,
        help="Seconds that an image may fail to be pulled before the run is given up.",
    ),
    click.Option(
        ["--config-grace"],
        type=click.FloatRange(0),
        default=30.0,
        show_default=True,
        help="Seconds that a container may fail to be made, for want of a Secret for example.",
    ),
    click.Option(
        ["--crash-lines"],
        type=click.IntRange(0, 10_000),
        default=200,
        show_default=True,
        help="Lines of a container's output in this agent's log when it died without a word. 0 reads none.",
    ),
    click.Option(
        ["--api-rate"],
        type=click.FloatRange(0, min_open=True),
        default=10.0,
        show_default=True,
        help="Most requests to the cluster's API in a second.",
    ),
    click.Option(["--api-burst"], type=click.IntRange(1), default=20, show_default=True, help="Most of them at once."),
    click.Option(
        ["--api-timeout"],
        type=click.FloatRange(1),
        default=30.0,
        show_default=True,
        help="Seconds that one answer of the API may take.",
    ),
)
SHARES_HOST = False

_ADVICE = "for example heliograph.tools.svc:4480"


def make(ground: Ground) -> Launcher:
    """Makes the launcher."""
    from heliograph.client.cluster import find_access

    options = read_options(ground.options, show_logs=ground.settings.show_output, most=ground.most)
    access = find_access(options.kubeconfig, options.context)
    from heliograph_agents.launchers.address import address_inside
    from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher

    settings, advertised = ground.settings, str(ground.options.get("advertise_address") or "")
    address = address_inside(settings.address, advertised, settings.tls, what="pod", advice=_ADVICE)
    return KubernetesLauncher(settings, ground.places.runs, options, access, advertised=address)


def read_options(given: Mapping[str, Any], *, show_logs: bool = False, most: Most = BOUNDLESS) -> KubernetesOptions:
    """Reads the options of the command.

    Raises:
        InvalidArgumentError: One is not possible.
    """
    from heliograph.utilities.quantities import parse_quantity

    for name in ("cpu", "memory"):
        if given.get(name):
            try:
                parse_quantity(given[name])
            except ValueError as error:
                raise InvalidArgumentError(f"--{name}: {error}") from error
    defaults = KubernetesOptions()
    return KubernetesOptions(
        namespaces=tuple(dict.fromkeys(given.get("namespaces") or ())),
        kubeconfig=given.get("kubeconfig") or "",
        context=given.get("context") or "",
        template=read_template(given["job_template"]) if given.get("job_template") else {},
        image=given.get("image") or "",
        image_pull_policy=given.get("image_pull_policy") or "",
        image_pull_secrets=tuple(given.get("image_pull_secrets") or ()),
        service_account=given.get("service_account") or "",
        cpu=given.get("cpu") or "",
        memory=given.get("memory") or "",
        keep_success_seconds=given.get("keep_success", defaults.keep_success_seconds),
        keep_failed_seconds=given.get("keep_failed", defaults.keep_failed_seconds),
        ttl_seconds=given.get("ttl", defaults.ttl_seconds),
        image_grace_seconds=given.get("image_grace", defaults.image_grace_seconds),
        config_grace_seconds=given.get("config_grace", defaults.config_grace_seconds),
        crash_lines=given.get("crash_lines", defaults.crash_lines),
        rate=given.get("api_rate", defaults.rate),
        burst=given.get("api_burst", defaults.burst),
        timeout_seconds=given.get("api_timeout", defaults.timeout_seconds),
        show_logs=show_logs,
        most=most,
    )


def read_template(path: str) -> dict[str, Any]:
    """Reads the agent's job template.

    Raises:
        InvalidArgumentError: It is not there, or no mapping.
    """
    try:
        import yaml
    except ImportError as error:
        raise InvalidArgumentError("job templates need PyYAML", hint="pip install 'heliograph[kubernetes]'") from error
    try:
        found = yaml.safe_load(Path(path).expanduser().read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidArgumentError(f"the job template {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgumentError(f"the job template {path} is no mapping")
    return found
