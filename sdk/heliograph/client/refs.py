"""Names that people write, completed to resource names; values on their way to the API and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import InvalidArgumentError
from heliograph.utilities.names import flow_name, flow_run_name, flow_version_name, parse_flow, parse_flow_run

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from heliograph.api.v1 import flow_service_pb2

MAX_PARAMETERS_BYTES = 64 * 1024


def flow_resource(flow_id: str) -> str:
    """Completes `P/F` to `projects/P/flows/F`; resource names stay as they are.

    Raises:
        InvalidArgumentError: It is neither.
    """
    project, flow, version = parse_flow(flow_id)
    return flow_version_name(project, flow, version) if version else flow_name(project, flow)


def flow_run_resource(flow_run_id: str) -> str:
    """Completes the id of a run to `projects/-/flowRuns/ID`; resource names stay as they are.

    Raises:
        InvalidArgumentError: It is neither.
    """
    return flow_run_name(*parse_flow_run(flow_run_id))


def schedule_resource(flow_id: str) -> str:
    """Returns the name of a flow's schedule; `flow_id` is what `flow_resource` takes, or that name itself.

    Raises:
        InvalidArgumentError: It is neither.
    """
    return flow_resource(flow_id.removesuffix("/schedule")).partition("/versions/")[0] + "/schedule"


def encode_parameters(parameters: Mapping[str, Any]) -> str:
    """Returns the JSON text of parameter values.

    Raises:
        InvalidArgumentError: A value is not JSON, or all together are longer than 64 KiB.
    """
    texts = []
    for name, value in parameters.items():
        try:
            texts.append(f"{json.dumps(str(name))}: {json.dumps(value, allow_nan=False)}")
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"the value of parameter {name!r} is not JSON: {error}",
                hint="give numbers, texts, booleans, null, lists and objects; a date as its ISO text",
            ) from None
    text = "{" + ", ".join(texts) + "}"
    if len(text.encode()) > MAX_PARAMETERS_BYTES:
        raise InvalidArgumentError(
            f"the parameters are {len(text.encode()):,} bytes; at most {MAX_PARAMETERS_BYTES:,} may cross",
            hint="put the data into your own storage and pass its location",
        )
    return text


def to_datetime(stamp: Timestamp) -> datetime | None:
    """Returns an aware UTC time, or None for a timestamp that is not set."""
    if not stamp.seconds and not stamp.nanos:
        return None
    return stamp.ToDatetime(tzinfo=UTC)


def task_labels(graph: flow_service_pb2.Graph) -> list[str]:
    """Returns what tasks are called in a display: their name where it is unique, else their slug."""
    count = Counter(task.name for task in graph.tasks)
    return [task.name if task.name and count[task.name] == 1 else task.slug for task in graph.tasks]
