"""The objects that a flow's author builds: `Flow`, `Task`, `Parameter` and the edges between tasks."""

from heliograph.core.edge import Edge
from heliograph.core.flow import Flow
from heliograph.core.parameter import DateTimeParameter, Parameter
from heliograph.core.task import Task

__all__ = ["DateTimeParameter", "Edge", "Flow", "Parameter", "Task"]
