"""A real Git server for tests: nginx and git-http-backend on loopback, with a password or open."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support import ends
from tests.support.stack import free_port

START_SECONDS = 60.0
USER, PASSWORD = "reader", "git-pass-6d1f"
_IDENTITY = ("-c", "user.email=a@example.org", "-c", "user.name=a", "-c", "init.defaultBranch=main")
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
    location /open/ {{ {backend} }}
    location /moved/ {{ return 302 http://127.0.0.1:{port}/open/; }}
    location /private/ {{ auth_basic "git"; auth_basic_user_file {folder}/htpasswd; {backend} }}
  }}
}}
"""
_BACKEND = """
fastcgi_pass unix:{folder}/fcgi.sock;
fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
fastcgi_param GIT_PROJECT_ROOT {folder}/repositories;
fastcgi_param GIT_HTTP_EXPORT_ALL 1;
fastcgi_param PATH_INFO $uri;
fastcgi_param QUERY_STRING $query_string;
fastcgi_param REQUEST_METHOD $request_method;
fastcgi_param CONTENT_TYPE $content_type;
fastcgi_param CONTENT_LENGTH $content_length;
fastcgi_param REMOTE_USER $remote_user;
fastcgi_param REMOTE_ADDR $remote_addr;
fastcgi_param GIT_PROTOCOL $http_git_protocol;
"""


def git(folder: Path, *arguments: str) -> str:
    """Runs git in a folder and returns what it prints."""
    done = subprocess.run(
        ["git", "-C", str(folder), *_IDENTITY, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


class GitServer:
    """One running server.

    Attributes:
        folder: Its files; `access.log` has every request.
        address: `127.0.0.1:port`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts it and waits until it answers."""
        import bcrypt

        (self.folder / "repositories").mkdir()
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, prefix=b"2a")).decode()
        (self.folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        config = self.folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                folder=self.folder,
                port=self.port,
                backend=_BACKEND.format(folder=self.folder),
                user="user root;" if os.getuid() == 0 else "",
            )
        )
        environment = {**os.environ, "PATH": _PATH, "HOME": str(self.folder)}
        (self.folder / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
        for command in (
            ["fcgiwrap", "-s", f"unix:{self.folder}/fcgi.sock"],
            ["nginx", "-p", str(self.folder), "-c", str(config), "-e", f"{self.folder}/error.log"],
        ):
            with (self.folder / "log").open("ab") as log:
                self._processes.append(
                    subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
                )
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            assert all(process.poll() is None for process in self._processes), (self.folder / "log").read_text()
            assert time.monotonic() < limit, "the Git server does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it."""
        for process in reversed(self._processes):
            ends.end(process)

    def repository(self, name: str, *, private: bool = False) -> GitRepository:
        """Makes an empty repository with a clone beside it."""
        kind = "private" if private else "open"
        bare = self.folder / "repositories" / kind / f"{name}.git"
        bare.mkdir(parents=True)
        git(bare, "init", "-q", "--bare")
        clone = self.folder / "clones" / name
        clone.parent.mkdir(exist_ok=True)
        git(self.folder, "clone", "-q", str(bare), str(clone))
        return GitRepository(bare, clone, f"http://{self.address}/{kind}/{name}.git")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/nothing", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 404
        except OSError:
            return False


class GitRepository:
    """A bare repository, a clone of it on this machine, and its address."""

    def __init__(self, bare: Path, clone: Path, url: str) -> None:
        self.bare = bare
        self.clone = clone
        self.url = url

    def write(self, files: Mapping[str, str]) -> None:
        """Writes files into the clone."""
        for name, text in files.items():
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            (self.clone / name).write_text(text)

    def commit(self, files: Mapping[str, str] | None = None) -> str:
        """Commits everything, pushes it, and returns the commit."""
        self.write(files or {})
        git(self.clone, "add", "-A")
        git(self.clone, "commit", "-q", "--allow-empty", "-m", "x")
        git(self.clone, "push", "-q", "origin", "HEAD")
        return git(self.clone, "rev-parse", "HEAD")


@contextmanager
def running_git_server() -> Iterator[GitServer]:
    """Runs a server."""
    missing = [name for name in ("git", "nginx", "fcgiwrap") if shutil.which(name, path=_PATH) is None]
    if missing:
        pytest.fail(f"not installed: {', '.join(missing)}; apt-get install git nginx-light fcgiwrap", pytrace=False)
    with tempfile.TemporaryDirectory(prefix="heliograph-git-") as folder:
        server = GitServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def git_server() -> Iterator[GitServer]:
    """A Git server with open and private repositories."""
    with running_git_server() as running:
        yield running
