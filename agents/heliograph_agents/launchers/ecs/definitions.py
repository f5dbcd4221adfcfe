"""Task definitions by their content: each is registered once, whoever asks, and found again by its hash."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from heliograph_agents.launchers.ecs.aws import Aws, AwsRefusedError

_log = logging.getLogger("heliograph.agent")

HASH_TAG = "heliograph.io/definition"
"""Tag with the hash of a definition: ours, since the service's own words of a definition differ from those it got."""

TRIES = 6
FIRST_PAUSE_SECONDS = 0.5


def hash_of(definition: Mapping[str, Any]) -> str:
    """Returns the hash of a definition's content."""
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def family_of(flow: str, digest: str) -> str:
    """Returns the family of a definition: the flow's name for people, the hash to be found by."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", flow).strip("-")[:100] or "flow"
    return f"heliograph-{slug}-{digest[:16]}"


class Definitions:
    """Registered definitions of one account. Threads may share it.

    Args:
        aws: The account.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._known: dict[str, str] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def provide(self, flow: str, definition: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Returns the ARN of a definition, registering it if need be: once, however many ask at the same time.

        Args:
            flow: Name of the flow.
            definition: Arguments of `RegisterTaskDefinition`, without family and tags.
            tags: Tags of a new one.

        Raises:
            OSError: AWS does not do it.
        """
        digest = hash_of(definition)
        family = family_of(flow, digest)
        with self._locks[family]:
            if family not in self._known:
                self._known[family] = self._find(family, digest) or self._register(family, digest, definition, tags)
            return self._known[family]

    def forget(self, arn: str) -> None:
        """Looks for it anew next time: it is gone."""
        for family, known in list(self._known.items()):
            if known == arn:
                self._known.pop(family, None)

    def _find(self, family: str, digest: str) -> str:
        try:
            answer = self._aws.call("ecs", "describe_task_definition", taskDefinition=family, include=["TAGS"])
        except AwsRefusedError as error:
            if error.code != "ClientException" or error.throttled:
                raise
            return ""  # how ECS says that there is none
        found = answer["taskDefinition"]
        tags = {str(one.get("key")): one.get("value") for one in answer.get("tags") or ()}
        if found.get("status", "ACTIVE") != "ACTIVE" or tags.get(HASH_TAG) != digest:
            return ""
        return str(found["taskDefinitionArn"])

    def _register(self, family: str, digest: str, definition: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        own = [{"key": key, "value": value} for key, value in {**tags, HASH_TAG: digest}.items()]
        for attempt in range(TRIES):
            try:
                answer = self._aws.call("ecs", "register_task_definition", family=family, tags=own, **definition)
            except AwsRefusedError as error:
                # ECS lets one register at a time for each family, and says so by an error that the SDK does not retry.
                if not error.throttled or attempt == TRIES - 1:
                    raise
                time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
            else:
                arn = str(answer["taskDefinition"]["taskDefinitionArn"])
                _log.info("registered task definition %s", arn)
                return arn
        raise AssertionError("unreachable")
