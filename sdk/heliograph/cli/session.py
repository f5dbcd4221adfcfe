"""What every command shares: the client, the colour, and how words of the command line become flows and runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import click

from heliograph.exceptions import HeliographError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliograph.api.v1 import flow_run_service_pb2
    from heliograph.client.client import Client

MIN_PREFIX = 6
"""Shortest start of an id that is looked up, so that a typing slip does not hit some run."""


@dataclass
class Session:
    """State of one command.

    Attributes:
        address: The flag `--address`, when given.
        color: `auto`, `always` or `never`.
        debug: True to show tracebacks.
    """

    address: str | None = None
    color: str = "auto"
    debug: bool = False
    _client: Client | None = field(default=None, repr=False)

    @property
    def client(self) -> Client:
        """The client of the control plane, made when first used."""
        if self._client is None:
            # gRPC's own log lines on stderr would stand between ours.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from heliograph.client.client import Client

            self._client = Client(self.address)
        return self._client

    def find_run(self, text: str, project: str | None = None) -> flow_run_service_pb2.FlowRun:
        """Finds a run by resource name, id, unique start of its id, or run name.

        Raises:
            NotFoundError: There is none.
            InvalidArgumentError: Several runs answer to it; the message lists them.
        """
        if text.startswith("projects/") or _is_uuid(text):
            return self.client.get_flow_run(text)
        found = self.client.list_flow_runs(project, prefix=text, limit=20)
        exact = [run for run in found if run.run_name == text]
        if not exact and len(text) < MIN_PREFIX and found:
            raise InvalidArgumentError(
                f"{text!r} is too short for the start of an id", hint=f"write at least {MIN_PREFIX} characters"
            )
        found = exact or found
        if not found:
            raise NotFoundError(f"there is no run {text!r}", hint="`heliograph runs ls` lists runs")
        if len(found) > 1:
            _ambiguous("runs", text, [f"{run.name.rpartition('/')[2]}  {run.run_name}" for run in found])
        return found[0]

    def find_flow(self, text: str, project: str | None = None) -> str:
        """Finds a flow by resource name, `PROJECT/FLOW`, or name alone when it is unique.

        Returns:
            Its resource name, or that of a version when one was named.
        """
        from heliograph.client.refs import flow_resource

        if "/" in text:
            return flow_resource(text)
        if project:
            return flow_resource(f"{project}/{text}")
        known = [flow.name for flow in self.client.list_flows()]
        found = [name for name in known if name.rpartition("/")[2] == text]
        if not found:
            raise NotFoundError(f"there is no flow {text!r}", hint=_near_flows(text, known))
        if len(found) > 1:
            _ambiguous("flows", text, found)
        return found[0]

    def flow_not_found(self, name: str, error: NotFoundError) -> NotFoundError:
        """Returns the error for a flow, by resource name, that the control plane does not have: it names near ones."""
        project, flow = name.split("/")[1:4:2]
        try:
            known = [known.name for known in self.client.list_flows()]
        except HeliographError:
            return error
        if "/".join(name.split("/")[:4]) in known:
            return error  # the version is what is missing
        return NotFoundError(f"there is no flow {project}/{flow}", hint=_near_flows(f"{project}/{flow}", known))


def _near_flows(text: str, names: Sequence[str]) -> str:
    """Returns a hint with the nearest of flows, given by resource name, to `PROJECT/FLOW` or a flow's name alone."""
    from difflib import get_close_matches

    whole = {"/".join(name.split("/")[1:4:2]) for name in names}
    by_word = {name if "/" in text else name.partition("/")[2]: name for name in sorted(whole)}
    near = [by_word[word] for word in get_close_matches(text, by_word, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(near)}?" if near else "`heliograph flows ls` lists flows"


def _is_uuid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4


def _ambiguous(kind: str, text: str, names: Sequence[str]) -> NoReturn:
    shown = "\n".join(f"  {name}" for name in names[:10])
    more = f"\n  and {len(names) - 10} more" if len(names) > 10 else ""
    raise InvalidArgumentError(f"several {kind} answer to {text!r}:\n{shown}{more}", hint="write more of the id")


pass_session = click.make_pass_decorator(Session)
