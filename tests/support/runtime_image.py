"""The image in which tests run flows: this interpreter, what Heliograph needs, and this checkout. Nothing is pulled.

The base (interpreter and distributions) is an archive in `.cache`, keyed by what is in it; the checkout is the last
layer. Use the fixture `runtime_image`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import docker
import pytest
from packaging.requirements import Requirement
from tests.support.docker_engine import DockerEngine

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "images"
NAME = "heliograph-runtime"
EXTRAS = ("aws", "demo")
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "__pycache__", "site-packages"}
_FORMAT = "4"


def distributions(extras: Iterable[str] = EXTRAS) -> list[importlib.metadata.Distribution]:
    """Returns what Heliograph with these extras needs, as it is installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}

    def add(name: str, wanted: frozenset[str]) -> None:
        distribution = importlib.metadata.distribution(name)
        for text in distribution.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                continue
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if key not in found:
                found[key] = importlib.metadata.distribution(requirement.name)
                add(requirement.name, frozenset(requirement.extras))

    add("heliograph", frozenset(extras))
    found.pop("heliograph", None)
    return [found[name] for name in sorted(found)]


@functools.lru_cache(maxsize=1)
def base_archive() -> Path:
    """Returns the root file system's archive, made if it is not there."""
    names = [f"{one.metadata['Name']}=={one.version}" for one in distributions()]
    key = hashlib.sha256(json.dumps([_FORMAT, sys.version, names]).encode()).hexdigest()[:16]
    archive = CACHE / f"base-{key}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            root = Path(folder) / "root"
            _make_root(root)
            made = Path(folder) / "base.tar"
            subprocess.run(
                ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C", str(root), "-cf", str(made), "."],
                check=True,
            )
            made.rename(archive)
    return archive


def _make_root(root: Path) -> None:
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = root / "opt" / "py"
    (python / "bin").mkdir(parents=True)
    shutil.copy(base / "bin" / version, python / "bin" / "python3")
    (python / "bin" / "python").symlink_to("python3")
    library = python / "lib" / version
    shutil.copytree(base / "lib" / version, library, ignore=_ignore, symlinks=True)
    # Where the loader looks by itself: the interpreter knows its library by a path of this host.
    system = root / "lib" / "x86_64-linux-gnu"
    system.mkdir(parents=True)
    for shared in (base / "lib").glob("libpython*.so.*"):
        shutil.copy(shared, system / shared.name)
    site = library / "site-packages"
    site.mkdir()
    for distribution in distributions():
        _copy_distribution(distribution, site)
    libraries = {
        str(Path(f"/lib/x86_64-linux-gnu/lib{name}.so.{number}"))
        for name, number in (("nss_files", 2), ("nss_dns", 2), ("resolv", 2), ("rt", 1), ("dl", 2), ("util", 1),
                             ("pthread", 0), ("gcc_s", 1))
    } | {"/usr/lib/x86_64-linux-gnu/libstdc++.so.6"}  # fmt: skip
    for binary in (python / "bin" / "python3", *python.rglob("*.so*")):
        told = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
        libraries.update(re.findall(r"(/\S+)", told))
    for name in sorted(libraries):
        source = Path(name)
        if not source.exists() or str(root) in name or str(base) in name:
            continue
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(source.resolve(), target)
    loader = root / "lib64" / "ld-linux-x86-64.so.2"
    loader.parent.mkdir(exist_ok=True)
    if not loader.exists():
        shutil.copy(Path("/lib64/ld-linux-x86-64.so.2").resolve(), loader)
    _make_system(root)
    subprocess.run(
        # By hash: the archive's files are all of the same time, by which no byte code would be theirs.
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/",
         str(library)],
        check=False, capture_output=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )  # fmt: skip


def _make_system(root: Path) -> None:
    """Adds a shell, users, name resolution and authorities."""
    binaries = root / "bin"
    binaries.mkdir(exist_ok=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", binaries / "busybox")
    for name in ("sh", "cat", "ls", "sleep", "true", "false", "id", "env", "mkdir", "rm", "ps", "kill"):
        (binaries / name).symlink_to("busybox")
    etc = root / "etc"
    (etc / "ssl" / "certs").mkdir(parents=True)
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\nflow:x:10001:10001::/home/flow:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\nflow:x:10001:\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        shutil.copy(bundle, etc / "ssl" / "certs" / "ca-certificates.crt")
    for folder in ("tmp", "root", "home/flow", "work"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "work").chmod(0o777)


def _ignore(folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if name in _LEFT_OUT or name.endswith((".a", ".pyc")) or name.startswith(("config-", "_tkinter"))
    }


def _copy_distribution(distribution: importlib.metadata.Distribution, site: Path) -> None:
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if file.parts[0] == ".." or "tests" in file.parts or file.suffix == ".pyc" or not source.is_file():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _context() -> io.BytesIO:
    """Returns the build context: this checkout's packages, with byte code made in the image."""
    dockerfile = (
        f"FROM {NAME}-base\n"
        "COPY . /opt/py/lib/python{0}.{1}/site-packages/\n"
        'RUN ["/opt/py/bin/python", "-m", "compileall", "-q", "/opt/py/lib/python{0}.{1}/site-packages/heliograph",'
        ' "/opt/py/lib/python{0}.{1}/site-packages/heliograph_agents"]\n'
        "WORKDIR /work\n"
    ).format(*sys.version_info[:2])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile.encode()))
        ignore = tarfile.TarInfo(".dockerignore")
        ignore.size = len(b"Dockerfile\n")
        tar.addfile(ignore, io.BytesIO(b"Dockerfile\n"))
        for source, name in (
            (ROOT / "sdk" / "heliograph", "heliograph"),
            (ROOT / "agents" / "heliograph_agents", "heliograph_agents"),
        ):
            tar.add(source, name, filter=lambda one: None if "__pycache__" in one.name else one)
        information = Path(str(importlib.metadata.distribution("heliograph").locate_file("")))
        for folder in information.glob("heliograph-*.dist-info"):
            tar.add(folder, folder.name)
    stream.seek(0)
    return stream


def build_runtime_image(client: docker.DockerClient, tag: str = f"{NAME}:test") -> str:
    """Imports the base and builds the image of this checkout in an engine. Returns its tag."""
    try:
        client.images.get(f"{NAME}-base:latest")
    except docker.errors.ImageNotFound:
        client.api.import_image_from_file(
            str(base_archive()),
            repository=f"{NAME}-base",
            tag="latest",
            changes=["ENV PATH=/opt/py/bin:/bin", "ENV PYTHONUNBUFFERED=1"],
        )
    client.images.build(fileobj=_context(), custom_context=True, tag=tag, rm=True, pull=False)
    return tag


@pytest.fixture(scope="session")
def runtime_image(docker_engine: DockerEngine) -> str:
    """The tag of the image of this checkout, in the engine of this test process."""
    client = docker_engine.client(timeout=300)
    try:
        return build_runtime_image(client)
    finally:
        client.close()
