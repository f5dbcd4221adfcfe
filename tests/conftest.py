"""What every test shares: hypothesis on a busy machine, Ctrl-C that is heard, time limits that end, groups, figures."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.support.figures import figure, print_figures
from tests.support.groups import pytest_collection_finish, pytest_configure_node, pytest_xdist_make_scheduler

__all__ = ["figure", "pytest_collection_finish", "pytest_configure_node", "pytest_xdist_make_scheduler"]

# Generating is slow when two test processes share two cores; that says nothing about the code under test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("shared")

# Shells have what they start in the background ignore SIGINT, and children inherit that: tests that press Ctrl-C
# would press it in vain.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_AGAIN_SECONDS = 15
_LEAVE_SECONDS = 120


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, object, object]:
    """Has a time limit strike until the test ends: what waits in a `finally` after the first strike is struck too."""
    done = yield
    if settings.method == "signal":
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, _AGAIN_SECONDS)
    return done


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leaves although a test left a thread behind that never ends; says where the thread is.

    A worker waits for the others here, however long those take, and is ended by who started it.
    """
    if hasattr(config, "workerinput"):
        return
    faulthandler.dump_traceback_later(_LEAVE_SECONDS, exit=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that tests kept."""
    print_figures(terminalreporter)
