"""Numbers of states, failure reasons and launch delays: the same as in the API, without importing it.

A test compares them with `heliograph.api.v1.State`, `FailureReason` and `LaunchDelay`.
"""

from __future__ import annotations

from enum import IntEnum


class StateCode(IntEnum):
    """The state of a flow run or task run."""

    PENDING = 1
    SCHEDULED = 2
    PAUSED = 3
    RESUME = 4
    RETRYING = 5
    QUEUED = 6
    SUBMITTED = 7
    RUNNING = 8
    CANCELLING = 9
    SUCCESS = 10
    CACHED = 11
    MAPPED = 12
    SKIPPED = 13
    LOOPED = 14
    FAILED = 15
    TIMED_OUT = 16
    TRIGGER_FAILED = 17
    VALIDATION_FAILED = 18
    CANCELLED = 19
    CRASHED = 20

    @property
    def is_finished(self) -> bool:
        """True for the states that end a run. Looped only ends an iteration, but counts, as in Prefect 1."""
        return self >= StateCode.SUCCESS

    @property
    def is_successful(self) -> bool:
        """True for Success, Cached, Mapped and Skipped."""
        return StateCode.SUCCESS <= self <= StateCode.SKIPPED

    @property
    def is_failed(self) -> bool:
        """True for Failed and its kinds, and Crashed. Cancelled is neither failed nor successful."""
        return StateCode.FAILED <= self <= StateCode.VALIDATION_FAILED or self == StateCode.CRASHED


class FailureCode(IntEnum):
    """Why a run failed or crashed, from a closed list."""

    EXCEPTION = 1
    EXIT_CODE = 2
    SIGNAL = 3
    OUT_OF_MEMORY = 4
    SUPERVISOR_DIED = 5
    LOST = 6
    START_TIMEOUT = 7
    LAUNCH_FAILED = 8
    BUNDLE_UNAVAILABLE = 9
    BUNDLE_CHANGED = 10
    PYTHON_MISMATCH = 11
    REQUIREMENTS_MISMATCH = 12
    LOAD_FAILED = 13
    GRAPH_MISMATCH = 14
    POLICY = 15
    TRIGGER = 16
    TIMEOUT = 17
    TASKS_FAILED = 18
    RESULT_STORE = 19
    LEASE_LOST = 20
    PARAMETERS = 21
    HOST_RESTARTED = 22
    DISK = 23
    OPERATOR = 24
    IMAGE_UNAVAILABLE = 25
    EVICTED = 26
    NODE_LOST = 27
    INFRASTRUCTURE_DELETED = 28
    NO_CAPACITY = 29
    LAUNCH_SETTINGS = 30
    SIGNATURE = 31


class LaunchDelay(IntEnum):
    """Why a run has not started that an agent took, from a closed list."""

    NO_ROOM = 1
    QUOTA = 2
    THROTTLED = 3
    IMAGE = 4
    STORAGE = 5
    SETTINGS = 6
    PERMISSION = 7
    UNREACHABLE = 8
    PLATFORM = 9
    AGENT = 10
    UNCONFIRMED = 11
    PREPARING = 12
    HELD = 13
