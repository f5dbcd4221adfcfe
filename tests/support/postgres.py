"""A private PostgreSQL cluster for tests: Debian's binaries, a temporary folder, a Unix socket, nobody else's.

The first test that asks for it makes it; it ends with the test process. Its absence is a failure, never a skip.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from functools import lru_cache
from pathlib import Path

import psycopg
import pytest

from heliograph_control_plane.store import migrate_store
from heliograph_control_plane.store.schema import log_metadata, metadata

_NOBODY = 65534
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0777
fsync = off
full_page_writes = off
max_connections = 100
shared_buffers = 32MB
log_min_messages = warning
"""


# TRUNCATE of all tables makes new files for each: deleting is quicker where there are few rows.
_TABLES = [table.name for part in (metadata, log_metadata) for table in reversed(part.sorted_tables)]
_EMPTY = f"""
DO $$ DECLARE found text; BEGIN
SET LOCAL lock_timeout = '5s';
FOREACH found IN ARRAY ARRAY{[name for name in _TABLES if name != "meta"]!r} LOOP
    EXECUTE format('DELETE FROM %I', found);
END LOOP;
FOR found IN SELECT format('ALTER SEQUENCE %I RESTART', relname) FROM pg_class WHERE relkind = 'S' LOOP
    EXECUTE found;
END LOOP;
UPDATE meta SET value = '0' WHERE key = 'epoch_base';
END $$
"""


class PostgresCluster:
    """One running cluster.

    Args:
        binaries: Folder of its programs.
        settings: Lines of `postgresql.conf` that win over the tests' usual ones.
    """

    def __init__(self, binaries: Path, settings: str = "") -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-pg-", dir="/tmp"))  # sockets want a short path
        self.folder.chmod(0o755)
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            os.chown(self.folder, _NOBODY, _NOBODY)
        self._data = self.folder / "data"
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "-E", "UTF8",
                  "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as config:
            config.write(_SETTINGS.format(folder=self.folder) + settings)
        self._template: str | None = None
        self._clean: str | None = None
        self.start()

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", "30", "-l", str(self.folder / "log"), "start")

    def kill(self) -> None:
        """Kills the server and all its processes at once, as a crash of the host would."""
        pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGSTOP)  # it starts no more processes, which would not be among those that are killed
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        killed = [pid, *map(int, children)]
        for one in killed:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue
        limit = time.monotonic() + 60
        while left := [one for one in killed if _is_alive(one)]:
            if time.monotonic() > limit:
                raise RuntimeError(f"killed, and still there: {left}")
            time.sleep(0.005)
        # Where nobody reaps orphans, the dead server's id still counts as taken.
        for lock in (self._data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Returns the store's URL of a database."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def empty_database(self) -> str:
        """Makes a database without tables and returns its URL."""
        return self.url(self._create("template1"))

    def store_database(self) -> str:
        """Makes a database with the newest schema and returns its URL. Every one has the same incarnation."""
        if self._template is None:
            name = self._create("template1")
            migrate_store(self.url(name))
            self._template = name
        return self.url(self._create(self._template))

    def clean_database(self) -> str:
        """Returns the URL of a database with the newest schema and no rows: one for all tests, emptied for each."""
        if self._clean is None:
            self._clean = self._create("template1")
            migrate_store(self.url(self._clean))
        else:
            with psycopg.connect(self.url(self._clean), autocommit=True) as connection:
                connection.execute(_EMPTY)
        return self.url(self._clean)

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement."""
        self._run("psql", "-h", str(self.folder), "-U", "postgres", "-d", database, "-qc", statement)

    def _create(self, template: str) -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        self.sql(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return name

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = [str(self._binaries / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *command]
        done = (
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", check=False, timeout=60
            )
            if program != "pg_ctl"
            else subprocess.run(
                # The server inherits its starter's streams: a pipe would never end.
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd="/",
                check=False,
                timeout=60,
            )
        )
        if check and done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr or (self.folder / 'log').read_text()}")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def find_binaries() -> Path | None:
    """Returns the folder of the newest PostgreSQL server installed from Debian's packages."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@lru_cache(maxsize=1)
def shared_cluster() -> PostgresCluster:
    """Returns the cluster of this test process; fails when PostgreSQL is not installed."""
    binaries = find_binaries()
    if binaries is None:
        pytest.fail("PostgreSQL's server is not installed: apt-get install postgresql", pytrace=False)
    cluster = PostgresCluster(binaries)
    atexit.register(cluster.stop)
    return cluster


@pytest.fixture(scope="session")
def postgres() -> PostgresCluster:
    """The private cluster."""
    return shared_cluster()
