"""The folder of one attempt on the agent's host: what the agent, the supervisor and the flow process share.

    <home>/agents/<agent>/runs/<run id>.<epoch>/     0700
        launch.json        the attempt, written before anything starts
        token              the run token, 0600
        lock               locked by supervisor and flow process while either lives
        supervisor.json    pid, start time and boot id of the supervisor and the flow process
        contact            there once the control plane has answered the supervisor
        outbox/            events and log lines that are not acknowledged yet
        output.log         standard output and error of the flow process, capped
        supervisor.log     what the supervisor has to say of itself
        exit.json          how it ended; absent when the supervisor died
        forgotten          there once the end is reported

Files are written under a temporary name and renamed, so a reader never sees half of one. They are not synced, which
would cost each launch its time: a host that loses its power may leave them empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from heliograph.engine.codes import StateCode
from heliograph_agents.control_groups import Limits
from heliograph_agents.launcher import BundleSpec, RunSpec

FORMAT = 1
"""Of what agents and supervisors tell each other in this folder. They may be of two environments: it must be equal."""

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How this agent runs flows: the same for all of its runs.

    Attributes:
        address: `host:port` of the control plane.
        tls: Keyword arguments of `open_channel` for TLS: `tls_ca`, `tls_cert`, `tls_key`, `insecure`.
        agent: Name of the agent.
        home: Heliograph's home folder.
        cache: Folder of fetched bundles, shared by all runs of this host's agents.
        env: Environment variables added to the flow process.
        import_paths: Folders put on the flow process's `sys.path`.
        work_dir: Working folder of flows that name none; empty means the agent's own.
        show_output: True to repeat the flow's output on the agent's.
        failure_text: `local`, `redacted` or `full`: what of a failure's text may cross.
        log_mode: `redacted`, `local` or `full`: what of a log line may cross.
        grace_seconds: How long a cancelled flow has to end, before SIGTERM; after half as long again, SIGKILL.
        container: True where the supervisor is the first process of a container: SIGTERM then means that the
            infrastructure takes the run's place away, not that somebody cancelled it.
    """

    address: str
    agent: str
    home: str
    cache: str
    tls: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    import_paths: tuple[str, ...] = ()
    work_dir: str = ""
    show_output: bool = False
    failure_text: str = "local"
    log_mode: str = "redacted"
    grace_seconds: float = 10.0
    container: bool = False

    @property
    def end_seconds(self) -> float:
        """How long whoever ends a run from outside waits for its supervisor, which ends it and ships the rest."""
        return 2 * self.grace_seconds + 5.0


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """`launch.json`: all that the supervisor needs besides the token."""

    spec: RunSpec
    settings: RunSettings
    incarnation: str
    renew_every_seconds: float
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """`supervisor.json`: which processes the attempt has. The start times guard against reused pids."""

    boot_id: str
    supervisor_pid: int
    supervisor_start: int
    flow_pid: int = 0
    flow_start: int = 0


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """`exit.json`: how the attempt ended.

    Attributes:
        exit_code: Exit code of the flow process, when it exited.
        signal: Signal that killed it, when one did.
        state: Number of the flow's final state.
        reason: Number of the failure reason when the supervisor had to end the story; 0 when the flow did.
        hint: A sentence for people.
        unshipped: True when events are left that the control plane has not acknowledged.
        lease_lost: True when the attempt stopped itself because its lease belongs to another.
        died: True when whoever wrote this found the attempt dead, and it had not said so itself.
        time_micros: When it ended.
    """

    exit_code: int | None = None
    signal: int | None = None
    state: int = int(StateCode.CRASHED)
    reason: int = 0
    hint: str = ""
    unshipped: bool = False
    lease_lost: bool = False
    died: bool = False
    time_micros: int = 0


class RunDirectory:
    """One attempt's folder. Cheap: it holds a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outbox = path / "outbox"
        self.token_file = path / "token"
        self.output_file = path / "output.log"
        self.words = (path / "supervisor.log", self.output_file)

    @classmethod
    def create(cls, runs: Path, record: LaunchRecord, run_token: str) -> RunDirectory | None:
        """Makes the folder below `runs`. Returns None when there is one for this run and epoch already.

        Raises:
            OSError: The disk is full or unwritable; nothing is left.
        """
        path = runs / name_of(record.spec.run_id, record.spec.epoch)
        if path.exists():
            return None
        # Made under another name: an agent that dies here leaves no half-made attempt to be adopted.
        making = runs / f".{path.name}.{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=_DIRECTORY_MODE)
        try:
            (making / "outbox").mkdir(mode=_DIRECTORY_MODE)
            _write(making / "token", run_token)
            _write(making / "launch.json", launch_record_text(record))
            making.rename(path)
        except OSError:
            shutil.rmtree(making, ignore_errors=True)
            if path.exists():
                return None
            raise
        return cls(path)

    @property
    def identity(self) -> tuple[str, int]:
        """Run id and epoch, from the folder's name."""
        run_id, _, epoch = self.path.name.rpartition(".")
        return run_id, int(epoch)

    def launch_record(self) -> LaunchRecord:
        """Reads `launch.json`.

        Raises:
            OSError, ValueError: It is not there, or not one.
        """
        return parse_launch_record((self.path / "launch.json").read_text())

    def run_token(self) -> str:
        """Reads the run token."""
        return self.token_file.read_text()

    def replace_token(self, run_token: str) -> None:
        """Writes another run token in place of the one that is there."""
        _replace(self.token_file, run_token)

    def write_processes(self, record: ProcessRecord) -> None:
        """Writes `supervisor.json`."""
        _replace(self.path / "supervisor.json", json.dumps(asdict(record)))

    def processes(self) -> ProcessRecord | None:
        """Reads `supervisor.json`; None while there is none. One that a loss of power left torn is of another boot."""
        try:
            data = _read(self.path / "supervisor.json")
            return ProcessRecord(**_known(ProcessRecord, data)) if data else None
        except (ValueError, TypeError):
            return ProcessRecord("", 0, 0)

    def write_exit(self, record: ExitRecord) -> None:
        """Writes `exit.json`."""
        _replace(self.path / "exit.json", exit_record_text(record))

    def exit(self) -> ExitRecord | None:
        """Reads `exit.json`; None while there is none, or where a loss of power left it torn."""
        try:
            data = _read(self.path / "exit.json")
            return ExitRecord(**_known(ExitRecord, data)) if data else None
        except ValueError:
            return None

    def touch(self, name: str) -> None:
        """Makes an empty marker file."""
        (self.path / name).touch(mode=_FILE_MODE)

    def has(self, name: str) -> bool:
        """True when the marker file is there."""
        return (self.path / name).exists()

    def supervisor_failed(self) -> bool:
        """True when the supervisor wrote down that something went wrong, which one that is killed does not."""
        try:
            return (self.path / "supervisor.log").stat().st_size > 0
        except FileNotFoundError:
            return False

    def lock(self) -> int | None:
        """Takes the attempt's lock and returns its descriptor; None when a process of the attempt has it.

        The lock goes with the descriptor to forked processes: it is free only when all of them are gone.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def forget(self) -> None:
        """Marks the end as reported, and removes what nobody needs any more: the token first."""
        self.token_file.unlink(missing_ok=True)
        self.touch("forgotten")
        shutil.rmtree(self.outbox, ignore_errors=True)

    def size(self) -> int:
        """Returns the bytes of its files."""
        found = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(OSError):  # it goes at this moment
                    found += (Path(folder) / name).lstat().st_size
        return found

    def remove(self) -> None:
        """Removes the folder: in one step, so that a late supervisor finds either all of it or nothing."""
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)


def launch_record_text(record: LaunchRecord) -> str:
    """Returns the text of `launch.json`."""
    return json.dumps(asdict(record))


def parse_launch_record(text: str) -> LaunchRecord:
    """Reads `launch.json`.

    Raises:
        ValueError, KeyError, TypeError: It is not one.
    """
    data = json.loads(text)
    spec, settings = data.pop("spec"), data.pop("settings")
    spec["bundle"] = BundleSpec(**_known(BundleSpec, spec["bundle"]))
    spec["labels"] = tuple(spec["labels"])
    data["limits"] = Limits(**_known(Limits, data.get("limits", {})))
    settings["import_paths"] = tuple(settings["import_paths"])
    return LaunchRecord(
        spec=RunSpec(**_known(RunSpec, spec)),
        settings=RunSettings(**_known(RunSettings, settings)),
        **_known(LaunchRecord, data),
    )


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields that this version knows: a newer one of the same format adds what may be passed over."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def exit_record_text(record: ExitRecord) -> str:
    """Returns the text of `exit.json`."""
    return json.dumps(asdict(record))


def parse_exit_record(text: str) -> ExitRecord:
    """Reads `exit.json`, wherever it comes from.

    Raises:
        ValueError, TypeError: It is not one.
    """
    return ExitRecord(**json.loads(text))


def name_of(run_id: str, epoch: int) -> str:
    """Returns the folder name of an attempt."""
    return f"{run_id}.{epoch}"


def run_directories(runs: Path) -> list[RunDirectory]:
    """Returns the attempts that have a folder below `runs`, forgotten ones included."""
    found = []
    for entry in os.scandir(runs):
        run_id, _, epoch = entry.name.rpartition(".")
        if run_id and not run_id.startswith(".") and epoch.isdecimal() and entry.is_dir():
            found.append(RunDirectory(Path(entry.path)))
    return found


def remove_torn(runs: Path) -> None:
    """Removes what an agent left that died while it made or removed a folder. Only while no agent of the name runs."""
    for entry in os.scandir(runs):
        if entry.name.startswith("."):
            shutil.rmtree(entry.path, ignore_errors=True)


def remove_old(runs: Path, *, keep_failed: int, keep_seconds: float, keep_bytes: int) -> None:
    """Removes forgotten attempts: good ones at once, of failed ones all but the newest, and all old ones.

    Args:
        runs: Where they are.
        keep_failed: How many failed ones are kept.
        keep_seconds: How long any is kept.
        keep_bytes: How large those that are kept may be together.
    """
    horizon = time.time() - keep_seconds
    failed: list[tuple[float, RunDirectory]] = []
    for directory in run_directories(runs):
        if not directory.has("forgotten"):
            continue
        ended = (directory.path / "forgotten").stat().st_mtime
        record = directory.exit()
        if ended < horizon or (record is not None and not StateCode(record.state).is_failed):
            directory.remove()
        else:
            failed.append((ended, directory))
    failed.sort(key=lambda item: item[0], reverse=True)
    size = 0
    for number, (_, directory) in enumerate(failed):
        size += directory.size()
        if number >= keep_failed or size > keep_bytes:
            directory.remove()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with open(descriptor, "w") as file:  # noqa: PTH123 (the descriptor carries the mode)
        file.write(text)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    _write(temporary, text)
    temporary.rename(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return data if isinstance(data, dict) else None
