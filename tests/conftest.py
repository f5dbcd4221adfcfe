"""What every test shares: hypothesis on a machine whose processors are busy, Ctrl-C that is heard, figures."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings
from tests.support.figures import figure, print_figures

__all__ = ["figure"]

# Generating is slow when two test processes share two cores; that says nothing about the code under test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("shared")

# Shells have what they start in the background ignore SIGINT, and children inherit that: tests that press Ctrl-C
# would press it in vain.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that tests kept."""
    print_figures(terminalreporter)
