"""Task definitions of the double: families, revisions, tags, and what Fargate refuses."""

from __future__ import annotations

import copy
import re
import threading
from datetime import UTC, datetime
from typing import Any

from tests.support.fargate.shapes import ServiceError

ACCOUNT, REGION = "123456789012", "eu-west-1"
_FAMILY = re.compile(r"[A-Za-z0-9_-]{1,255}")
_MEMORY = {
    256: {512, 1024, 2048},
    512: set(range(1024, 4097, 1024)),
    1024: set(range(2048, 8193, 1024)),
    2048: set(range(4096, 16385, 1024)),
    4096: set(range(8192, 30721, 1024)),
    8192: set(range(16384, 61441, 4096)),
    16384: set(range(32768, 122881, 8192)),
}


class Definitions:
    """All definitions."""

    def __init__(self) -> None:
        self._families: dict[str, list[dict[str, Any]]] = {}
        self._tags: dict[str, list[dict[str, str]]] = {}
        self._lock = threading.Lock()
        self.registered = 0

    def register(self, request: dict[str, Any]) -> dict[str, Any]:
        """Adds a revision."""
        given = copy.deepcopy(request)
        family, tags = given.pop("family"), given.pop("tags", [])
        if _FAMILY.fullmatch(family) is None:
            raise ServiceError("ClientException", "Family contains invalid characters.")
        _check(given)
        with self._lock:
            self.registered += 1
            revisions = self._families.setdefault(family, [])
            arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{family}:{len(revisions) + 1}"
            made = {
                **given, "family": family, "revision": len(revisions) + 1, "taskDefinitionArn": arn,
                "status": "ACTIVE", "registeredAt": datetime.now(UTC),
                "compatibilities": ["EC2", *given.get("requiresCompatibilities", [])],
                "registeredBy": f"arn:aws:iam::{ACCOUNT}:user/agent",
            }  # fmt: skip
            for container in made["containerDefinitions"]:
                # What ECS adds by itself, and what comparing field by field would stumble over.
                for name in ("environment", "mountPoints", "portMappings", "volumesFrom", "systemControls"):
                    container.setdefault(name, [])
                container.setdefault("cpu", 0)
            made.setdefault("volumes", [])
            revisions.append(made)
            self._tags[arn] = tags
        return {"taskDefinition": made, "tags": tags}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns a definition."""
        found = self.find(request["taskDefinition"])
        if found is None:
            raise ServiceError("ClientException", "Unable to describe task definition.")
        tags = self._tags[found["taskDefinitionArn"]] if "TAGS" in request.get("include", ()) else []
        return {"taskDefinition": found, "tags": tags}

    def deregister(self, name: str) -> None:
        """Makes a revision inactive."""
        found = self.find(name)
        assert found is not None
        found["status"] = "INACTIVE"

    def find(self, name: str) -> dict[str, Any] | None:
        """Returns a definition by ARN, `family:revision`, or the newest active one of a family."""
        family, _, revision = name.rpartition("/")[2].partition(":")
        with self._lock:
            revisions = self._families.get(family, [])
            if revision:
                return revisions[int(revision) - 1] if 0 < int(revision) <= len(revisions) else None
            return next((one for one in reversed(revisions) if one["status"] == "ACTIVE"), None)


def check_size(cpu: Any, memory: Any, code: str) -> None:
    """Refuses what Fargate has no task of."""
    pair = str(cpu), str(memory)
    if not all(one.isdecimal() for one in pair) or int(memory) not in _MEMORY.get(int(cpu), set()):
        raise ServiceError(code, "No Fargate configuration exists for given values.")


def _check(given: dict[str, Any]) -> None:
    names = [one.get("name") for one in given["containerDefinitions"]]
    if not names or len(set(names)) != len(names):
        raise ServiceError("ClientException", "Container names should be unique, and there is at least one.")
    if not all(one.get("image") for one in given["containerDefinitions"]):
        raise ServiceError("ClientException", "Container.image should not be null or empty.")
    for container in given["containerDefinitions"]:
        logging = container.get("logConfiguration") or {}
        if (
            logging.get("logDriver") == "awslogs"
            and not {"awslogs-region", "awslogs-group"} <= logging["options"].keys()
        ):
            message = "Log driver awslogs requires options: awslogs-region, awslogs-group."
            raise ServiceError("ClientException", message)
    if "FARGATE" not in given.get("requiresCompatibilities", ()):
        return
    if given.get("networkMode") != "awsvpc":
        raise ServiceError("ClientException", "Fargate only supports network mode 'awsvpc'.")
    check_size(given.get("cpu"), given.get("memory"), "ClientException")
    for container in given["containerDefinitions"]:
        if container.get("privileged"):
            raise ServiceError("ClientException", "Fargate does not support privileged containers.")
        if container.get("stopTimeout", 0) > 120:
            raise ServiceError("ClientException", "stopTimeout should be at most 120 seconds.")
        logs = (container.get("logConfiguration") or {}).get("logDriver")
        if logs == "awslogs" and not given.get("executionRoleArn"):
            message = "Fargate requires task definition to have execution role ARN to support log driver awslogs."
            raise ServiceError("ClientException", message)
