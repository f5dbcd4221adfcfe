"""AWS as the launcher uses it: clients made late, and errors sorted by what they mean for a launch.

All methods block. What cannot be reached is `AwsAwayError`, an `OSError`: the agent looks again later.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.launcher import LaunchError

CONNECT_SECONDS, READ_SECONDS = 10, 60
TRIES = 5
"""Of one call, by the SDK: it slows all calls down while AWS throttles."""

_THROTTLED = ("throttl", "rate exceeded", "too many requests", "too many concurrent", "requestlimitexceeded",
              "slow down", "slowdown")  # fmt: skip
_FULL = ("capacity is unavailable", "resource:", "reached the limit", "limitexceeded", "no container instances",
         "insufficient", "vcpu limit", "no private ip", "does not have enough free")  # fmt: skip
_LIMITS = ("reached the limit", "limitexceeded", "vcpu limit")
_CREDENTIALS = ("accessdenied", "not authorized", "unrecognizedclient", "expiredtoken", "invalidclienttokenid",
                "invalidsignature", "optinrequired", "clusternotfound")  # fmt: skip

THROTTLED_SECONDS, FULL_SECONDS, REFUSED_SECONDS = 15.0, 60.0, 60.0


class AwsAwayError(OSError):
    """AWS does not answer, or fails: nothing is known, and what was asked for may have been done."""


class AwsRefusedError(OSError):
    """AWS answers, and will not.

    Args:
        code: Its error code.
        message: What it says.
        resources: Names that it says so about.
    """

    def __init__(self, code: str, message: str, resources: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.resources = code, message, resources

    def says(self, words: tuple[str, ...]) -> bool:
        """True when its code or its text has one of these words. Throttles hide in the texts of other errors."""
        text = f"{self.code} {self.message}".lower()
        return any(word in text for word in words)

    @property
    def throttled(self) -> bool:
        """True when it was asked too often."""
        return self.says(_THROTTLED)


class Aws:
    """One account and region. Threads may share it.

    Args:
        region: AWS region; empty means as the AWS settings have it.
        endpoint_url: Where all services are; empty means the real ones.
    """

    def __init__(self, region: str, endpoint_url: str) -> None:
        self._region, self._endpoint_url = region, endpoint_url
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def call(self, service: str, operation: str, /, **arguments: Any) -> dict[str, Any]:
        """Calls an operation.

        Raises:
            AwsRefusedError, AwsAwayError: It did not go well.
        """
        import botocore.exceptions as errors

        try:
            client = self._client(service)
            answer: dict[str, Any] = getattr(client, operation)(**arguments)
        except errors.ClientError as error:
            raise _sorted(error) from error
        except errors.ParamValidationError as error:
            raise AwsRefusedError("ParamValidation", str(error)) from error
        except errors.NoRegionError as error:
            raise AwsRefusedError("NoRegion", f"{error} Give --region.") from error
        except (errors.NoCredentialsError, errors.PartialCredentialsError, errors.TokenRetrievalError) as error:
            raise AwsRefusedError("AccessDenied", str(error)) from error
        except errors.BotoCoreError as error:
            raise AwsAwayError(f"AWS does not answer: {error}") from error
        return answer

    def _client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        with self._lock:
            if service not in self._clients:
                config = Config(
                    retries={"mode": "adaptive", "total_max_attempts": TRIES},
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    max_pool_connections=32,
                )
                make: Any = boto3.client  # its stubs know services by literal names alone
                self._clients[service] = make(
                    service,
                    region_name=self._region or None,
                    endpoint_url=self._endpoint_url or None,
                    config=config,
                )
            return self._clients[service]

    def close(self) -> None:
        """Closes its connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()


def _sorted(error: Any) -> OSError:
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    refused = AwsRefusedError(code, message, tuple(error.response.get("resourceIds") or ()))
    if status >= 500 and not (refused.throttled or refused.says(_FULL)):
        return AwsAwayError(str(refused))
    return refused


def refusal(what: str, error: AwsRefusedError) -> LaunchError:
    """Returns what a refused launch means for the run: back to the queue for a while, or its end."""
    message = f"{what}: {error}"
    if error.throttled:
        return LaunchError(message, retry_seconds=THROTTLED_SECONDS, no_room=True, delay=LaunchDelay.THROTTLED)
    if error.says(_FULL):
        delay = LaunchDelay.QUOTA if error.says(_LIMITS) else LaunchDelay.NO_ROOM
        return LaunchError(message, retry_seconds=FULL_SECONDS, no_room=True, delay=delay)
    if error.says(_CREDENTIALS):  # the agent's owner mends that; the run is not at fault
        return LaunchError(message, retry_seconds=REFUSED_SECONDS, delay=LaunchDelay.PERMISSION)
    return LaunchError(message, FailureCode.LAUNCH_SETTINGS)


def unplaced(failures: list[Mapping[str, Any]]) -> LaunchError:
    """Returns what `failures` of `RunTask` mean: ECS took the request, and found no place."""
    words = "; ".join(
        " ".join(str(one[key]) for key in ("reason", "detail", "arn") if one.get(key)) for one in failures
    )
    message = f"ECS placed no task: {words or 'it does not say why'}"
    reasons = [str(one.get("reason", "")).upper() for one in failures]
    if any(reason.startswith(("ATTRIBUTE", "LOCATION", "MISSING", "INACTIVE")) for reason in reasons):
        return LaunchError(message, FailureCode.LAUNCH_SETTINGS)
    return LaunchError(message, retry_seconds=FULL_SECONDS, no_room=True, delay=LaunchDelay.NO_ROOM)
