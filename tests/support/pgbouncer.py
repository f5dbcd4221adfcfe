"""PgBouncer in transaction mode before the private PostgreSQL cluster: Debian's binary, a socket of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.support.postgres import PostgresCluster
from tests.support.stack import wait_until

BINARY = "/usr/sbin/pgbouncer"
_NOBODY = 65534
_PORT = 6432
SESSIONS = 6
"""Of PostgreSQL, for all that connect to one database."""
_SETTINGS = """
[databases]
* = host={cluster}
[pgbouncer]
pool_mode = transaction
listen_addr =
unix_socket_dir = {folder}
unix_socket_mode = 0777
listen_port = {port}
auth_type = trust
auth_file = {folder}/users
default_pool_size = {sessions}
max_client_conn = 500
logfile = {folder}/log
pidfile = {folder}/pid
server_reset_query =
"""


class PgBouncer:
    """A running pooler: a server session is anybody's as soon as a transaction ends."""

    def __init__(self, cluster: PostgresCluster, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._cluster, self._folder, self._process = cluster, folder, process

    def url(self, direct: str) -> str:
        """Returns the store's URL through the pooler, made from the one that goes straight to PostgreSQL."""
        assert str(self._cluster.folder) in direct
        return f"{direct.replace(str(self._cluster.folder), str(self._folder))}&port={_PORT}"

    def serves(self) -> bool:
        """True once it takes connections."""
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            psycopg.connect(self.url(self._cluster.url("postgres")), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def pgbouncer(cluster: PostgresCluster) -> Iterator[PgBouncer]:
    """Runs a pooler. Its absence is a failure, never a skip."""
    if not Path(BINARY).exists():
        pytest.fail("PgBouncer is not installed: apt-get install pgbouncer", pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="heliograph-pgb-", dir="/tmp"))  # sockets want a short path
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").write_text(
        _SETTINGS.format(cluster=cluster.folder, folder=folder, port=_PORT, sessions=SESSIONS)
    )
    (folder / "users").write_text('"postgres" ""\n')
    command = [BINARY, str(folder / "pgbouncer.ini")]
    if os.getuid() == 0:  # it refuses to run as root
        for path in (folder, *folder.iterdir()):
            os.chown(path, _NOBODY, _NOBODY)
        command = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pooler = PgBouncer(cluster, folder, process)
        wait_until(pooler.serves, "PgBouncer serves")
        yield pooler
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
