"""What goes into the store and comes out of it: frozen records in domain words.

Times are whole microseconds since 1970-01-01T00:00:00Z (`*_micros`); 0 means "not set" unless a field says otherwise.
Messages that the store only keeps for others (`graph`, `bundle`, `launch`, `schedule`, `failure`) are serialised
`heliograph.api.v1` messages in bytes; empty bytes mean "not set".
"""

from __future__ import annotations

from heliograph_control_plane.store.records.agents import Agent as Agent
from heliograph_control_plane.store.records.agents import AgentSpec as AgentSpec
from heliograph_control_plane.store.records.agents import HeldRun as HeldRun
from heliograph_control_plane.store.records.agents import Lease as Lease
from heliograph_control_plane.store.records.agents import Reaped as Reaped
from heliograph_control_plane.store.records.agents import RunCommand as RunCommand
from heliograph_control_plane.store.records.agents import Spent as Spent
from heliograph_control_plane.store.records.agents import Upcoming as Upcoming
from heliograph_control_plane.store.records.changes import Changes as Changes
from heliograph_control_plane.store.records.changes import Leadership as Leadership
from heliograph_control_plane.store.records.changes import Quarantined as Quarantined
from heliograph_control_plane.store.records.changes import Subscriber as Subscriber
from heliograph_control_plane.store.records.common import Page as Page
from heliograph_control_plane.store.records.common import RequestKey as RequestKey
from heliograph_control_plane.store.records.common import Scope as Scope
from heliograph_control_plane.store.records.flows import Flow as Flow
from heliograph_control_plane.store.records.flows import FlowVersion as FlowVersion
from heliograph_control_plane.store.records.flows import NewFlowVersion as NewFlowVersion
from heliograph_control_plane.store.records.flows import Occurrence as Occurrence
from heliograph_control_plane.store.records.flows import Project as Project
from heliograph_control_plane.store.records.flows import Registered as Registered
from heliograph_control_plane.store.records.flows import Requirement as Requirement
from heliograph_control_plane.store.records.flows import Schedule as Schedule
from heliograph_control_plane.store.records.reports import Event as Event
from heliograph_control_plane.store.records.reports import EventAck as EventAck
from heliograph_control_plane.store.records.reports import EventBatch as EventBatch
from heliograph_control_plane.store.records.reports import FlowEvent as FlowEvent
from heliograph_control_plane.store.records.reports import LogAck as LogAck
from heliograph_control_plane.store.records.reports import LogLine as LogLine
from heliograph_control_plane.store.records.reports import LogPage as LogPage
from heliograph_control_plane.store.records.reports import RunCommandKind as RunCommandKind
from heliograph_control_plane.store.records.reports import TaskEvent as TaskEvent
from heliograph_control_plane.store.records.runs import FlowRun as FlowRun
from heliograph_control_plane.store.records.runs import FlowRunQuery as FlowRunQuery
from heliograph_control_plane.store.records.runs import FlowRunStateRecord as FlowRunStateRecord
from heliograph_control_plane.store.records.runs import NewFlowRun as NewFlowRun
from heliograph_control_plane.store.records.runs import TaskRun as TaskRun
from heliograph_control_plane.store.records.runs import TaskRunStateRecord as TaskRunStateRecord
from heliograph_control_plane.store.records.tokens import NewToken as NewToken
from heliograph_control_plane.store.records.tokens import RunPrincipal as RunPrincipal
from heliograph_control_plane.store.records.tokens import Token as Token
