"""The Docker Engine as the launcher uses it: the SDK's low-level client, typed, with two kinds of errors.

All methods block. Both errors are `OSError`: the agent looks again later at what it could not see.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import docker
import docker.errors
import docker.tls
import docker.transport
import docker.utils
import requests.exceptions
import urllib3.exceptions

from heliograph.exceptions import InvalidArgumentError
from heliograph.utilities.docker_ssh import SshWay, is_ssh

T = TypeVar("T")

REMOVE_SECONDS = 30.0
"""How long a removal that somebody else began is waited for."""

POOL = 32
"""Connections that are kept: as many as threads use the client at once."""


class _Api(docker.APIClient):
    """The SDK's client. The engine's own authority goes before the one of a variable like `REQUESTS_CA_BUNDLE`."""

    def merge_environment_settings(self, *arguments: Any, **options: Any) -> Any:
        """Settles what one request is made with."""
        settings: Any = super().merge_environment_settings(*arguments, **options)
        if isinstance(self.verify, str):
            settings["verify"] = self.verify
        return settings


class _OnePool(docker.transport.UnixHTTPAdapter):
    """Connections for all questions: the SDK's own keeps some for each question."""

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 (the engine is the same for all)
        """Returns the pool."""
        return super().get_connection("http+docker://engine", proxies)


class _SshApi(_Api):
    """The SDK's client where each connection is a login."""

    def mount(self, prefix: Any, adapter: Any) -> None:
        """Takes who makes connections."""
        if isinstance(adapter, docker.transport.UnixHTTPAdapter):
            adapter = _OnePool(adapter.socket_path, adapter.timeout, max_pool_size=adapter.max_pool_size)
        super().mount(prefix, adapter)


class EngineAwayError(OSError):
    """The engine does not answer: nothing is known of its containers."""


class EngineRefusedError(OSError):
    """The engine answers, and will not.

    Args:
        status: Its HTTP status.
        message: What it says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def missing(self) -> bool:
        """True when what it was asked about is not there."""
        return self.status == 404


class Engine:
    """One engine. Threads may share it.

    Args:
        base_url: Where it is; empty means `DOCKER_HOST`, then the context of the Docker command, then the usual socket.
        timeout_seconds: Longest wait for one answer.
    """

    def __init__(self, base_url: str, timeout_seconds: float) -> None:
        self._base_url, self._timeout = base_url, timeout_seconds
        self._api: docker.APIClient | None = None
        self._way: SshWay | None = None

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return self._base_url or os.environ.get("DOCKER_HOST", "") or "this host's socket"

    def version(self) -> str:
        """Returns the engine's version."""
        return str(self._ask(lambda api: api.version())["Version"])

    def close(self) -> None:
        """Closes its connections."""
        api, self._api = self._api, None
        if api is not None:
            api.close()
        way, self._way = self._way, None
        if way is not None:
            way.close()

    # --- images ------------------------------------------------------------------------------------------------------

    def image(self, name: str) -> dict[str, Any] | None:
        """Returns what the engine knows of an image; None when it has none of that name."""
        return self._find(lambda api: _mapping(api.inspect_image(name)))  # type: ignore[no-untyped-call]

    def pull(self, repository: str, tag: str, platform: str, login: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Pulls, and yields what the engine tells on the way; errors are lines as well."""
        with _speaking():
            # A client of its own: layers may take longer than any answer should, and each line is an answer.
            api = self._client()
            yield from api.pull(
                repository, tag=tag, stream=True, decode=True, auth_config=dict(login), platform=platform or None
            )

    # --- containers ----------------------------------------------------------------------------------------------

    def create(self, body: Mapping[str, Any], name: str, platform: str) -> str:
        """Creates a container. Returns its id."""
        made = self._ask(lambda api: _mapping(api.create_container_from_config(dict(body), name, platform or None)))  # type: ignore[no-untyped-call]
        return str(made["Id"])

    def start(self, name: str) -> None:
        """Starts a container."""
        self._ask(lambda api: api.start(name))

    def join(self, name: str, network: str) -> None:
        """Joins a container to one more network."""
        self._ask(lambda api: api.connect_container_to_network(name, network))

    def container(self, name: str) -> dict[str, Any] | None:
        """Returns what the engine knows of a container; None when there is none."""
        return self._find(lambda api: api.inspect_container(name))

    def containers(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Returns all containers with these labels, those that have ended too."""
        wanted = {"label": [f"{key}={value}" for key, value in labels.items()]}
        return list(self._ask(lambda api: api.containers(all=True, filters=wanted)))

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to the first process; nothing when it does not run."""
        with _unless_gone(404, 409):
            self._ask(lambda api: api.kill(name, number))

    def remove(self, name: str, *, force: bool) -> bool:
        """Removes a container with its unnamed volumes. Returns False when it runs, and `force` is false."""
        try:
            with _unless_gone(404):
                self._ask(lambda api: api.remove_container(name, v=True, force=force))
        except EngineRefusedError as error:
            if error.status != 409:
                raise
            if not force:
                return self.container(name) is None
            # Somebody else removes it just now: it is gone when that is done.
            limit = time.monotonic() + REMOVE_SECONDS
            while self.container(name) is not None:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)
        return True

    def put(self, name: str, folder: str, archive: bytes) -> None:
        """Unpacks a tar archive into a folder of a container."""
        self._ask(lambda api: api.put_archive(name, folder, archive))

    def get(self, name: str, path: str) -> Iterator[bytes] | None:
        """Returns a file or folder of a container as a tar archive, in pieces; None when it is not there."""

        def ask(api: docker.APIClient) -> Iterator[bytes]:
            stream, _ = api.get_archive(name, path)
            return iter(stream)

        return self._find(ask)

    def has(self, name: str, path: str) -> bool:
        """True when a container has that small file."""
        pieces = self.get(name, path)
        for _ in reading(pieces or iter(())):
            pass  # read to its end, the connection can be used again
        return pieces is not None

    def tail(self, name: str, lines: int) -> str:
        """Returns the last lines that a container has printed; empty when its log driver shows none."""
        with _unless_gone(404, 409, 500, 501):
            told = self._ask(lambda api: api.logs(name, tail=lines))
            return bytes(told).decode("utf-8", "replace")
        return ""

    def follow(self, name: str) -> Iterator[bytes]:
        """Yields what a container prints, until it ends."""
        with _speaking():
            yield from self._client().logs(name, stream=True, follow=True)

    def events(self, labels: Mapping[str, str]) -> Any:
        """Returns a stream of the ends of containers with these labels; its `close` ends it."""
        wanted = {"type": "container", "event": ["die", "destroy"], "label": [f"{k}={v}" for k, v in labels.items()]}
        return self._ask(lambda api: api.events(filters=wanted, decode=True))

    # --- volumes -----------------------------------------------------------------------------------------------------

    def make_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Makes a volume; one that is there stays."""
        self._ask(lambda api: api.create_volume(name, labels=dict(labels)))

    def remove_volume(self, name: str) -> None:
        """Removes a volume, if it is there and unused."""
        with _unless_gone(404, 409):
            self._ask(lambda api: api.remove_volume(name))

    def volumes(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Returns the volumes with these labels."""
        wanted = {"label": [f"{key}={value}" for key, value in labels.items()]}
        return list(self._ask(lambda api: api.volumes(filters=wanted)).get("Volumes") or [])

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[docker.APIClient], T]) -> T:
        try:
            with _speaking():
                return question(self._client())
        except EngineAwayError as error:
            if self._way is not None and (words := self._way.words()):
                raise EngineAwayError(f"no way to it by ssh: {words}") from error
            raise

    def _find(self, question: Callable[[docker.APIClient], T]) -> T | None:
        try:
            return self._ask(question)
        except EngineRefusedError as error:
            # Podman says 500 where there is no image.
            if error.missing or "no such" in str(error).lower():
                return None
            raise

    def _client(self) -> docker.APIClient:
        if self._api is None:
            url, tls = self._base_url, None
            if not url:
                found = docker.utils.kwargs_from_env()
                url, tls = found.get("base_url", ""), found.get("tls") or None
            if not url:
                url, tls = _context()
            if is_ssh(url):
                try:
                    self._way = self._way or SshWay(url)
                except InvalidArgumentError as error:
                    raise EngineAwayError(str(error)) from error
                url, tls = self._way.url, None
            self._api = (_SshApi if self._way is not None else _Api)(
                base_url=url or None, tls=tls or False, version="auto", timeout=int(self._timeout),
                num_pools=POOL, max_pool_size=POOL, use_ssh_client=True,
            )  # fmt: skip
        return self._api


def archive_reader(pieces: Iterator[bytes], most_bytes: int) -> io.BytesIO:
    """Returns an archive in memory.

    Raises:
        ValueError: It is larger than `most_bytes`.
    """
    stream = io.BytesIO()
    with _speaking():
        for piece in pieces:
            stream.write(piece)
            if stream.tell() > most_bytes:
                raise ValueError(f"more than {most_bytes:,} bytes")
    stream.seek(0)
    return stream


def reading(pieces: Iterator[T]) -> Iterator[T]:
    """Yields what a stream brings; an engine that goes away on the way is `EngineAwayError`."""
    with _speaking():
        yield from pieces


def _mapping(answer: Any) -> dict[str, Any]:
    """Types an answer."""
    return dict(answer)


def _context() -> tuple[str, Any]:
    """Returns address and TLS of the Docker command's current context; empty for the usual socket."""
    from docker.context import ContextAPI

    try:
        context: Any = ContextAPI.get_current_context()
    except (docker.errors.DockerException, OSError, ValueError):
        return "", None
    if context is None or context.name == "default":
        return "", None
    return str(context.Host or ""), context.TLSConfig


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """Translates what the SDK and what is below it raise."""
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineRefusedError(error.status_code or 0, str(error.explanation or error)) from error
    except docker.errors.DockerException as error:
        raise EngineAwayError(str(error)) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, (EngineAwayError, EngineRefusedError)):
            raise
        raise EngineAwayError(f"Docker does not answer: {error}") from error


@contextlib.contextmanager
def _unless_gone(*statuses: int) -> Iterator[None]:
    """Passes over refusals with one of these statuses."""
    try:
        yield
    except EngineRefusedError as error:
        if error.status not in statuses:
            raise
