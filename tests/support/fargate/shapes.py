"""ECS's own description of its API: every request and every answer of the double is held to it."""

from __future__ import annotations

from tests.support.aws_wire import ServiceError, Shapes, check_headers, wire

__all__ = ["ServiceError", "check_answer", "check_error", "check_headers", "check_request", "wire"]

_SHAPES = Shapes("ecs", "InvalidParameterException")
check_request, check_answer, check_error = _SHAPES.check_request, _SHAPES.check_answer, _SHAPES.check_error
