"""A PostgreSQL that vanishes without a word: no call, and no end of a control plane, waits for it for long."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from heliograph_control_plane.store.database import Database

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such option")


def own_end(peer: tuple[str, int]) -> socket.socket:
    """Returns this process's socket at that address."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue  # no socket, or gone
        try:
            if found.family == socket.AF_INET and found.getsockname() == peer:
                return found
        except OSError:
            pass
        found.close()
    raise AssertionError(f"no socket at {peer}")


@pytest.mark.parametrize("which", ["main", "reading"])
def test_the_kernel_is_told_how_long_a_silent_server_is_waited_for(which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        database = Database(f"postgresql://anybody@127.0.0.1:{server.getsockname()[1]}/any?sslmode=disable")
        engine: Engine = getattr(database, which)

        def ask() -> None:
            with pytest.raises(DBAPIError):
                engine.connect()

        asking = threading.Thread(target=ask)
        asking.start()
        connection, client = server.accept()
        with connection, own_end(client) as mine:
            unanswered = mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            alive = mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle, between, probes = (
                mine.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
        asking.join(60)
        assert not asking.is_alive()
        database.dispose()
    assert 0 < unanswered <= 30_000
    assert alive
    assert idle + between * probes <= 30
