"""What doubles of AWS services share: AWS JSON 1.1, and a service's own description of itself, from botocore, to which
every request and every answer is held."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

JSON = "application/x-amz-json-1.1"


class ServiceError(Exception):
    """An error of an API.

    Args:
        code: One that the operation's description knows, or one of those that all operations share.
        message: What it says.
        status: HTTP status.
        fields: More members.
    """

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status, self.fields = code, message, status, fields


SHARED = {
    "ThrottlingException", "UnrecognizedClientException", "ValidationException", "ServiceUnavailable",
    "AccessDeniedException",
}  # fmt: skip


class Shapes:
    """The description of a service.

    Args:
        service: Its name, as botocore has it.
        invalid: Its error for a request that is not of the described shape.
    """

    def __init__(self, service: str, invalid: str) -> None:
        self._service, self._invalid = service, invalid

    @functools.cached_property
    def model(self) -> Any:
        """The description."""
        return botocore.session.get_session().get_service_model(self._service)

    def check_request(self, operation: str, document: dict[str, Any]) -> None:
        """Raises what the service would answer to a request that is not of the described shape."""
        shape = self.model.operation_model(operation).input_shape
        report = ParamValidator().validate(document, shape)
        if report.has_errors():
            raise ServiceError(self._invalid, report.generate_report())
        if wrong := _strange_words(document, shape, operation):
            raise ServiceError(self._invalid, wrong)

    def check_answer(self, operation: str, document: dict[str, Any]) -> None:
        """Fails when the double would answer what the service never does."""
        shape = self.model.operation_model(operation).output_shape
        report = ParamValidator().validate(document, shape)
        assert not report.has_errors(), f"{operation}: {report.generate_report()}"
        wrong = _strange_words(document, shape, operation)
        assert not wrong, wrong

    def check_error(self, operation: str, error: ServiceError) -> None:
        """Fails when the double would raise what the operation never does."""
        known = {shape.name for shape in self.model.operation_model(operation).error_shapes} | SHARED
        assert error.code in known, f"{operation} never says {error.code}"

    def answered(
        self, operation: str, body: bytes, answer: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> tuple[int, bytes, dict[str, str]]:
        """Does one call: returns status, body and headers of its answer."""
        try:
            document = json.loads(body or b"{}")
            self.check_request(operation, document)
            found = answer(document)
            self.check_answer(operation, found)
        except ServiceError as error:
            self.check_error(operation, error)
            told = {"__type": error.code, "message": error.message, **error.fields}
            return error.status, json.dumps(told).encode(), {"content-type": JSON, "x-amzn-errortype": error.code}
        return 200, json.dumps(wire(found)).encode(), {"content-type": JSON}


def check_headers(headers: Mapping[str, str], keys: Collection[str]) -> None:
    """Raises what AWS answers to a call that is signed by nobody whom it knows."""
    if not any(f"Credential={key}/" in (headers.get("Authorization") or "") for key in keys):
        raise ServiceError("UnrecognizedClientException", "The security token is invalid.")
    assert headers["Content-Type"] == JSON


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
    """Returns a document as JSON 1.1 has it: moments as seconds, bytes in base 64."""
    if isinstance(value, dict):
        return {name: wire(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [wire(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.timestamp() if isinstance(value, datetime) else value
