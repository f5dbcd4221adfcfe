"""`heliograph doctor`: tries every layer between this machine and its control plane, in order, and says what to do."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import click

from heliograph.cli.lazy import Command
from heliograph.cli.output import output_option, print_json
from heliograph.cli.session import Session, pass_session
from heliograph.cli.text import clean, paint, use_color


@click.command(
    cls=Command,
    examples="""
    heliograph doctor
    heliograph doctor --storage s3://bundles/prod
    heliograph doctor --image registry.internal/flows/base:3 -o json
    """,
)
@click.option(
    "--storage",
    default="",
    metavar="PLACE",
    help="A folder, s3://BUCKET/PREFIX, oci://HOST/NAME, github:https://HOST/OWNER/NAME. [this machine's default]",
)
@click.option(
    "--image",
    default="",
    metavar="IMAGE",
    help="An image that its registry should have, and give to this machine's Docker logins.",
)
@output_option("table", "json")
@pass_session
def doctor(session: Session, storage: str, image: str, output: str) -> int:
    """Find out why this machine does not reach its control plane, or its storage.

    Tried are, in this order: the name, TCP, the proxy, TLS, ALPN, the token, the clock; then storage, and with --image
    its registry. Each one that fails says what to do; those that need it are not tried. It ends with 1 when one fails.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from heliograph.client.channel import TlsFiles
    from heliograph.client.diagnosis import Diagnosis, Finding, storage_finding
    from heliograph.client.image_diagnosis import image_finding
    from heliograph.config import config

    settings = config().client
    way = Diagnosis(
        session.address or settings.address,
        TlsFiles(settings.tls_ca, settings.tls_cert, settings.tls_key),
        insecure=bool(settings.insecure),
        client=lambda: session.client,
    )
    color = use_color(session.color, sys.stdout)
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if output == "table":
            for line in _lines(finding, color=color):
                click.echo(line)

    if output == "table":
        click.echo(f"control plane {way.target}")
    for finding in way.findings():
        tell(finding)
    tell(storage_finding(storage))
    if image:
        tell(image_finding(image))
    if output == "json":
        print_json([asdict(finding) for finding in found])
    return 1 if any(finding.good is False for finding in found) else 0


def _lines(finding: object, *, color: bool) -> list[str]:
    from heliograph.client.diagnosis import Finding

    assert isinstance(finding, Finding)
    mark = {True: paint("ok", "green", color), False: paint("FAILS", "red", color), None: paint("-", "dim", color)}
    lines = [f"  {finding.layer}: {mark[finding.good]}  {clean(finding.said)}"]
    if finding.good is False and finding.advice:
        lines.append(f"      {clean(finding.advice)}")
    return lines
