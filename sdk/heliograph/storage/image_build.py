"""Builds, checks and pushes images through the Docker SDK: what the engine says in its streams is read to the end."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import StorageError
from heliograph.storage.registry_login import Login
from heliograph.utilities.docker_ssh import SshWay, is_ssh

if TYPE_CHECKING:
    import docker

__all__ = ["Context", "Engine"]

DOCKERFILE = ".heliograph-dockerfile"
_BUILD_SECONDS = 3600
_CHECK = """
import json, platform, sys
import heliograph_agents.container
from importlib.metadata import version
print(json.dumps([platform.python_version(), version("heliograph"), version("cloudpickle")]))
"""
"""What is executed in a built image: it tells versions, and fails where the first process of a run would."""


@dataclass(frozen=True)
class Context:
    """What an image is built from.

    Attributes:
        dockerfile: Its text.
        files: Content by path in the context, with whether it may be executed.
        folder: A folder whose files are in the context too, but for what its `.dockerignore` names; empty means none.
    """

    dockerfile: str
    files: Mapping[str, tuple[bytes, bool]] = field(default_factory=dict, repr=False)
    folder: str = ""

    @functools.cached_property
    def archive(self) -> bytes:
        """The context as the engine takes it: the same bytes for the same content."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, data, executable in self._entries():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o755 if executable else 0o644
                archive.addfile(entry, io.BytesIO(data))
        return stream.getvalue()

    @property
    def digest(self) -> str:
        """Hexadecimal digest of all of it."""
        return hashlib.sha256(self.archive).hexdigest()

    def _entries(self) -> Iterator[tuple[str, bytes, bool]]:
        yield DOCKERFILE, self.dockerfile.encode(), False
        for name, (data, executable) in sorted(self.files.items()):
            yield name, data, executable
        if not self.folder:
            return
        from docker.utils import exclude_paths

        root = Path(self.folder)
        ignore = root / ".dockerignore"
        patterns = ignore.read_text("utf-8").splitlines() if ignore.exists() else []
        patterns = [line.strip() for line in patterns if line.strip() and not line.startswith("#")]
        for name in sorted(exclude_paths(str(root), patterns)):
            path = root / name
            if path.is_file():
                yield Path(name).as_posix(), path.read_bytes(), bool(path.stat().st_mode & 0o100)


class Engine:
    """A Docker Engine that builds.

    Args:
        base_url: Its address; by default `DOCKER_HOST`, else this machine's.
        tls: What the SDK takes as `tls`.
    """

    def __init__(self, base_url: str | None = None, tls: Any = False) -> None:
        self._base_url, self._tls = base_url, tls

    @contextmanager
    def _client(self) -> Iterator[docker.DockerClient]:
        try:
            import docker
            import requests
        except ImportError:
            raise StorageError("Docker storage needs the Docker SDK", hint="pip install 'heliograph[docker]'") from None
        url = self._base_url or os.environ.get("DOCKER_HOST", "")
        way = SshWay(url) if is_ssh(url) else None
        try:
            if way is not None:
                client = docker.DockerClient(base_url=way.url, timeout=_BUILD_SECONDS)
            elif self._base_url:
                client = docker.DockerClient(base_url=self._base_url, tls=self._tls, timeout=_BUILD_SECONDS)
            else:
                client = docker.from_env(timeout=_BUILD_SECONDS)
            with closing(client):
                yield client
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            said = getattr(error, "explanation", None) or (way.words() if way is not None else "") or error
            raise StorageError(
                f"Docker fails: {said}",
                hint="Check that the engine runs, DOCKER_HOST or base_url, and that this user may use it.",
            ) from error
        finally:
            if way is not None:
                way.close()

    def build(self, context: Context, tag: str, *, pull: bool, options: Mapping[str, Any]) -> str:
        """Builds an image. Returns its id.

        Raises:
            StorageError: A step failed; the message has all that the engine said of it.
        """
        with self._client() as client:
            lines = client.api.build(
                fileobj=io.BytesIO(context.archive), custom_context=True, dockerfile=DOCKERFILE, tag=tag, pull=pull,
                rm=True, forcerm=True, decode=True, **options,
            )  # fmt: skip
            _read_build(lines)
            return str(client.images.get(tag).id)

    def check(self, image: str) -> tuple[str, str, str]:
        """Returns the versions of Python, Heliograph and cloudpickle in an image.

        Raises:
            StorageError: A run could not even begin in it.
        """
        with self._client() as client:
            container = client.containers.create(
                image, ["python", "-c", _CHECK], entrypoint=[], network_mode="none",
                environment={"PYTHONWARNINGS": "ignore"},
            )  # fmt: skip
            try:
                container.start()
                code = int(container.wait()["StatusCode"])
                said = container.logs(stdout=True, stderr=True).decode("utf-8", "replace").strip()
            finally:
                container.remove(force=True)
        try:
            found = json.loads(said.splitlines()[-1]) if not code else []
            python, heliograph, cloudpickle = (str(text) for text in found)
        except (ValueError, IndexError):
            raise StorageError(
                f"runs cannot begin in the image {image}: it ended with {code} and said:\n{said}",
                hint="The image needs `python` and Heliograph. Choose another base_image, or add the package.",
            ) from None
        return python, heliograph, cloudpickle

    def push(self, repository: str, tag: str, login: Login | None) -> str:
        """Pushes an image. Returns its digest in the registry.

        Raises:
            StorageError: The registry does not take it.
        """
        given: dict[str, str] = {}
        if login is not None:
            given = {"username": login.user, "password": login.password, "identitytoken": login.identity_token}
        digest = problem = ""
        with self._client() as client:
            lines = client.api.push(
                repository, tag, stream=True, decode=True,
                auth_config={name: text for name, text in given.items() if text} or None,
            )  # fmt: skip
            for line in lines:
                if "error" in line:
                    problem = str((line.get("errorDetail") or {}).get("message") or line["error"])
                digest = str((line.get("aux") or {}).get("Digest") or digest)
        if problem:
            raise StorageError(
                f"{repository}:{tag} cannot be pushed: {problem}",
                hint="The login needs the right to push: docker login, or the argument secret=….",
            )
        if not digest:
            raise StorageError(f"{repository}:{tag} was pushed, but the engine does not say its digest")
        return digest


def _read_build(lines: Iterable[Mapping[str, Any]]) -> None:
    """Reads what the engine says of a build. Of a step that fails, all of it is told."""
    step: list[str] = []
    problem = ""
    for line in lines:  # to the end: what is left unread keeps a connection open
        text = str(line.get("stream", ""))
        if text.startswith("Step "):
            step = []
        step.append(text)
        if "error" in line and not problem:
            said = str((line.get("errorDetail") or {}).get("message") or line["error"])
            problem = f"the image cannot be built:\n{''.join(step).strip()}\n{said}"
    if problem:
        raise StorageError(problem, hint="The lines above are what the engine said of the step that failed.")


def quoted(text: str) -> str:
    """Returns a text as a Dockerfile's ENV takes it.

    Raises:
        StorageError: It has more than one line.
    """
    if "\n" in text or "\0" in text:
        raise StorageError("a variable of an image has one line")
    for mark in ("\\", '"', "$"):
        text = text.replace(mark, f"\\{mark}")
    return f'"{text}"'


def copies(files: Mapping[str, str]) -> tuple[Sequence[str], dict[str, tuple[bytes, bool]]]:
    """Returns the lines of a Dockerfile that copy files or folders of this machine, and what of the context they copy.

    Raises:
        StorageError: One is not there, or its place in the image is not absolute.
    """
    lines: list[str] = []
    contents: dict[str, tuple[bytes, bool]] = {}
    for number, (source, target) in enumerate(sorted(files.items())):
        path = Path(source).expanduser()
        if not path.is_absolute() or not target.startswith("/"):
            raise StorageError(f"files: {source!r}: {target!r}: both paths are absolute")
        if not path.exists():
            raise StorageError(f"files: {source} is not there")
        name = f".heliograph-files/{number}"
        found = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        for one in found:
            inside = name if one == path else f"{name}/{one.relative_to(path).as_posix()}"
            contents[inside] = (one.read_bytes(), bool(one.stat().st_mode & 0o100))
        lines.append(f"COPY {json.dumps([name, target])}")
    return lines, contents
