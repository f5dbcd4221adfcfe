"""ECS's own description of its API, from botocore: every request and every answer of the double is held to it."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import botocore.session
from botocore.validate import ParamValidator


class ServiceError(Exception):
    """An error of the API.

    Args:
        code: One that the operation's description knows, or one of those that all operations share.
        message: What it says.
        status: HTTP status.
        fields: More members.
    """

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status, self.fields = code, message, status, fields


SHARED = {"ThrottlingException", "UnrecognizedClientException", "ValidationException", "ServiceUnavailable"}


@functools.cache
def model() -> Any:
    """Returns the description."""
    return botocore.session.get_session().get_service_model("ecs")


def check_request(operation: str, document: dict[str, Any]) -> None:
    """Raises what ECS would answer to a request that is not of the described shape."""
    shape = model().operation_model(operation).input_shape
    report = ParamValidator().validate(document, shape)
    if report.has_errors():
        raise ServiceError("InvalidParameterException", report.generate_report())
    if wrong := _strange_words(document, shape, operation):
        raise ServiceError("InvalidParameterException", wrong)


def check_answer(operation: str, document: dict[str, Any]) -> None:
    """Fails when the double would answer what ECS never does."""
    shape = model().operation_model(operation).output_shape
    report = ParamValidator().validate(document, shape)
    assert not report.has_errors(), f"{operation}: {report.generate_report()}"
    wrong = _strange_words(document, shape, operation)
    assert not wrong, wrong


def check_error(operation: str, error: ServiceError) -> None:
    """Fails when the double would raise what the operation never does."""
    known = {shape.name for shape in model().operation_model(operation).error_shapes} | SHARED
    assert error.code in known, f"{operation} never says {error.code}"


def _strange_words(value: Any, shape: Any, path: str) -> str:
    """Returns what is wrong with the first word that is not of its closed list; empty when none is."""
    if shape.type_name == "structure" and isinstance(value, dict):
        found = (_strange_words(item, shape.members[name], f"{path}.{name}") for name, item in value.items())
        return next(filter(None, found), "")
    if shape.type_name == "list":
        return next(filter(None, (_strange_words(item, shape.member, f"{path}[]") for item in value)), "")
    if shape.type_name == "string" and shape.enum and value not in shape.enum:
        return f"{path}: {value} is none of {', '.join(shape.enum)}"
    return ""


def wire(value: Any) -> Any:
    """Returns a document as JSON 1.1 has it: moments as seconds."""
    if isinstance(value, dict):
        return {name: wire(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [wire(item) for item in value]
    return value.timestamp() if isinstance(value, datetime) else value
