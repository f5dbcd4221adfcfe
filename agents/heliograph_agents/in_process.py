"""An agent inside the process that built the flow: what `flow.run_agent()` starts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph_agents.agent import Agent


def run_agent(flow: Flow, show_flow_logs: bool = False, **options: Any) -> None:
    """Runs a local agent that offers the flow's labels, until Ctrl-C.

    It takes every run that fits these labels, not only runs of this flow.

    Args:
        flow: Its run config's labels are the agent's.
        show_flow_logs: True to repeat the flows' output here.
        **options: Fields of `heliograph_agents.start.StartOptions`: `name`, `labels`, `capacity`, `env`, …

    Raises:
        HeliographError: The agent cannot start, or the control plane refuses its token.
    """
    from heliograph_agents.start import StartOptions, log_to_terminal
    from heliograph_agents.start import run_agent as run

    offered = flow.run_config.labels if flow.run_config is not None else ()
    labels = tuple(dict.fromkeys((*sorted(offered), *options.pop("labels", ()))))
    log_to_terminal()
    run(StartOptions(labels=labels, show_flow_logs=show_flow_logs, **options), on_ready=_handle_signals)


def _handle_signals(agent: Agent) -> None:
    if threading.current_thread() is threading.main_thread():
        agent.handle_signals()
