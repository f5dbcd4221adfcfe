"""Branches and filters of a declared graph."""

from heliograph.tasks.control_flow.case import case
from heliograph.tasks.control_flow.conditional import ifelse, merge, switch
from heliograph.tasks.control_flow.filter import FilterTask

__all__ = ["FilterTask", "case", "ifelse", "merge", "switch"]
