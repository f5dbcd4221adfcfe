"""The store: one facade over the writer, the readers and the operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from heliograph.engine.codes import StateCode
from heliograph.exceptions import HeliographError, UnavailableError
from heliograph_control_plane.domain.runs import start_up_grace
from heliograph_control_plane.store import admin, agents, flow_runs, flows, leases, logs, migrate, start_codes, tokens
from heliograph_control_plane.store.database import Database
from heliograph_control_plane.store.events import EventStore
from heliograph_control_plane.store.notices import Notices
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.readers import GroupRead, Readers
from heliograph_control_plane.store.records import (
    Agent,
    AgentSpec,
    Changes,
    EventAck,
    EventBatch,
    Flow,
    FlowRun,
    FlowRunQuery,
    FlowRunStateRecord,
    FlowVersion,
    HeldRun,
    Leadership,
    Lease,
    LogAck,
    LogLine,
    LogPage,
    NewFlowRun,
    NewFlowVersion,
    NewToken,
    Occurrence,
    Page,
    Project,
    Quarantined,
    Reaped,
    Registered,
    RequestKey,
    RunCommand,
    RunPrincipal,
    Schedule,
    Scope,
    Subscriber,
    TaskRun,
    TaskRunStateRecord,
    Token,
    Upcoming,
)
from heliograph_control_plane.store.start_codes import NewStartCode
from heliograph_control_plane.store.writer import GroupOperation, Transaction, Writer

T = TypeVar("T")

_READERS: Final = 4
_LOG_READERS: Final = 2


_CREATE: Final = GroupOperation(flow_runs.create_flow_runs)
_ACCEPT: Final = GroupOperation(leases.accept)
_LATEST: Final = GroupRead(flows.latest_versions)


class SqlStore:
    """A store in SQLite or PostgreSQL. See `Store` for what the methods promise."""

    def __init__(self, database: Database) -> None:
        """Opens threads over a database whose schema is right; `open_store` sees to that."""
        self._database = database
        self._subscribers: list[Subscriber] = []
        with database.main.connect() as connection, connection.begin():
            database.check_clock(connection)
            incarnation, epoch_base = admin.read_identity(connection)
        self._events = EventStore(incarnation, epoch_base)
        self._leases = leases.LeaseStore(incarnation, epoch_base)
        self._logs = logs.LogStore()
        self._writer = self._make_writer("store-writer")
        self._log_writer = Writer(database, database.logs, self._subscribers, "store-logs")
        self._readers = Readers(database.reading, _READERS, "store-reader")
        self._log_readers = Readers(database.reading_logs, _LOG_READERS, "store-log-reader")
        self._authenticate = GroupRead(self._authenticate_all)
        self._get_agents: GroupRead[str, Agent] = GroupRead(lambda c, names: agents.get_agents(c, names, self.now()))
        self._notices: Notices | None = None
        if database.kind == "postgresql":
            self._notices = Notices(database.reading, self._deliver)
            self._writer.on_begin = self._follow_identity
            self._writer.on_commit = self._log_writer.on_commit = self._notices.publish
        self._closed = False

    def _make_writer(self, name: str) -> Writer:
        return Writer(self._database, self._database.main, self._subscribers, name)

    def _follow_identity(self, tx: Transaction) -> None:
        """Notices, before anything is decided, that the database was restored under this control plane."""
        identity = admin.read_identity(tx.connection)
        if identity[0] != self._events.incarnation:
            self._become(tx, identity)

    def _become(self, tx: Transaction, identity: tuple[str, int]) -> None:
        self._events.incarnation, self._events.epoch_base = identity
        self._leases.incarnation, self._leases.epoch_base = identity
        tx.memory.clear()
        tx.tokens = True

    def _deliver(self, changes: Changes) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber(changes)

    def _write(self, function: Callable[[Transaction], T], weight: int = 1) -> Pending[T]:
        return self._writer.submit(function, weight)

    def _read(self, function: Callable[[Connection], T]) -> Pending[T]:
        return self._readers.submit(function)

    # --- the store itself -------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._database.kind

    @property
    def incarnation(self) -> str:
        """Identity of the stored history."""
        return self._events.incarnation

    @property
    def failed(self) -> bool:
        """True once the disk under the store failed."""
        return self._writer.failed or self._log_writer.failed

    def now(self) -> int:
        """The store's clock in microseconds."""
        return self._database.now()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Calls `subscriber` after every commit, other control planes' included; returns what ends that."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def close(self) -> None:
        """Commits what is queued and stops."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self._log_writer.close()
        self._readers.close()
        self._log_readers.close()
        if self._notices is not None:
            self._notices.close()
        self._database.dispose()

    def ping(self) -> Pending[int]:
        """Reads from the database."""

        def read(connection: Connection) -> int:
            connection.execute(text("SELECT 1"))
            return self.now()

        return self._read(read)

    def list_quarantined(self) -> Pending[tuple[Quarantined, ...]]:
        """Lists rows that are left alone."""
        return self._read(admin.list_quarantined)

    # --- projects, flows, schedules ---------------------------------------------------------------------------------

    def create_project(self, name: str, description: str) -> Pending[Project]:
        """Creates a project."""
        return self._write(lambda tx: flows.create_project(tx, name, description))

    def get_project(self, name: str) -> Pending[Project]:
        """Returns one project."""
        return self._read(lambda c: flows.get_project(c, name))

    def list_projects(self, scope: Scope, page_size: int, page_token: str) -> Pending[Page[Project]]:
        """Lists projects."""
        return self._read(lambda c: flows.list_projects(c, scope, page_size, page_token))

    def register_flow_version(self, new: NewFlowVersion) -> Pending[Registered]:
        """Makes a flow's newest version."""
        return self._write(lambda tx: flows.register_flow_version(tx, new))

    def get_flow(self, project: str, flow: str) -> Pending[Flow]:
        """Returns one flow."""
        return self._read(lambda c: flows.get_flow(c, project, flow))

    def latest_version(self, project: str, flow: str) -> Pending[int]:
        """Returns the number of a flow's newest version."""
        return self._readers.submit_grouped(_LATEST, (project, flow))

    def list_flows(self, project: str, scope: Scope, page_size: int, page_token: str) -> Pending[Page[Flow]]:
        """Lists flows."""
        return self._read(lambda c: flows.list_flows(c, project, scope, page_size, page_token))

    def get_flow_version(self, project: str, flow: str, version: int = 0) -> Pending[FlowVersion]:
        """Returns one version."""
        return self._read(lambda c: flows.get_flow_version(c, project, flow, version))

    def list_flow_versions(
        self, project: str, flow: str, page_size: int, page_token: str
    ) -> Pending[Page[FlowVersion]]:
        """Lists versions."""
        return self._read(lambda c: flows.list_flow_versions(c, project, flow, page_size, page_token))

    def get_schedule(self, project: str, flow: str) -> Pending[Schedule]:
        """Returns a flow's schedule."""
        return self._read(lambda c: flows.get_schedule(c, project, flow))

    def list_schedules(self, project: str, scope: Scope, page_size: int, page_token: str) -> Pending[Page[Schedule]]:
        """Lists schedules."""
        return self._read(lambda c: flows.list_schedules(c, project, scope, page_size, page_token))

    def set_schedule_paused(self, project: str, flow: str, paused: bool) -> Pending[Schedule]:
        """Pauses or resumes."""
        return self._write(lambda tx: flows.set_schedule_paused(tx, project, flow, paused))

    def list_active_schedules(self, after_id: int, limit: int) -> Pending[tuple[Schedule, ...]]:
        """Lists schedules that make runs."""
        return self._read(lambda c: flows.list_active_schedules(c, after_id, limit))

    def insert_occurrences(self, occurrences: Sequence[Occurrence]) -> Pending[tuple[str, ...]]:
        """Makes runs of occurrences."""
        return self._write(lambda tx: flows.insert_occurrences(tx, occurrences))

    def quarantine_schedule(self, schedule_id: int, reason: str) -> Pending[None]:
        """Takes a schedule out of the scheduler's list."""
        return self._write(lambda tx: flows.quarantine_schedule(tx, schedule_id, reason))

    # --- flow runs for people ---------------------------------------------------------------------------------------

    def create_flow_run(self, new: NewFlowRun, request: RequestKey | None = None) -> Pending[FlowRun]:
        """Creates a run."""
        return self._writer.submit_grouped(_CREATE, (new, request), 3)

    def create_flow_runs(self, creations: Sequence[tuple[NewFlowRun, RequestKey | None]]) -> Pending[list[FlowRun]]:
        """Creates several runs, all of them or none."""
        return self._write(lambda tx: flow_runs.create_together(tx, list(creations)), 3 * len(creations))

    def get_flow_run(self, run_id: str) -> Pending[FlowRun]:
        """Returns one run."""
        return self._read(lambda c: flow_runs.read_run(c, run_id, self.now()))

    def get_flow_runs(self, run_ids: Sequence[str]) -> Pending[tuple[FlowRun, ...]]:
        """Returns several runs."""
        return self._read(lambda c: flow_runs.read_runs(c, run_ids, self.now()))

    def list_flow_runs(self, query: FlowRunQuery) -> Pending[Page[FlowRun]]:
        """Lists runs."""
        return self._read(lambda c: flow_runs.list_flow_runs(c, query, self.now()))

    def cancel_flow_run(self, run_id: str, by: str) -> Pending[FlowRun]:
        """Cancels a run or asks for its end."""
        return self._write(lambda tx: flow_runs.cancel_flow_run(tx, run_id, by))

    def confirm_flow_run_dead(self, run_id: str, by: str) -> Pending[FlowRun]:
        """Takes an operator's word that a run is dead."""
        return self._write(lambda tx: flow_runs.confirm_flow_run_dead(tx, run_id, by))

    def list_flow_run_states(self, run_id: str) -> Pending[tuple[FlowRunStateRecord, ...]]:
        """Lists the states of a run."""
        return self._read(lambda c: flow_runs.list_flow_run_states(c, run_id))

    def get_task_run(self, run_id: str, task: int, map_index: int | None) -> Pending[TaskRun]:
        """Returns one task run."""
        return self._read(lambda c: flow_runs.get_task_run(c, run_id, task, map_index))

    def list_task_runs(
        self, run_id: str, states: Sequence[StateCode], page_size: int, page_token: str
    ) -> Pending[Page[TaskRun]]:
        """Lists task runs."""
        return self._read(lambda c: flow_runs.list_task_runs(c, run_id, states, page_size, page_token))

    def list_changed_task_runs(
        self, run_id: str, epoch: int, after_sequence: int, limit: int
    ) -> Pending[tuple[tuple[TaskRun, ...], int]]:
        """Returns task runs that changed."""
        return self._read(lambda c: flow_runs.list_changed_task_runs(c, run_id, epoch, after_sequence, limit))

    def list_task_run_states(
        self, run_id: str, task: int | None, map_index: int | None, page_size: int, page_token: str
    ) -> Pending[Page[TaskRunStateRecord]]:
        """Lists task states."""
        return self._read(lambda c: flow_runs.list_task_run_states(c, run_id, task, map_index, page_size, page_token))

    # --- agents and leases ------------------------------------------------------------------------------------------

    def register_agent(self, spec: AgentSpec) -> Pending[Agent]:
        """Makes or renews an agent."""
        return self._write(lambda tx: agents.register_agent(tx, spec))

    def get_agent(self, name: str) -> Pending[Agent]:
        """Returns one agent."""
        return self._readers.submit_grouped(self._get_agents, name)

    def list_agents(self, page_size: int, page_token: str, scope: Scope = None) -> Pending[Page[Agent]]:
        """Lists agents."""
        return self._read(lambda c: agents.list_agents(c, page_size, page_token, self.now(), scope))

    def delete_agent(self, name: str) -> Pending[None]:
        """Forgets an agent."""
        return self._write(lambda tx: agents.delete_agent(tx, name))

    def lease_flow_runs(
        self, agent: str, request_id: str, max_runs: int, scope: Scope = None
    ) -> Pending[tuple[Lease, ...]]:
        """Leases due runs."""
        claim = leases.Claim(agent, request_id, max_runs, scope)
        return self._writer.submit_grouped(self._leases.operation, claim, 1 + max(max_runs, 0) // 4)

    def accept_flow_run(
        self,
        agent: str,
        run_id: str,
        epoch: int,
        token_hash: bytes,
        project: str = "",
        scope: Scope = None,
        owner: str = "",
    ) -> Pending[None]:
        """Confirms a lease."""
        acceptance = leases.Acceptance(agent, run_id, epoch, token_hash, project, scope, owner)
        return self._writer.submit_grouped(_ACCEPT, acceptance, 3)

    def put_start_code(self, new: NewStartCode) -> Pending[int]:
        """Keeps a start code."""
        return self._write(lambda tx: start_codes.put(tx, new))

    def exchange_start_code(self, run_id: str, epoch: int, request_hash: bytes, token_hash: bytes) -> Pending[bytes]:
        """Exchanges a start code for a run token."""
        return self._write(lambda tx: start_codes.exchange(tx, run_id, epoch, request_hash, token_hash))

    def release_flow_run(
        self, agent: str, run_id: str, epoch: int, failure: bytes, back_off_micros: int, delay: int = 0
    ) -> Pending[FlowRun]:
        """Gives a run back."""
        return self._write(lambda tx: leases.release(tx, agent, run_id, epoch, failure, back_off_micros, delay))

    def heartbeat_agent(self, agent: str, held: Sequence[HeldRun], draining: bool) -> Pending[tuple[RunCommand, ...]]:
        """Notes that an agent lives."""
        return self._write(lambda tx: self._leases.heartbeat(tx, agent, held, draining))

    def report_flow_run_exit(
        self, agent: str, run_id: str, epoch: int, failure: bytes, time_micros: int
    ) -> Pending[FlowRun]:
        """Takes a proof of death."""
        return self._write(lambda tx: leases.report_exit(tx, agent, run_id, epoch, failure, time_micros))

    def apply_event_batch(self, batch: EventBatch) -> Pending[EventAck]:
        """Stores events."""
        return self._writer.submit_grouped(self._events.operation, batch, 1 + len(batch.events))

    def upcoming(self, limit: int = 1000) -> Pending[tuple[Upcoming, ...]]:
        """Returns when the next runs are due."""
        return self._read(lambda c: leases.upcoming(c, limit))

    # --- tokens -----------------------------------------------------------------------------------------------------

    def create_token(self, new: NewToken, request: RequestKey | None = None) -> Pending[Token]:
        """Issues a token."""
        return self._write(lambda tx: tokens.create_token(tx, new, request))

    def list_tokens(self, page_size: int, page_token: str, scope: Scope = None) -> Pending[Page[Token]]:
        """Lists tokens."""
        return self._read(lambda c: tokens.list_tokens(c, page_size, page_token, scope))

    def revoke_token(self, token_id: str, scope: Scope = None) -> Pending[Token]:
        """Ends a token."""
        return self._write(lambda tx: tokens.revoke_token(tx, token_id, scope))

    def authenticate(self, token_id: str, secret_hash: bytes) -> Pending[Token | None]:
        """Returns a good token."""
        return self._readers.submit_grouped(self._authenticate, (token_id, secret_hash))

    def _authenticate_all(
        self, connection: Connection, claims: list[tuple[str, bytes]]
    ) -> list[Token | HeliographError | None]:
        now = self.now()
        found = tokens.authenticate(connection, claims, now)
        for token in {one.token_id: one for one in found if one is not None}.values():
            if now - token.last_used_micros >= tokens.USE_NOTED_EVERY:
                self._writer.submit(partial(tokens.note_use, token_id=token.token_id))
        return list(found)

    def authenticate_run(self, run_id: str, epoch: int, secret_hash: bytes) -> Pending[RunPrincipal | None]:
        """Returns what a good run token stands for."""

        def read(connection: Connection) -> RunPrincipal | None:
            found = tokens.authenticate_run(connection, run_id, epoch, secret_hash, self.now())
            if found is None:
                return None
            principal, first_use = found
            if first_use:
                self._writer.submit(lambda tx: tokens.note_run_use(tx, run_id, epoch))
            return principal

        return self._read(read)

    def authenticate_start_code(
        self, run_id: str, epoch: int, secret_hash: bytes
    ) -> Pending[tuple[RunPrincipal, int] | None]:
        """Returns what a good start code stands for."""
        return self._read(lambda c: start_codes.authenticate(c, run_id, epoch, secret_hash, self.now()))

    # --- logs -------------------------------------------------------------------------------------------------------

    def write_log_lines(self, run_id: str, epoch: int, lines: Sequence[LogLine]) -> Pending[LogAck]:
        """Stores log lines."""
        return self._log_writer.submit_grouped(
            self._logs.operation, (run_id, epoch, tuple(lines)), 1 + len(lines) // 10
        )

    def read_log_lines(
        self, run_id: str, cursor: str = "", limit: int = 1000, min_level: int = 0, after_micros: int = 0
    ) -> Pending[LogPage]:
        """Reads log lines."""
        return self._log_readers.submit(lambda c: logs.read_lines(c, run_id, cursor, limit, min_level, after_micros))

    # --- loops ------------------------------------------------------------------------------------------------------

    def acquire_leadership(self, name: str, holder: str, ttl_micros: int) -> Pending[Leadership | None]:
        """Takes or renews a leadership."""
        return self._write(lambda tx: admin.acquire_leadership(tx, name, holder, ttl_micros))

    def release_leadership(self, name: str, holder: str) -> Pending[None]:
        """Gives a leadership up."""
        return self._write(lambda tx: admin.release_leadership(tx, name, holder))

    def reap(self, limit: int = 500) -> Pending[Reaped]:
        """Does what is due by deadlines."""
        return self._write(lambda tx: leases.reap(tx, limit))

    def prune(self, limit: int = 1000) -> Pending[int]:
        """Deletes what is worthless for good."""
        return self._write(lambda tx: admin.prune(tx, limit))

    def mark_restored(self, hold_micros: int = start_up_grace()) -> Pending[str]:
        """Gives the store a new incarnation."""

        def mark(tx: Transaction) -> str:
            identity = admin.mark_restored(tx, hold_micros)
            self._become(tx, identity)
            return identity[0]

        return self._write(mark)


def open_store(url: str, *, make_schema: bool | None = None, clock: Callable[[], int] | None = None) -> SqlStore:
    """Opens a store.

    Args:
        url: `sqlite:///path/to/file` or `postgresql://user@host/name`.
        make_schema: True to bring the schema to this server's version first. None means: on SQLite only.
        clock: Tells the time in microseconds, in place of this host's or the database's clock.

    Raises:
        ConfigurationError: The URL cannot be read.
        StoreInUseError: Another process has the SQLite file open.
        SchemaMismatchError: The schema is not this server's.
        UnavailableError: The database does not answer, or the disk under it is full or fails.
    """
    database = Database(url, clock)
    try:
        if make_schema or (make_schema is None and database.kind == "sqlite"):
            migrate.migrate(database)
        migrate.check(database)
        return SqlStore(database)
    except DBAPIError as error:
        database.dispose()
        hint = "is there room on its disk?" if database.kind == "sqlite" else "does the database accept connections?"
        raise UnavailableError(f"the store cannot be opened: {error.orig}", hint=hint) from error
    except BaseException:
        database.dispose()
        raise


def migrate_store(url: str) -> list[str]:
    """Brings a store's schema to this server's version. Returns the versions that were applied.

    Raises:
        ConfigurationError: The URL cannot be read.
        StoreInUseError: Another process has the SQLite file open.
        SchemaMismatchError: The schema is newer than this server, or not one of its own.
    """
    database = Database(url)
    try:
        return migrate.migrate(database)
    finally:
        database.dispose()
