"""What the doubles of servers with an API share: real bare repositories, tokens, faults by script, and a record of
everything that was asked."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.git_http import GitRepository, git

TOKEN = "hg-test-token-51d0c7e94b"


@dataclass
class Asked:
    """One request: which of the servers, path with query, headers by name in small letters, and what was sent."""

    server: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Told:
    """One answer. `template` is the path as the API's documents write it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    template: str = ""
    cut: int = 0
    """Bytes that are promised and never sent."""

    @classmethod
    def of(cls, status: int, document: Any, **headers: str) -> Told:
        """Returns an answer in JSON."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(document).encode(), {"content-type": "application/json; charset=utf-8", **named})


@dataclass
class Fault:
    """What is answered instead, to the next requests whose path has `part`."""

    part: str
    told: Told
    times: int = 1


class HostRepository(GitRepository):
    """A repository of a double.

    Attributes:
        name: Its full name now.
        number: What never changes of it.
        private: Whether only tokens see it.
        archived: Whether it takes nothing new.
        former: Names that redirect to it.
    """

    def __init__(self, bare: Path, clone: Path, url: str, name: str, number: int, *, private: bool) -> None:
        super().__init__(bare, clone, url)
        self.name, self.number, self.private = name, number, private
        self.archived = False
        self.former: set[str] = set()

    def ask(self, *arguments: str) -> str:
        """Runs git in the bare repository; empty when it says no."""
        done = subprocess.run(["git", "-C", str(self.bare), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def read(self, *arguments: str) -> bytes:
        """Runs git in the bare repository and returns its bytes."""
        return subprocess.run(["git", "-C", str(self.bare), *arguments], capture_output=True, check=True).stdout

    def commit_of(self, name: str) -> str:
        """Returns the commit of a name; empty when there is none."""
        return self.ask("rev-parse", "--verify", "-q", f"{name}^{{commit}}")

    def tree(self, name: str, *options: str) -> list[tuple[str, str, str, str, str]]:
        """Returns mode, type, name, size and path of what a tree has."""
        found = []
        for line in self.read("ls-tree", "-z", "-l", *options, name).decode().split("\0")[:-1]:
            meta, _, path = line.partition("\t")
            mode, kind, oid, size = meta.split()
            found.append((mode, kind, oid, size, path))
        return found

    def archive(self, commit: str, top: str, *paths: str) -> bytes:
        """Returns what `git archive` makes, compressed."""
        prefix = [f"--prefix={top}/"] if top else []
        return gzip.compress(self.read("archive", "--format=tar", *prefix, commit, "--", *paths), mtime=0)

    def forget(self, branch: str = "main") -> None:
        """Rewrites the branch and deletes every commit that it had before, as a server does that tidies up."""
        git(self.clone, "checkout", "-q", "--orphan", "rewritten")
        # Other content: the same files, text and second would make the very same commit.
        (self.clone / "rewritten").touch()
        git(self.clone, "add", "rewritten")
        self.commit()
        git(self.clone, "push", "-q", "-f", "origin", f"rewritten:{branch}")
        git(self.clone, "push", "-q", "origin", ":rewritten")
        self.tidy()

    def tidy(self) -> None:
        """Deletes every commit that no branch or tag has."""
        self.read("reflog", "expire", "--expire=now", "--all")
        self.read("repack", "-q", "-a", "-d")
        self.read("prune", "--expire=now")


class HostDouble:
    """An API over bare repositories, on loopback: one server for the API, another one for files.

    Attributes:
        folder: The repositories and their clones.
        asked: Every request, of all servers.
        faults: What is answered instead.
        tokens: Tokens, and which repositories each may see; None means all.
        change: What becomes of an archive before it is sent.
        pages: What servers of somebody else's answer, by path.
        violations: Where an answer was not what the API's documents say.
    """

    kind = ""
    closes = True
    """Whether a connection has one request only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.tokens: dict[str, set[str] | None] = {TOKEN: None}
        self.change: Callable[[bytes], bytes] | None = None
        self.violations: list[str] = []
        self.pages: dict[str, Told] = {}
        self.repositories: dict[str, HostRepository] = {}
        self._lock = threading.Lock()
        self._servers: dict[str, ThreadingHTTPServer] = {}

    # --- by subclasses -----------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Told:
        """Returns the API's answer."""
        raise NotImplementedError

    def file(self, asked: Asked) -> Told:
        """Returns the file server's answer."""
        del asked
        return Told(404)

    def site(self) -> str:
        """Returns the address of the pages."""
        return f"http://{self.address()}"

    def page(self, name: str) -> str:
        """Returns the address of a repository's page."""
        return f"{self.site()}/{name}"

    def named(self, path: str, headers: Mapping[str, str]) -> str:
        """Returns what a request is called in records and faults: its path."""
        del headers
        return path

    # --- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the servers."""
        self.serve("api", self._answered)
        self.serve("files", self.file)

    def serve(self, name: str, answer: Callable[[Asked], Told]) -> str:
        """Starts one more server; returns its address."""
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {key.lower(): text for key, text in self.headers.items()}
                asked = Asked(name, double.named(self.path, headers), headers, body)
                with double._lock:
                    double.asked.append(asked)
                told = answer(asked)
                self.send_response(told.status)
                for key, text in told.headers.items():
                    self.send_header(key, text)
                if told.body or told.status != 304:
                    self.send_header("Content-Length", str(len(told.body) + told.cut))
                if double.closes:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(told.body)
                self.close_connection = double.closes or bool(told.cut)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self._servers[name] = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self.address(name)

    def stop(self) -> None:
        """Ends them."""
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def address(self, name: str = "api") -> str:
        """Returns `127.0.0.1:port`."""
        return f"127.0.0.1:{self._servers[name].server_address[1]}"

    def asked_of(self, name: str = "api") -> list[str]:
        """Returns the paths that a server was asked for."""
        return [one.path for one in self.asked if one.server == name]

    def _answered(self, asked: Asked) -> Told:
        with self._lock:
            fault = next((one for one in self.faults if one.times and one.part in asked.path), None)
            if fault is not None:
                fault.times -= 1
                return fault.told
        return self.answer(asked)

    # --- repositories ------------------------------------------------------------------------------------------------

    def repository(self, name: str, *, private: bool = False) -> HostRepository:
        """Makes an empty repository with a clone beside it."""
        bare = self.folder / "bare" / f"{name}.git"
        bare.mkdir(parents=True)
        git(bare, "init", "-q", "--bare")
        for setting in ("receive.autogc=false", "gc.auto=0", "maintenance.auto=false"):  # tests say when it is tidied
            git(bare, "config", *setting.split("="))
        clone = self.folder / "clones" / name
        clone.parent.mkdir(parents=True, exist_ok=True)
        git(self.folder, "clone", "-q", str(bare), str(clone))
        made = HostRepository(bare, clone, self.page(name), name, 1000 + len(self.repositories), private=private)
        self.repositories[name] = made
        return made

    def rename(self, repository: HostRepository, name: str) -> None:
        """Gives a repository another name; the old one redirects."""
        del self.repositories[repository.name]
        repository.former.add(repository.name)
        repository.name = name
        self.repositories[name] = repository

    def sees(self, token: str | None, repository: HostRepository) -> bool:
        """True when whoever asks may see the repository."""
        if not repository.private:
            return True
        if token not in self.tokens:
            return False
        allowed = self.tokens[token]
        return allowed is None or repository.name in allowed

    def packed(self, repository: HostRepository, commit: str, top: str, *paths: str) -> bytes:
        """Returns the archive that is sent."""
        data = repository.archive(commit, top, *paths)
        return self.change(data) if self.change is not None else data


def token_of(headers: Mapping[str, str]) -> str | None:
    """Returns the token of a request; None when there is none."""
    found = headers.get("authorization", "")
    return re.sub(r"(?i)^(bearer|token) ", "", found) or headers.get("private-token") or None


def parts_of(path: str) -> tuple[str, dict[str, str]]:
    """Returns a path and its query."""
    split = urllib.parse.urlsplit(path)
    return split.path, dict(urllib.parse.parse_qsl(split.query))


@contextmanager
def running(double: type[HostDouble]) -> Iterator[HostDouble]:
    """Runs a double; what it said wrongly fails whoever used it."""
    folder = Path(tempfile.mkdtemp(prefix="heliograph-host-"))
    made = double(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
    assert not made.violations, made.violations
