"""The server: one `grpc.aio` server with all services, the store behind it, and the loops beside it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2

from heliograph.api.v1 import (
    admin_service_pb2_grpc,
    agent_service_pb2_grpc,
    flow_run_service_pb2_grpc,
    flow_service_pb2_grpc,
    log_service_pb2_grpc,
    project_service_pb2_grpc,
    run_reporting_service_pb2_grpc,
    schedule_service_pb2_grpc,
    task_run_service_pb2_grpc,
    token_service_pb2_grpc,
)
from heliograph.exceptions import ConfigurationError, HeliographError
from heliograph_control_plane.auth import Authenticator, store_verifier
from heliograph_control_plane.bootstrap import ensure_admin_token
from heliograph_control_plane.domain.runs import start_up_grace
from heliograph_control_plane.errors import describe_fault
from heliograph_control_plane.interceptors import Guard
from heliograph_control_plane.limits import MAX_CALLS, channel_options
from heliograph_control_plane.loops.pruner import Pruner
from heliograph_control_plane.loops.reaper import Reaper
from heliograph_control_plane.loops.runner import LoopRunner
from heliograph_control_plane.loops.scheduler import Scheduler
from heliograph_control_plane.metrics import Metrics
from heliograph_control_plane.services.admin import AdminService
from heliograph_control_plane.services.agents import AgentService
from heliograph_control_plane.services.backend import Backend
from heliograph_control_plane.services.flow_runs import FlowRunService
from heliograph_control_plane.services.flows import FlowService
from heliograph_control_plane.services.logs import LogService
from heliograph_control_plane.services.projects import ProjectService
from heliograph_control_plane.services.reporting import RunReportingService
from heliograph_control_plane.services.schedules import ScheduleService
from heliograph_control_plane.services.task_runs import TaskRunService
from heliograph_control_plane.services.tokens import TokenService
from heliograph_control_plane.standard_services import add_standard_services
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.records import Changes
from heliograph_control_plane.wakeups import Wakeups

DEFAULT_PORT = 4480
STOP_GRACE_SECONDS = 5.0
SWEEP_SECONDS = 1.0
HEALTH_SECONDS = 2.0
RESTART_SECONDS = 1.0

_log = structlog.get_logger("heliograph.server")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a control plane is run.

    Attributes:
        data_dir: Folder of the embedded store and of the first token.
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        database: `sqlite:///…` or `postgresql://…`; empty means the embedded store in `data_dir`.
        tls_cert: PEM file with the server's certificate chain; needs `tls_key`.
        tls_key: PEM file with its key.
        tls_client_ca: PEM file with the authorities whose certificates clients must show.
        insecure: Allows plaintext on an address other than loopback.
        start_up_grace_seconds: How long nothing is reaped after the start; None means the default.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    database: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure: bool = False
    start_up_grace_seconds: float | None = None

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database or f"sqlite:///{self.data_dir.absolute() / 'heliograph.db'}"


class ControlPlane:
    """A running control plane.

    Attributes:
        settings: How it is run.
        address: `host:port` that it listens on, once started.
        admin_token_file: Where the first token is, when its file is there.
        metrics: What it counted.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.address = ""
        self.admin_token_file: Path | None = None
        self.metrics = Metrics()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Opens the store, listens, and starts the loops.

        Raises:
            ConfigurationError: The address cannot be had, plaintext would leave this machine, or a TLS
                file is unreadable.
        """
        settings = self.settings
        credentials = _credentials(settings)
        _check_port(settings.host, settings.port)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store: Store = await asyncio.to_thread(open_store, settings.url)
        try:
            self.admin_token_file = await ensure_admin_token(self.store, settings.data_dir)
            self.authenticator = Authenticator(
                store_verifier(self.store), self.store.now, remember=self.store.kind == "sqlite"
            )
            self.wakeups = Wakeups(self.store)
            self.wakeups.observe(self._distrust)
            await self._listen(credentials)
        except BaseException:
            await asyncio.to_thread(self.store.close)
            raise
        grace = settings.start_up_grace_seconds
        grace_micros = start_up_grace() if grace is None else int(grace * 1e6)
        self.scheduler = Scheduler(self.store)
        self.wakeups.observe(self.scheduler.observe)
        loops = (self.scheduler, Reaper(self.store, self.store.now() + grace_micros), Pruner(self.store))
        self.loops = LoopRunner(self.store, loops)
        self._start_task("wakeups", self.wakeups.keep_time)
        self._start_task("loops", self.loops.run)
        self._start_task("sweep", self._sweep)
        self._start_task("health", self._watch_store)

    async def _listen(self, credentials: grpc.ServerCredentials | None) -> None:
        server = grpc.aio.server(
            interceptors=(Guard(self.authenticator, self.metrics),),
            options=channel_options(),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        names = add_services(server, Backend(self.store, self.wakeups, self.authenticator, self.metrics))
        self._health = add_standard_services(server, names)
        self._service_names = names
        await self._say_serving(health_pb2.HealthCheckResponse.SERVING)
        host = self.settings.host
        asked = f"[{host}]:{self.settings.port}" if ":" in host else f"{host}:{self.settings.port}"
        try:
            port = server.add_secure_port(asked, credentials) if credentials else server.add_insecure_port(asked)
        except RuntimeError:
            port = 0
        if not port:
            raise _not_free(asked)
        await server.start()
        self._server = server
        self.address = f"{asked.rpartition(':')[0]}:{port}"

    async def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Stops gracefully: says so, wakes those who wait, lets calls end, and commits what is queued."""
        await self._health.enter_graceful_shutdown()
        self.wakeups.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop(grace_seconds)
        await asyncio.to_thread(self.store.close)

    def _distrust(self, changes: Changes) -> None:
        if changes.tokens:
            self.authenticator.distrust()
        elif changes.runs:
            self.authenticator.distrust_runs(changes.runs)

    async def _sweep(self) -> None:
        """Does what comes every second: forgets tokens, and tells whoever asks for health that the disk failed."""
        said = False
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.authenticator.sweep()
            if self.store.failed and not said:
                said = True
                await self._say_serving(health_pb2.HealthCheckResponse.NOT_SERVING)
                _log.critical("not serving: the disk under the store failed; see to it, then restart the control plane")

    async def _say_serving(self, status: Any) -> None:
        for name in ("", *self._service_names):
            await self._health.set(name, status)

    async def _watch_store(self) -> None:
        """Says by the health service whether the store answers; while it does not, calls are refused one by one."""
        healthy = True
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            try:
                await self.store.ping()
                answers = True
            except HeliographError:
                answers = False
            if answers is healthy or self.store.failed:
                continue
            healthy = answers
            if healthy:
                await self._say_serving(health_pb2.HealthCheckResponse.SERVING)
                _log.info("the store answers again")
            else:
                await self._say_serving(health_pb2.HealthCheckResponse.NOT_SERVING)
                _log.error("the store does not answer: calls are refused until it does")

    def _start_task(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.append(asyncio.create_task(_keep_alive(name, work), name=name))


async def _keep_alive(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs what should never end; begins again after a fault, such as a store that cannot be reached."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # boundary: nobody waits for these tasks, so the fault is said here
            _log.error("background task failed", task=name, **describe_fault(error))
            await asyncio.sleep(RESTART_SECONDS)


def add_services(server: grpc.aio.Server, backend: Backend) -> list[str]:
    """Adds the services of the API to `server`; returns their names."""
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(backend), server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(AgentService(backend), server)
    flow_service_pb2_grpc.add_FlowServiceServicer_to_server(FlowService(backend), server)
    flow_run_service_pb2_grpc.add_FlowRunServiceServicer_to_server(FlowRunService(backend), server)
    log_service_pb2_grpc.add_LogServiceServicer_to_server(LogService(backend), server)
    project_service_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectService(backend), server)
    run_reporting_service_pb2_grpc.add_RunReportingServiceServicer_to_server(RunReportingService(backend), server)
    schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server(ScheduleService(backend), server)
    task_run_service_pb2_grpc.add_TaskRunServiceServicer_to_server(TaskRunService(backend), server)
    token_service_pb2_grpc.add_TokenServiceServicer_to_server(TokenService(backend), server)
    from heliograph.api import contract

    return [service.full_name for file in contract.files() for service in file.services_by_name.values()]


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None and settings.tls_key is None and settings.tls_client_ca is None:
        if not settings.insecure and not _is_loopback(settings.host):
            raise ConfigurationError(
                f"{settings.host} is not a loopback address, and tokens would travel in plaintext",
                hint="give --tls-cert and --tls-key, or --insecure behind a proxy that does TLS",
            )
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise ConfigurationError("TLS needs both --tls-cert and --tls-key")
    try:
        chain, key = settings.tls_cert.read_bytes(), settings.tls_key.read_bytes()
        authorities = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from None
    return grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=authorities, require_client_auth=authorities is not None
    )


def _check_port(host: str, port: int) -> None:
    """Refuses a port that is taken before the store is opened, and before gRPC prints a line of its own about it."""
    if not port:
        return
    with suppress(socket.gaierror):
        for family, kind, protocol, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(where)
                except OSError as error:
                    if error.errno in (errno.EADDRINUSE, errno.EACCES):
                        raise _not_free(f"{host}:{port}", error.strerror or "") from None


def _not_free(address: str, reason: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"cannot listen on {address}" + (f": {reason}" if reason else ""),
        hint="is another control plane, or `heliograph dev`, running there? `--port 0` chooses a free port",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
