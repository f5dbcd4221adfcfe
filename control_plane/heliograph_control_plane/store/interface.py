"""What the services may ask of the store.

Every method returns a `Pending`: `await` it in a coroutine or call `.result()` in a thread. A mutation is answered
after its durable commit, never before. Methods raise (through the `Pending`) errors of `heliograph.exceptions`:
`NotFoundError` for what is not there, `InvalidArgumentError` for an unreadable page token, `UnavailableError` when the
writer's queue is full or the store is closing, and those that a method names.

Names of projects, flows and agents are bare (`etl`, not `projects/etl`); run ids are UUID text. The store trusts its
callers to have authorised the call and validated the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from heliograph.engine.codes import StateCode
from heliograph_control_plane.domain.runs import start_up_grace
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import (
    Agent,
    AgentSpec,
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


class Store(Protocol):
    """The control plane's memory. `heliograph_control_plane.store.open_store(url)` opens one."""

    # --- the store itself -------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""

    @property
    def incarnation(self) -> str:
        """Identity of the stored history; a restored store has a new one."""

    @property
    def failed(self) -> bool:
        """True once the disk under the store failed: it is read from, and not written to, until it is opened anew."""

    def now(self) -> int:
        """The store's clock in microseconds; on PostgreSQL that of the database."""

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Calls `subscriber` after every commit that changed something, on the writer's thread, and soon after those of
        other control planes over the same database, on another thread: it must be quick and must not raise. Returns
        the function that ends the subscription. Hints only: poll slowly underneath."""

    def close(self) -> None:
        """Commits what is queued, stops the threads and lets go of the database. Closing twice is no error."""

    def ping(self) -> Pending[int]:
        """Reads from the database; answers with the store's time."""

    def list_quarantined(self) -> Pending[tuple[Quarantined, ...]]:
        """Lists the rows that are left alone because they could not be worked with."""

    # --- projects, flows, schedules ---------------------------------------------------------------------------------

    def create_project(self, name: str, description: str) -> Pending[Project]:
        """Creates a project; the same content again returns it. Raises AlreadyExistsError for another description."""

    def get_project(self, name: str) -> Pending[Project]:
        """Returns one project."""

    def list_projects(self, scope: Scope, page_size: int, page_token: str) -> Pending[Page[Project]]:
        """Lists projects by name."""

    def register_flow_version(self, new: NewFlowVersion) -> Pending[Registered]:
        """Makes a flow's newest version, unless the newest one has this content already. Replaces the schedule, and
        the runs that it had made for the future. Raises NotFoundError without the project."""

    def get_flow(self, project: str, flow: str) -> Pending[Flow]:
        """Returns one flow."""

    def latest_version(self, project: str, flow: str) -> Pending[int]:
        """Returns the number of a flow's newest version; quicker than the whole flow."""

    def list_flows(self, project: str, scope: Scope, page_size: int, page_token: str) -> Pending[Page[Flow]]:
        """Lists flows by project and name. An empty `project` means all of `scope`."""

    def get_flow_version(self, project: str, flow: str, version: int = 0) -> Pending[FlowVersion]:
        """Returns one version with its graph; 0 means the newest."""

    def list_flow_versions(
        self, project: str, flow: str, page_size: int, page_token: str
    ) -> Pending[Page[FlowVersion]]:
        """Lists versions, newest first, without graphs."""

    def get_schedule(self, project: str, flow: str) -> Pending[Schedule]:
        """Returns a flow's schedule. Raises NotFoundError when it has none."""

    def list_schedules(self, project: str, scope: Scope, page_size: int, page_token: str) -> Pending[Page[Schedule]]:
        """Lists schedules by project and flow. An empty `project` means all of `scope`."""

    def set_schedule_paused(self, project: str, flow: str, paused: bool) -> Pending[Schedule]:
        """Pauses (removes the runs that it made and nobody leased yet) or resumes (from now on). Idempotent."""

    def list_active_schedules(self, after_id: int, limit: int) -> Pending[tuple[Schedule, ...]]:
        """Lists schedules that are neither paused nor quarantined, by id, those beyond `after_id`."""

    def insert_occurrences(self, occurrences: Sequence[Occurrence]) -> Pending[tuple[str, ...]]:
        """Makes the runs of occurrences that have none yet. Occurrences of schedules that were paused or replaced
        meanwhile are left out. Returns the ids of the runs that are new."""

    def quarantine_schedule(self, schedule_id: int, reason: str) -> Pending[None]:
        """Takes a schedule that cannot be expanded out of the scheduler's list until the flow is registered anew."""

    # --- flow runs for people ---------------------------------------------------------------------------------------

    def create_flow_run(self, new: NewFlowRun, request: RequestKey | None = None) -> Pending[FlowRun]:
        """Creates a run. The same `request` again returns the run that it made. Raises RequestIdReusedError."""

    def create_flow_runs(self, creations: Sequence[tuple[NewFlowRun, RequestKey | None]]) -> Pending[list[FlowRun]]:
        """Creates several runs in one transaction, each as `create_flow_run` does: all of them or, when one is refused,
        none."""

    def get_flow_run(self, run_id: str) -> Pending[FlowRun]:
        """Returns one run."""

    def get_flow_runs(self, run_ids: Sequence[str]) -> Pending[tuple[FlowRun, ...]]:
        """Returns those of these runs that are there, in the order asked for."""

    def list_flow_runs(self, query: FlowRunQuery) -> Pending[Page[FlowRun]]:
        """Lists runs, newest first."""

    def cancel_flow_run(self, run_id: str, by: str) -> Pending[FlowRun]:
        """Cancels a run that nobody accepted; asks for the end of one that runs. Idempotent. Raises
        IllegalTransitionError when it finished otherwise."""

    def confirm_flow_run_dead(self, run_id: str, by: str) -> Pending[FlowRun]:
        """Takes an operator's word that the run's process is dead. Raises IllegalTransitionError while it is heard
        of, and for runs that were never accepted."""

    def list_flow_run_states(self, run_id: str) -> Pending[tuple[FlowRunStateRecord, ...]]:
        """Lists the states of a run in order."""

    def get_task_run(self, run_id: str, task: int, map_index: int | None) -> Pending[TaskRun]:
        """Returns one task run."""

    def list_task_runs(
        self, run_id: str, states: Sequence[StateCode], page_size: int, page_token: str
    ) -> Pending[Page[TaskRun]]:
        """Lists task runs by task and map index."""

    def list_changed_task_runs(
        self, run_id: str, epoch: int, after_sequence: int, limit: int
    ) -> Pending[tuple[tuple[TaskRun, ...], int]]:
        """Returns task runs that events of `epoch` beyond `after_sequence` changed (at most `limit` events are looked
        at), and the sequence to go on after."""

    def list_task_run_states(
        self, run_id: str, task: int | None, map_index: int | None, page_size: int, page_token: str
    ) -> Pending[Page[TaskRunStateRecord]]:
        """Lists task states of a run, or of one task run when `task` is given, in the order in which they happened."""

    # --- agents and leases ------------------------------------------------------------------------------------------

    def register_agent(self, spec: AgentSpec) -> Pending[Agent]:
        """Makes or renews an agent. The newest call counts."""

    def get_agent(self, name: str) -> Pending[Agent]:
        """Returns one agent."""

    def list_agents(self, page_size: int, page_token: str, scope: Scope = None) -> Pending[Page[Agent]]:
        """Lists agents by name: those that work for a project of `scope`."""

    def delete_agent(self, name: str) -> Pending[None]:
        """Forgets an agent. Raises IllegalTransitionError while it holds a lease. Deleting twice is no error."""

    def lease_flow_runs(
        self, agent: str, request_id: str, max_runs: int, scope: Scope = None
    ) -> Pending[tuple[Lease, ...]]:
        """Leases due runs that the agent can take, the longest due first, for 30 s. An answer that gave leases is
        given again for its `request_id` while they live; after that the request is `Spent`: it is never given others.
        Raises NotFoundError for an agent that never registered."""

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
        """Confirms a lease: the run is Submitted, and its run token's hash is kept. Again under the same epoch, before
        the token was used, replaces the hash. Raises LeaseLostError, also when the agent is not `owner`'s (when given),
        and NotFoundError for a run that is not in `project` (when given) and `scope`."""

    def put_start_code(self, new: NewStartCode) -> Pending[int]:
        """Keeps the start code of a run that its agent holds, in place of one that was not exchanged, and returns when
        it ends. Raises LeaseLostError and NotFoundError as `accept_flow_run` does, and IllegalTransitionError once the
        run has begun."""

    def exchange_start_code(self, run_id: str, epoch: int, request_hash: bytes, token_hash: bytes) -> Pending[bytes]:
        """Replaces the hash of a run's token and returns what the agent sealed. The same request again changes nothing
        and returns it again, until the token is used. Raises PermissionDeniedError for another request, and
        LeaseLostError."""

    def release_flow_run(
        self, agent: str, run_id: str, epoch: int, failure: bytes, back_off_micros: int, delay: int = 0
    ) -> Pending[FlowRun]:
        """Gives back a run that was not launched: to the queue after `back_off_micros`, or Crashed when `failure` is
        not empty. With a pause or a `delay`, the number of a launch delay, it counts as put back until it starts.
        Raises LeaseLostError."""

    def heartbeat_agent(self, agent: str, held: Sequence[HeldRun], draining: bool) -> Pending[tuple[RunCommand, ...]]:
        """Notes that the agent lives, renews leases, and returns what to do with its runs."""

    def report_flow_run_exit(
        self, agent: str, run_id: str, epoch: int, failure: bytes, time_micros: int
    ) -> Pending[FlowRun]:
        """Takes the proof that an attempt's infrastructure is gone. An unfinished run becomes Crashed, or Cancelled
        when it was Cancelling. Idempotent under its epoch. Raises LeaseLostError for an older one."""

    def apply_event_batch(self, batch: EventBatch) -> Pending[EventAck]:
        """Stores events exactly once and in order, and renews the lease. Raises LeaseLostError, SequenceGapError."""

    def upcoming(self, limit: int = 1000) -> Pending[tuple[Upcoming, ...]]:
        """Returns, for each requirement with claimable runs, when its first run is or was due; soonest first."""

    # --- tokens -----------------------------------------------------------------------------------------------------

    def create_token(self, new: NewToken, request: RequestKey | None = None) -> Pending[Token]:
        """Issues a token. The same `request` again, before the token was used, replaces its secret's hash and returns
        the same token; after it was used it raises RequestIdReusedError."""

    def list_tokens(self, page_size: int, page_token: str, scope: Scope = None) -> Pending[Page[Token]]:
        """Lists tokens, newest first: those that reach no further than `scope`."""

    def revoke_token(self, token_id: str, scope: Scope = None) -> Pending[Token]:
        """Ends a token at once. Idempotent. Raises NotFoundError also for one that reaches further than `scope`."""

    def authenticate(self, token_id: str, secret_hash: bytes) -> Pending[Token | None]:
        """Returns the token when it is good now (known, hash equal, neither expired nor revoked), and notes its use."""

    def authenticate_run(self, run_id: str, epoch: int, secret_hash: bytes) -> Pending[RunPrincipal | None]:
        """Returns what a run token stands for, when it is good now. Its first use is noted."""

    def authenticate_start_code(
        self, run_id: str, epoch: int, secret_hash: bytes
    ) -> Pending[tuple[RunPrincipal, int] | None]:
        """Returns what a start code stands for, when it is good now, and when it ends."""

    # --- logs -------------------------------------------------------------------------------------------------------

    def write_log_lines(self, run_id: str, epoch: int, lines: Sequence[LogLine]) -> Pending[LogAck]:
        """Stores lines of one writer, by rising sequence; those that are stored already are left out."""

    def read_log_lines(
        self, run_id: str, cursor: str = "", limit: int = 1000, min_level: int = 0, after_micros: int = 0
    ) -> Pending[LogPage]:
        """Reads lines beyond `cursor`, in the order of their arrival. `after_micros`: only those stored later."""

    # --- loops ------------------------------------------------------------------------------------------------------

    def acquire_leadership(self, name: str, holder: str, ttl_micros: int) -> Pending[Leadership | None]:
        """Takes or renews the leadership of `name`; None when another holder has it. Decided by the store's clock."""

    def release_leadership(self, name: str, holder: str) -> Pending[None]:
        """Gives a leadership up at once."""

    def reap(self, limit: int = 500) -> Pending[Reaped]:
        """Does what is due by passed deadlines (`domain.deadlines`): offers back to the queue, lost runs Crashed."""

    def prune(self, limit: int = 1000) -> Pending[int]:
        """Deletes records of requests older than 24 hours and ended tokens' hashes of runs. Returns how many."""

    def mark_restored(self, hold_micros: int = start_up_grace()) -> Pending[str]:
        """Gives the store a new incarnation after its database was restored from a backup, and lifts all epochs above
        any that was given out before. Runs that wait in it are not given out for `hold_micros`: their agents say first
        what became of them. Other control planes over the database follow with their next commit. Returns the new
        incarnation."""
