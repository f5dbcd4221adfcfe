"""The table of slots is held against the contract: no field that carries a user's text is without a canary."""

from __future__ import annotations

import pytest
from tests.privacy.judge import NOT_STORED
from tests.privacy.slots import (
    DEFAULT,
    ELSEWHERE,
    ENDINGS,
    NEVER,
    OPEN,
    SILENT,
    SLOTS,
    STORED_IN,
    WHOLE_ON_DISK,
    fields_that_name,
)

from heliograph.api import contract
from heliograph.api.v1 import options_pb2
from heliograph_control_plane.store.schema import log_metadata, metadata

FIELDS = {field.full_name.removeprefix("heliograph.api.v1."): field for field in contract.fields()}

MADE_BY_THE_PRODUCT = {
    # versions, kinds, features: words of the product's own
    "Agent.launcher", "Agent.version", "RegisterAgentRequest.launcher", "RegisterAgentRequest.version",
    "LaunchSummary.launcher", "ServerInfo.version", "ServerInfo.features", "ServerInfo.store",
    "BundleReference.storage", "BundleReference.python_version", "TaskSpec.task_class",
    # who is there: principals and hosts
    "FlowRun.created_by", "FlowVersion.created_by", "Token.created_by", "CreateTokenRequest.principal",
    "Token.principal", "WhoAmIResponse.principal", "CreateTokenRequest.projects", "Token.projects",
    "WhoAmIResponse.projects", "Agent.host", "RegisterAgentRequest.host", "BundleReference.host",
    "ExplainFlowRunResponse.required_host",
    # how a clock counts
    "CronClock.cron", "CronClock.timezone", "IntervalClock.timezone",
}  # fmt: skip
"""Fields without a canary: what they hold is made by the product or is a word of a closed list, not a user's text."""

NAMES = {"projects/", "flows/{flow}", "agents/"}


def _class_of(field: str) -> int:
    rule = FIELDS[field].GetOptions().Extensions[options_pb2.crosses]
    return int(rule.__getattribute__("class"))


def test_the_table_names_each_slot_once() -> None:
    """And there are not fewer than the design asks for."""
    names = [slot.name for slot in SLOTS]
    assert len(names) == len(set(names))
    assert len(names) >= 40
    assert len([name for name in names if name.startswith(("exception_", "source_line"))]) >= 11


def test_every_field_of_the_table_is_there_and_may_carry_text() -> None:
    """A canary is expected only where the contract allows text; not where it allows ids or credentials."""
    named = {field for slot in SLOTS for field in slot.fields if field != "status message"}
    assert named <= FIELDS.keys()
    allowed = {options_pb2.CROSSING_CLASS_META, options_pb2.CROSSING_CLASS_USER_TEXT}
    assert {_class_of(field) for field in named} == allowed


def test_every_field_that_may_carry_a_users_text_has_a_canary() -> None:
    """A new field of the API needs a slot, or a place in the list of those that need none."""
    texts = {
        name
        for name in FIELDS
        if _class_of(name) in (options_pb2.CROSSING_CLASS_META, options_pb2.CROSSING_CLASS_USER_TEXT)
    }
    covered = {field for slot in ELSEWHERE for field in slot.fields}
    named = {field for resource in NAMES for field in fields_that_name(resource)}
    assert texts - covered - named - MADE_BY_THE_PRODUCT == set()
    assert texts >= MADE_BY_THE_PRODUCT, "no entry for what is not there"
    assert not covered & (MADE_BY_THE_PRODUCT - {"CreateTokenRequest.principal"}) - named


def test_user_text_crosses_by_explicit_acts_alone() -> None:
    """The fields for users' text are these; one more is a change of the promise."""
    texts = {name for name in FIELDS if _class_of(name) == options_pb2.CROSSING_CLASS_USER_TEXT}
    assert texts == {
        "Clock.parameter_defaults_json", "CreateFlowRunRequest.parameters_json", "CreateProjectRequest.description",
        "Failure.text", "FlowRun.parameters_json", "LogEntry.message", "Project.description",
    }  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_less_crosses_in_stricter_modes(ending: str) -> None:
    """What a mode lets out, a more open one does too; what is never to cross is in none."""
    for slot in SLOTS:
        silent, default, full = (slot.must_cross(mode, ending) for mode in (SILENT, DEFAULT, OPEN))
        assert silent <= default <= full
        assert (slot.name in NEVER) == (not slot.fields)


def test_every_column_of_the_table_is_there() -> None:
    """Columns that do not exist would make the comparison pass for nothing."""
    columns = {f"{table.name}.{column.name}" for part in (metadata, log_metadata) for table in part.sorted_tables
               for column in table.columns}  # fmt: skip
    assert {column for stored in STORED_IN.values() for column in stored} | WHOLE_ON_DISK <= columns
    assert {column for slot in SLOTS for column in slot.columns} <= columns
    assert {slot.name for slot in SLOTS} >= NOT_STORED
