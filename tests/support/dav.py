"""A real web server that takes PUT: nginx with its WebDAV module on loopback, open, for readers, or with a password."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import ends
from tests.support.stack import free_port

START_SECONDS = 60.0
USER, PASSWORD = "author", "dav-pass-74c0"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_CONFIG = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/files;
    location /open/ {{ dav_methods PUT DELETE MKCOL; create_full_put_path on; }}
    location /readers/ {{ alias {folder}/files/open/; }}
    location ~ ^/moved/(.*)$ {{ return 307 http://localhost:{port}/open/moved/$1; }}
    location /private/ {{
      auth_basic "bundles"; auth_basic_user_file {folder}/htpasswd;
      dav_methods PUT DELETE MKCOL; create_full_put_path on;
    }}
  }}
}}
"""


class DavServer:
    """One running server.

    Attributes:
        folder: Its files below `files`; `access.log` has every request.
        url: `http://127.0.0.1:port`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        import bcrypt

        for name in ("open", "private"):
            (self.folder / "files" / name).mkdir(parents=True)
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, prefix=b"2a")).decode()
        (self.folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        config = self.folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        config.write_text(_CONFIG.format(folder=self.folder, port=self.port, user=user))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["nginx", "-p", str(self.folder), "-c", str(config), "-e", f"{self.folder}/error.log"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": _PATH},
            )  # fmt: skip
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < limit, "the web server does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            ends.end(self._process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/nothing", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 404
        except OSError:
            return False


@pytest.fixture(scope="session")
def dav_server() -> Iterator[DavServer]:
    """A web server of this test process that takes PUT."""
    if shutil.which("nginx", path=_PATH) is None:
        pytest.fail("nginx is not installed: apt-get install nginx-light", pytrace=False)
    with tempfile.TemporaryDirectory(prefix="heliograph-dav-") as folder:
        server = DavServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
