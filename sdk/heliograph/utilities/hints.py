"""What a failure means and what to do about it, from the closed list of reasons alone.

The agent logs these words and the command line prints them; nothing of them has to cross, since both sides have the
table.
"""

from __future__ import annotations

import signal

from heliograph.engine.codes import FailureCode

_F = FailureCode

_WORDS: dict[FailureCode, tuple[str, str]] = {
    _F.EXCEPTION: ("the flow's own code raised", "read its text with `heliograph errors show`"),
    _F.EXIT_CODE: ("the flow process ended without finishing the flow", "look at its output in the run directory"),
    _F.OUT_OF_MEMORY: (
        "the kernel killed the flow process for lack of memory",
        "give it more, or let it hold less at a time",
    ),
    _F.SUPERVISOR_DIED: (
        "the run's supervisor was killed, and the flow with it",
        "look for a restart or lack of memory on the agent's host",
    ),
    _F.LOST: (
        "nothing was heard of the run for too long",
        "look at the agent's host and its way to the control plane",
    ),
    _F.START_TIMEOUT: ("the run did not start in time", "look at the infrastructure that the agent starts"),
    _F.LAUNCH_FAILED: ("the agent could not start the run's processes", "read the agent's log"),
    _F.BUNDLE_UNAVAILABLE: (
        "the bundle could not be fetched from its storage",
        "check that the agent's host reaches the storage and may read it",
    ),
    _F.BUNDLE_CHANGED: (
        "the bundle's bytes are not those that were registered",
        "register the flow again, and find out who changed the storage",
    ),
    _F.PYTHON_MISMATCH: (
        "the bundle was made by another Python or cloudpickle than the agent's",
        "run the agent with that version, or register from this one",
    ),
    _F.REQUIREMENTS_MISMATCH: (
        "distributions that the flow imports are missing here, or are of another version",
        "install them in the agent's environment",
    ),
    _F.LOAD_FAILED: ("the flow's code could not be imported", "read its output and the ledger's text"),
    _F.GRAPH_MISMATCH: (
        "the loaded flow has other tasks than the registered one",
        "register again; for a graph that differs at every load, register it as a pickle",
    ),
    _F.POLICY: ("the agent's policy refuses the run", "ask who keeps that agent"),
    _F.TRIGGER: ("its trigger was not satisfied", "look at the tasks before it"),
    _F.TIMEOUT: ("its time limit passed", "raise the task's timeout, or find out what it waits for"),
    _F.TASKS_FAILED: ("tasks that decide the flow's outcome failed", "look at the first of them"),
    _F.RESULT_STORE: (
        "a result could not be written or read",
        "check the result's storage and the rights of the flow process",
    ),
    _F.LEASE_LOST: ("the run was taken over by a newer attempt", "nothing: the older one stopped itself"),
    _F.PARAMETERS: ("a parameter is missing, unknown or unreadable", "create the run again with right values"),
    _F.HOST_RESTARTED: ("the host restarted during the run", "run it again"),
    _F.DISK: ("the disk is full or cannot be written", "make room on the agent's host"),
    _F.OPERATOR: ("an operator confirmed that the run is dead", "run it again"),
    _F.IMAGE_UNAVAILABLE: (
        "the container image could not be pulled",
        "check its name, the registry, and the credentials that the agent has for it",
    ),
    _F.EVICTED: (
        "the infrastructure took the run's place away: eviction, preemption or a spot interruption",
        "run it again, or ask for a place that is not taken away",
    ),
    _F.NODE_LOST: ("the machine that the run was on is gone", "run it again"),
    _F.INFRASTRUCTURE_DELETED: (
        "somebody removed the run's container, pod or task",
        "find out who cleans up there, then run it again",
    ),
    _F.NO_CAPACITY: (
        "the infrastructure had no room for the run in time",
        "ask for less, or give the cluster more",
    ),
    _F.LAUNCH_SETTINGS: (
        "the infrastructure refuses what the run config asks for",
        "read the agent's log, correct the run config, and register the flow again",
    ),
    _F.SIGNATURE: (
        "the bundle's signature is missing, wrong, or of a key that the agent does not trust",
        "register the flow with a trusted key, or have its key trusted with `heliograph keys trust`",
    ),
}

_SIGNALS: dict[int, tuple[str, str]] = {
    signal.SIGTERM: ("somebody asked the process to end", "find out who stopped it: a shutdown, a service manager"),
    signal.SIGINT: ("it was interrupted", "run it again"),
    signal.SIGSEGV: (
        "memory fault in compiled code",
        "often a package or pickle that was made for another Python or processor",
    ),
    signal.SIGABRT: ("compiled code gave up", "look at its output for the library's last words"),
}
if hasattr(signal, "SIGKILL"):
    _SIGNALS[signal.SIGKILL] = (
        "somebody or something killed it",
        "often lack of memory: look at the kernel's log on the agent's host",
    )


def failure_hint(reason: FailureCode, signal_number: int | None = None) -> tuple[str, str]:
    """Returns what the failure means, and what to do about it. For a signal both are about that signal."""
    if reason is FailureCode.SIGNAL:
        number = signal_number or 0
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        meaning, advice = _SIGNALS.get(number, ("a signal ended the process", "look at its output"))
        return f"{name}: {meaning}", advice
    return _WORDS[reason]
