"""Every error that Heliograph raises on purpose.

One root, `HeliographError`; each class carries the `reason` that the API uses for the same thing (a name of
`heliograph.api.v1.ErrorReason`), whether trying again can help (`retryable`), and the exit code of a command that
ends with it. Callers choose by class, never by message text. Control-flow signals (`raise SKIP()`) are not errors
and live in `heliograph.engine.signals`.
"""

from __future__ import annotations

from typing import ClassVar


class HeliographError(Exception):
    """The root of all errors.

    Attributes:
        reason: Name of the `ErrorReason`, without its prefix.
        retryable: True when the same call may succeed later.
        exit_code: Exit code of a command that ends with this error.
        hint: What the reader can do about it, or an empty string.
    """

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", *, hint: str = "", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            # What a traceback shows below the message; `str()` stays the message alone.
            self.add_note(f"Hint: {hint}")
        self.metadata = metadata or {}

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args, self.hint, self.metadata))


def _rebuild(
    kind: type[HeliographError], args: tuple[str, ...], hint: str, metadata: dict[str, str]
) -> HeliographError:
    return kind(*args, hint=hint, metadata=metadata)


# --- what the API answers -------------------------------------------------------------------------------------------


class InvalidArgumentError(HeliographError, ValueError):
    """A value is malformed, too long, or unknown."""

    reason = "INVALID_ARGUMENT"
    exit_code = 2


class UnauthenticatedError(HeliographError):
    """No token, or one that is unknown, expired or revoked."""

    reason = "UNAUTHENTICATED"
    exit_code = 4


class PermissionDeniedError(HeliographError):
    """The token's roles do not allow the call."""

    reason = "PERMISSION_DENIED"
    exit_code = 4


class NotFoundError(HeliographError, LookupError):
    """Not there, or not visible to this token."""

    reason = "NOT_FOUND"
    exit_code = 3


class AlreadyExistsError(HeliographError):
    """A resource of that name exists with other content."""

    reason = "ALREADY_EXISTS"
    exit_code = 6


class LeaseLostError(HeliographError):
    """The run's lease belongs to a newer epoch, or ended: stop working on the run."""

    reason = "LEASE_LOST"
    exit_code = 6


class SequenceGapError(HeliographError):
    """Events are missing before this batch; `metadata["expected_sequence"]` says where to go on."""

    reason = "SEQUENCE_GAP"
    retryable = True
    exit_code = 6


class IllegalTransitionError(HeliographError):
    """The state does not allow the change."""

    reason = "ILLEGAL_TRANSITION"
    exit_code = 6


class UnknownParameterError(InvalidArgumentError):
    """A run names a parameter that its flow does not have."""

    reason = "UNKNOWN_PARAMETER"


class MissingParameterError(InvalidArgumentError):
    """A required parameter has no value."""

    reason = "MISSING_PARAMETER"


class RequestIdReusedError(HeliographError):
    """The request id was used before with other content."""

    reason = "REQUEST_ID_REUSED"
    exit_code = 6


class ResourceExhaustedError(HeliographError):
    """A limit of size, rate or number was reached."""

    reason = "RESOURCE_EXHAUSTED"
    exit_code = 6


class UnavailableError(HeliographError):
    """The control plane cannot be reached, or is starting, stopping or too busy."""

    reason = "UNAVAILABLE"
    retryable = True
    exit_code = 7


class ClientTooOldError(HeliographError):
    """This client is too old for the server."""

    reason = "CLIENT_TOO_OLD"


class CycleError(InvalidArgumentError):
    """The flow's graph has a cycle."""

    reason = "CYCLE"


class DuplicateSlugError(InvalidArgumentError):
    """Two tasks of the flow have one slug."""

    reason = "DUPLICATE_SLUG"


class VersionMismatchError(HeliographError):
    """The edited resource changed since it was read."""

    reason = "VERSION_MISMATCH"
    retryable = True
    exit_code = 6


class DeadlineRequiredError(HeliographError):
    """The call set no deadline, or one beyond the method's limit."""

    reason = "DEADLINE_REQUIRED"


class InternalError(HeliographError):
    """A fault of the server; the message carries the request id to quote."""


class DeadlineExceededError(HeliographError, TimeoutError):
    """No answer within the call's deadline."""

    reason = "UNAVAILABLE"
    retryable = True
    exit_code = 8


# --- what happens on the user's side --------------------------------------------------------------------------------


class FlowError(HeliographError, ValueError):
    """The flow is not built right."""

    reason = "INVALID_ARGUMENT"
    exit_code = 2


class InsideFlowBlockError(FlowError, RuntimeError):
    """A flow was told to run or to be registered inside its `with` block."""


class UnknownTaskError(FlowError, KeyError):
    """A task is not in the flow that was asked for it."""

    __str__ = Exception.__str__  # a KeyError would quote the message


class StorageError(HeliographError):
    """A bundle cannot be stored or fetched. `failure` is the name of the `FailureReason` that a run reports."""

    failure: ClassVar[str] = "BUNDLE_UNAVAILABLE"


class DiskError(StorageError):
    """The disk of this host is full, broken or read-only: a bundle cannot be kept on it."""

    failure = "DISK"


class BundleChangedError(StorageError):
    """The bundle's bytes are not those that were registered."""

    failure = "BUNDLE_CHANGED"


class PythonMismatchError(StorageError):
    """The bundle is a pickle of another Python or cloudpickle version."""

    failure = "PYTHON_MISMATCH"


class RequirementsMismatchError(StorageError):
    """The distributions here do not satisfy those that the bundle records."""

    failure = "REQUIREMENTS_MISMATCH"


class LoadError(StorageError):
    """The flow's code could not be loaded."""

    failure = "LOAD_FAILED"


class GraphMismatchError(StorageError):
    """The loaded flow's graph is not the registered one."""

    failure = "GRAPH_MISMATCH"


class SignatureError(StorageError):
    """A bundle's signature is missing, foreign or wrong; or a key cannot be used."""

    failure = "SIGNATURE"


class PolicyError(StorageError):
    """The agent's policy refuses a run."""

    failure = "POLICY"


class LaunchSettingsError(StorageError):
    """Launch settings are missing, or cannot be told to the agent this way."""

    failure = "LAUNCH_SETTINGS"


class ResultStoreError(HeliographError):
    """A result could not be written or read."""


class SecretNotFoundError(HeliographError, LookupError):
    """No source on this side has the secret. The message names it and the places that were looked at."""

    exit_code = 3


class ConfigurationError(HeliographError, ValueError):
    """A setting is unknown or has a value that cannot be read."""

    exit_code = 2


BY_REASON: dict[str, type[HeliographError]] = {
    kind.reason: kind
    for kind in (
        InternalError, UnavailableError, InvalidArgumentError, UnauthenticatedError, PermissionDeniedError,
        NotFoundError, AlreadyExistsError, LeaseLostError, SequenceGapError, IllegalTransitionError,
        UnknownParameterError, MissingParameterError, RequestIdReusedError, ResourceExhaustedError,
        ClientTooOldError, CycleError, DuplicateSlugError, VersionMismatchError, DeadlineRequiredError,
    )
}  # fmt: skip
"""Reason, without its prefix, to the class that the SDK raises for it."""
