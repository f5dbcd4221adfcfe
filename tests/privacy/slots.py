"""The table: every slot of user data, and where of it anything may be on the control plane's side.

A slot that names no field never crosses. One that does names every field of the API in which its text may be found,
each with the condition under which it is there. Nothing else may be found anywhere, and all of this must be found:
the proof compares for equality. `test_slots.py` compares the table with the `crosses` options of the API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from tools.contract_table import comments

ENDINGS = ("success", "fail", "retry", "cancel", "agent_killed", "control_plane_killed")


@dataclass(frozen=True)
class Mode:
    """What the user's side lets out.

    Attributes:
        logs: `--log-mode` of the agent.
        text: `--failure-text` of the agent.
    """

    logs: str
    text: str

    def __str__(self) -> str:
        return f"logs {self.logs}, texts {self.text}"


DEFAULT = Mode("redacted", "local")
SILENT = Mode("local", "local")
TEXTS = Mode("redacted", "redacted")
OPEN = Mode("full", "full")

Condition = Callable[[Mode, str], bool]


def always(mode: Mode, ending: str) -> bool:
    """Whatever the user's side says."""
    return True


def said(mode: Mode, ending: str) -> bool:
    """Where lines of loggers are sent."""
    return mode.logs != "local"


def all_lines(mode: Mode, ending: str) -> bool:
    """Where also that is sent which was not said through a logger."""
    return mode.logs == "full"


def last_line(mode: Mode, ending: str) -> bool:
    """Where at least the last line of a failure's text is sent."""
    return mode.text != "local"


def whole_text(mode: Mode, ending: str) -> bool:
    """Where the whole text of a failure is sent."""
    return mode.text == "full"


def when(condition: Condition, *endings: str) -> Condition:
    """The condition, for some endings alone."""
    return lambda mode, ending: ending in endings and condition(mode, ending)


@dataclass(frozen=True)
class Slot:
    """One place of user data.

    Attributes:
        name: Its name, also that of its canary.
        fields: Fields of the API in which it must be found, with their conditions; none for what never crosses.
        resource: Start of resource names of which it is a part, such as `projects/`: it may be found in every field
            whose comment says that it holds such a name.
        answers: Places outside of messages in which an answer may name it to whoever just sent it.
        columns: Where it is stored, besides what follows from its fields.
        passing: Endings in which its failure is followed by a success of the same task, which takes its place.
        shared: True where all runs of one agent share the canary.
    """

    name: str
    fields: Mapping[str, Condition] = field(default_factory=dict)
    resource: str = ""
    answers: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    passing: tuple[str, ...] = ()
    shared: bool = False

    def must_cross(self, mode: Mode, ending: str) -> set[str]:
        """Returns the fields in which it must be found."""
        return {name for name, condition in self.fields.items() if condition(mode, ending)}

    def may_cross(self, mode: Mode, ending: str) -> set[str]:
        """Returns the fields in which it may be found: no others but for names of resources and refusals."""
        named = fields_that_name(self.resource) if self.resource else set()
        return self.must_cross(mode, ending) | named | self.answers

    def stored_in(self, mode: Mode, ending: str) -> set[str]:
        """Returns the columns in which it must be found, and nowhere else."""
        crossing = self.must_cross(mode, ending)
        if ending in self.passing:
            crossing -= _OF_FAILURES
        return {column for name in crossing for column in STORED_IN.get(name, ())} | self.columns


@cache
def fields_that_name(resource: str) -> set[str]:
    """Returns the fields whose comments say that they hold a resource's name."""
    found = {name.removeprefix("heliograph.api.v1.") for name, comment in comments().items() if resource in comment}
    return found | _NAMES_IN_WORDS.get(resource, set())


_NAMES_IN_WORDS = {
    "projects/": {"CreateProjectRequest.project_id", "WatchFlowRunsRequest.flow_runs"},
    "flows/{flow}": {"RegisterFlowVersionRequest.flow_id"},
    "agents/": {
        "RegisterAgentRequest.agent_id", "CreateTokenRequest.principal", "Token.principal", "WhoAmIResponse.principal",
    },
}  # fmt: skip
"""Fields that hold a part of a resource's name; the agents of this proof have tokens of their own names."""

_OF_FAILURES = {"Failure.exception_class", "Failure.text", "Frame.path", "Frame.function"}
_OF_TASKS = ("slug", "name", "task_class", "tags", "trigger")

STORED_IN: dict[str, tuple[str, ...]] = {
    "FlowRun.parameters_json": ("flow_runs.parameters_json",),
    "FlowRun.run_name": ("flow_runs.run_name",),
    "FlowRun.labels": ("requirements.labels",),
    "Clock.parameter_defaults_json": ("flow_versions.schedule", "schedules.spec"),
    "Clock.labels": ("flow_versions.schedule", "schedules.spec"),
    "LaunchSummary.labels": ("flow_versions.launch",),
    "LaunchSummary.env_names": ("flow_versions.launch",),
    "LaunchSummary.image": ("flow_versions.launch",),
    "Agent.labels": ("agents.labels",),
    "BundleReference.location": ("flow_versions.bundle",),
    "EdgeSpec.key": ("flow_versions.graph",),
    "ParameterSpec.name": ("flow_versions.graph",),
    **{f"TaskSpec.{name}": ("flow_versions.graph",) for name in _OF_TASKS},
    **dict.fromkeys(_OF_FAILURES, ("task_runs.failure",)),
    "LogEntry.message": ("log_chunks.data",),
    "LogEntry.logger": ("log_chunks.data",),
    "Project.description": ("projects.description",),
}
"""Where the store keeps what came in a field. What is only asked for or answered is not stored."""

WHOLE_ON_DISK = {
    "flow_runs.parameters_json", "flow_runs.run_name", "flow_runs.agent", "agents.name", "agents.labels",
    "flows.name", "projects.name", "projects.description", "requirements.labels",
}  # fmt: skip
"""Short columns: what is in them is in the database's files as it is, neither compressed nor split over pages."""

# --- the table ------------------------------------------------------------------------------------------------------

_LINE = {"LogEntry.message": said}
_PRINTED = {"LogEntry.message": all_lines}
_TEXT = {"Failure.text": last_line, "LogEntry.message": all_lines}
_WHOLE_TEXT = {"Failure.text": whole_text, "LogEntry.message": all_lines}
_IN_GRAPH = {"TaskSpec.slug": always, "TaskRun.task_slug": always}
_REFUSAL = frozenset({"status message"})
_LABEL = (
    "Agent.labels", "CreateFlowRunRequest.labels", "ExplainFlowRunResponse.required_labels", "Flow.labels",
    "FlowRun.labels", "LaunchSummary.labels", "RegisterAgentRequest.labels",
)  # fmt: skip

NEVER = (
    # the code
    "docstring", "comment", "task_docstring", "argument_default", "bundled_file", "project_folder",
    # what Git knows of it
    "git_author", "git_message", "git_remote",
    # constants and defaults
    "parameter_default", "constant", "collected_constant", "case_constant", "mapped_element", "cache_key",
    # values
    "result", "end_result", "retried_result", "cached_result", "loop_result", "signal_result", "local",
    "exception_local", "rendered_name",
    # environment and host
    "run_config_env", "agent_env", "home_folder", "user_name", "results_folder", "working_folder",
    # secrets
    "secret", "secret_file", "secret_variable", "secret_token", "secret_url",
    # what was neither said through a logger nor is a failure
    "log_debug", "log_extra", "log_elsewhere", "warning", "printed_plain", "printed_error",
    "signal_skip", "signal_success", "signal_retry", "signal_loop",
    # a key that a client makes an id of
    "idempotency_key",
)  # fmt: skip
"""Slots that cross in no mode."""

_SHARED_NEVER = {
    "project_folder", "agent_env", "home_folder", "user_name", "results_folder", "secret", "secret_file",
    "secret_variable", "secret_token", "secret_url", "idempotency_key",
}  # fmt: skip

SLOTS = (
    *(Slot(name, shared=name in _SHARED_NEVER) for name in NEVER),
    # names
    Slot("project_name", {"Project.name": always, "CreateProjectRequest.project_id": always}, "projects/",
         _REFUSAL, frozenset({"projects.name"}), shared=True),
    Slot("project_description", {"Project.description": always, "CreateProjectRequest.description": always},
         shared=True),
    Slot("agent_name", {"RegisterAgentRequest.agent_id": always, "Agent.name": always, "FlowRun.agent": always,
                        "LeaseFlowRunsRequest.agent": always}, "agents/",
         columns=frozenset({"agents.name", "agents.owner", "flow_run_states.set_by", "flow_runs.agent",
                    "principals.name", "request_records.scope", "tokens.principal"}), shared=True),
    Slot("agent_label", dict.fromkeys(_LABEL, always), shared=True),
    Slot("storage_folder", {"BundleReference.location": always}, shared=True),
    Slot("flow_name", {"RegisterFlowVersionRequest.flow_id": always, "Flow.name": always,
                       "FlowRun.flow_version": always, **_LINE}, "flows/{flow}", columns=frozenset({"flows.name"})),
    Slot("run_name", {"CreateFlowRunRequest.run_name": always, "FlowRun.run_name": always,
                      "ListFlowRunsRequest.prefix": always}),
    Slot("task_name", {"TaskSpec.name": always, **_IN_GRAPH, **_PRINTED}),
    Slot("slug", _IN_GRAPH),
    Slot("tag", {"TaskSpec.tags": always, **_IN_GRAPH}),
    Slot("edge_key", {"EdgeSpec.key": always}),
    Slot("parameter_name", {"ParameterSpec.name": always, "TaskSpec.name": always, **_IN_GRAPH},
         answers=frozenset({"status ErrorInfo"})),
    Slot("trigger_name", {"TaskSpec.trigger": always, "Frame.function": always, "Failure.text": whole_text}),
    Slot("env_name", {"LaunchSummary.env_names": always}),
    Slot("clock_label", {"Clock.labels": always, "FlowRun.labels": always, "AgentMatch.missing_labels": always,
                         "ExplainFlowRunResponse.required_labels": always}),
    Slot("exception_class", {"Failure.exception_class": always, "Failure.text": last_line, **_LINE}),
    Slot("module_name", {"Frame.path": always, **_WHOLE_TEXT}),
    Slot("function_name", {"Frame.function": always, **_WHOLE_TEXT}),
    Slot("logger_name", {"LogEntry.logger": said}),
    # values that are sent by an explicit act
    Slot("parameter_value", {"CreateFlowRunRequest.parameters_json": always, "FlowRun.parameters_json": always,
                             **_PRINTED}),
    Slot("clock_default", {"Clock.parameter_defaults_json": always, "FlowRun.parameters_json": always}),
    Slot("refused_value", {"CreateFlowRunRequest.parameters_json": always}, shared=True),
    Slot("asked_name", {"GetFlowVersionRequest.name": always, "status message": always}, shared=True),
    *(Slot(name, _LINE) for name in ("log_line", "log_argument", "log_vendor", "last_line")),
    # what only mode `full` sends
    *(Slot(name, _PRINTED) for name in ("printed", "log_exception", "stack_line", "result_dir", "target")),
    # texts of failures: those in their last line, and those elsewhere in the traceback
    *(Slot(name, _TEXT) for name in (
        "exception_message", "exception_repr", "exception_path", "exception_key", "exception_argument",
        "exception_element", "index_constant", "handler_message", "handler_exception", "signal_fail", "signal_invalid",
    )),
    Slot("trigger_message", {"Failure.text": last_line}),
    *(Slot(name, _WHOLE_TEXT) for name in (
        "exception_cause", "exception_context", "exception_note", "exception_group", "exception_syntax",
        "exception_object", "exception_made_class", "exception_made_name", "exception_made_file", "source_line",
    )),
    Slot("retried_exception", _TEXT, passing=ENDINGS),
    Slot("end_exception", {name: when(condition, "fail", "retry") for name, condition in _TEXT.items()},
         passing=("retry",)),
)  # fmt: skip
"""All slots."""

ELSEWHERE = (
    *SLOTS,
    Slot("image", {"LaunchSummary.image": always}, shared=True),
    # what the infrastructure shows of a run because its author says so
    Slot("place_label"),
)
"""The slots of runs that are launched elsewhere than on their agent's host."""

SHARED = {slot.name for slot in SLOTS if slot.shared}
"""Slots whose canary is the same for all runs of a session."""
