"""The expected table of access, written by hand: what the server enforces must equal it, method by method.

Columns, two spaces apart:

- the method;
- who may call it: A administrator, a author, o operator, v viewer, g agent, r a run's token, s a run's start code;
  anybody else is refused;
- the answer about what is the caller's own;
- about what is another project's, under its real name: the same as for names that nobody has;
- about the id of another project's thing under a name of the caller's own project: again as for one that nobody has.

An answer is `OK`, a reason, or a reason and its text. A new method of the API needs a row here.
"""

from __future__ import annotations

from dataclasses import dataclass

ROLES = {"admin": "A", "author": "a", "operator": "o", "viewer": "v", "agent": "g", "run": "r", "start": "s"}

NOT_ALLOWED = "PERMISSION_DENIED: the token's roles do not allow this call"
NO_TOKEN = "UNAUTHENTICATED: no valid token"

_TEXTS = {
    "project": "NOT_FOUND: no such project",
    "run": "NOT_FOUND: no such flow run",
    "agent": "NOT_FOUND: no such agent",
    "token": "NOT_FOUND: no such token",
    "schedule": "NOT_FOUND: no such schedule",
    "taken": "PERMISSION_DENIED: an agent of somebody else has this name",
    "further": "PERMISSION_DENIED: the token would reach further than yours",
    "limited": "PERMISSION_DENIED: the token is limited to other projects",
    "version": "NOT_FOUND: no such flow, or not this version of it",
}

_TABLE = """
AdminService/GetServerInfo            A a o v g r -  OK                  OK          OK
AdminService/WhoAmI                   A a o v g r -  OK                  OK          OK
AgentService/RegisterAgent            A - - - g - -  OK                  <taken>     <taken>
AgentService/LeaseFlowRuns            A - - - g - -  OK                  <agent>     OK
AgentService/AcceptFlowRun            A - - - g - -  OK                  <run>       <run>
AgentService/CreateStartCode          A - - - g - -  OK                  <run>       <run>
AgentService/ExchangeStartCode        - - - - - - s  OK                  OK          OK
AgentService/ReleaseFlowRun           A - - - g - -  OK                  <run>       <run>
AgentService/HeartbeatAgent           A - - - g - -  OK                  <agent>     OK
AgentService/ReportFlowRunExit        A - - - g - -  OK                  <run>       <run>
AgentService/GetAgent                 A a o v g - -  OK                  <agent>     <agent>
AgentService/ListAgents               A a o v - - -  OK                  OK          OK
AgentService/DeleteAgent              A - o - - - -  OK                  OK          OK
FlowRunService/CreateFlowRun          A a o - - r -  OK                  <project>   <version>
FlowRunService/BatchCreateFlowRuns    A a o - - r -  OK                  <project>   <version>
FlowRunService/GetFlowRun             A a o v g r -  OK                  <run>       <run>
FlowRunService/ListFlowRuns           A a o v - - -  OK                  <project>   NOT_FOUND
FlowRunService/CancelFlowRun          A a o - - - -  OK                  <run>       <run>
FlowRunService/ListFlowRunStates      A a o v - - -  OK                  <run>       <run>
FlowRunService/ExplainFlowRun         A a o v - - -  OK                  <run>       <run>
FlowRunService/WatchFlowRuns          A a o v - r -  OK                  <project>   <run>
FlowRunService/ConfirmFlowRunDead     A - o - - - -  ILLEGAL_TRANSITION  <run>       <run>
FlowService/RegisterFlowVersion       A a - - - - -  OK                  <project>   OK
FlowService/GetFlow                   A a o v - r -  OK                  <project>   NOT_FOUND
FlowService/ListFlows                 A a o v - - -  OK                  <project>   OK
FlowService/GetFlowVersion            A a o v g r -  OK                  <project>   NOT_FOUND
FlowService/ListFlowVersions          A a o v - - -  OK                  <project>   NOT_FOUND
LogService/WriteLogEntries            A - - - g r -  OK                  <run>       <run>
LogService/ListLogEntries             A a o v - - -  OK                  <run>       <run>
LogService/TailLogEntries             A a o v - - -  OK                  <run>       <run>
ProjectService/CreateProject          A a - - - - -  OK                  <limited>   OK
ProjectService/GetProject             A a o v - - -  OK                  <project>   OK
ProjectService/ListProjects           A a o v - - -  OK                  OK          OK
RunReportingService/StreamRunEvents   A - - - g r -  OK                  <run>       <run>
RunReportingService/ReportRunEvents   A - - - g r -  OK                  <run>       <run>
ScheduleService/GetSchedule           A a o v - - -  OK                  <schedule>  NOT_FOUND
ScheduleService/ListSchedules         A a o v - - -  OK                  <project>   OK
ScheduleService/PauseSchedule         A a o - - - -  OK                  <schedule>  NOT_FOUND
ScheduleService/ResumeSchedule        A a o - - - -  OK                  <schedule>  NOT_FOUND
ScheduleService/PreviewSchedule       A a o v - - -  OK                  <schedule>  NOT_FOUND
TaskRunService/GetTaskRun             A a o v - r -  OK                  <run>       <run>
TaskRunService/ListTaskRuns           A a o v - r -  OK                  <run>       <run>
TaskRunService/ListTaskRunStates      A a o v - - -  OK                  <run>       <run>
TokenService/CreateToken              A - - - - - -  OK                  <further>   OK
TokenService/ListTokens               A - - - - - -  OK                  OK          OK
TokenService/RevokeToken              A - - - - - -  OK                  <token>     <token>
"""

STANDARD = {
    # Health, reflection and channelz are for people who look at the server.
    "/grpc.health.v1.Health/Check": "A a o v - - -",
    "/grpc.health.v1.Health/Watch": "A a o v - - -",
    "/grpc.health.v1.Health/List": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetTopChannels": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetServers": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetServer": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetServerSockets": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetChannel": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetSubchannel": "A a o v - - -",
    "/grpc.channelz.v1.Channelz/GetSocket": "A a o v - - -",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "A a o v - - -",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "A a o v - - -",
    "/no.such.Service/Method": "- - - - - - -",
}

TELLS_WHAT_IS_TAKEN = {"AgentService/RegisterAgent"}
"""The one exception from `not yours` and `not there` being alike: agents' names are shared by the server."""

TOKEN_STATES = (
    "none",
    "empty",
    "not a token",
    "another scheme",
    "wrong secret",
    "expired",
    "revoked",
    "another server",
)
"""States of a token in which every method gives every role the same answer: `NO_TOKEN`."""

RUN_TOKENS = {
    # What the token of a run may do, by method (those that a run may call at all), in each state of the token:
    # of the current lease; about another run of its project; after the lease moved on; after the run ended; replaced.
    "FlowRunService/CreateFlowRun": ("OK", "OK", NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "FlowRunService/BatchCreateFlowRuns": ("OK", "OK", NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "FlowRunService/GetFlowRun": ("OK", _TEXTS["run"], NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "FlowRunService/WatchFlowRuns": ("OK", _TEXTS["run"], NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "FlowService/GetFlow": ("OK", "OK", NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "FlowService/GetFlowVersion": ("OK", "OK", NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "LogService/WriteLogEntries": ("OK", _TEXTS["run"], "OK", "OK", NO_TOKEN),
    "RunReportingService/StreamRunEvents": ("OK", _TEXTS["run"], "LEASE_LOST", "OK", NO_TOKEN),
    "RunReportingService/ReportRunEvents": ("OK", _TEXTS["run"], "LEASE_LOST", "OK", NO_TOKEN),
    "TaskRunService/GetTaskRun": ("OK", _TEXTS["run"], NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "TaskRunService/ListTaskRuns": ("OK", _TEXTS["run"], NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "AdminService/GetServerInfo": ("OK", "OK", NO_TOKEN, NO_TOKEN, NO_TOKEN),
    "AdminService/WhoAmI": ("OK", "OK", NO_TOKEN, NO_TOKEN, NO_TOKEN),
}
RUN_TOKEN_STATES = ("current", "another run", "old epoch", "ended", "replaced")

START_CODES = {
    # What `ExchangeStartCode` answers to a start code, by its state; any other method answers as below.
    "current": "OK",
    "exchanged": "PERMISSION_DENIED: the start code was exchanged before, by another request",
    "run begun": "PERMISSION_DENIED: the start code was exchanged before, by another request",
    "replaced": NO_TOKEN,
    "expired": NO_TOKEN,
    "old epoch": NO_TOKEN,
    "ended": NO_TOKEN,
}
KNOWN_CODES = {"current", "exchanged", "run begun"}
"""States of a start code in which the server knows whose it is: other methods are `NOT_ALLOWED`, else `NO_TOKEN`."""

OUTLIVED_CODES = {"old epoch", "ended"}
LATE = {"LogService/WriteLogEntries", "RunReportingService/StreamRunEvents", "RunReportingService/ReportRunEvents"}
"""What the token of a run that ended may still call: with an outlived start code these are `NOT_ALLOWED`, too."""


@dataclass(frozen=True)
class Row:
    """One method's row."""

    allowed: frozenset[str]
    own: str
    foreign: str
    mixed: str


def roles_of(letters: str) -> frozenset[str]:
    """Returns the names of the roles in a row's second column."""
    found = letters.split()
    assert [letter in ("-", known) for letter, known in zip(found, ROLES.values(), strict=True)] == [True] * len(ROLES)
    return frozenset(role for role, letter in ROLES.items() if letter in found)


def rows() -> dict[str, Row]:
    """The table by method, such as `FlowService/GetFlow`."""
    table = {}
    for line in _TABLE.strip().splitlines():
        method, letters, *answers = (part.strip() for part in line.split("  ") if part.strip())
        own, foreign, mixed = (_TEXTS.get(answer.strip("<>"), answer) for answer in answers)
        table[method] = Row(roles_of(letters), own, foreign, mixed)
    return table
