"""Storing and fetching: the cache holds what was registered, whoever touches storage or cache."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import ends

from heliograph.config import set_temporary_config
from heliograph.exceptions import BundleChangedError, InvalidArgumentError, StorageError
from heliograph.storage import S3, BundleRef, LaunchSettings, Local, from_reference
from heliograph.storage.bundle import build_bundle
from heliograph.storage.cache import manifest_of, prune

Project = Callable[..., tuple[Path, Any]]


@pytest.fixture
def stored(project: Project, tmp_path: Path) -> tuple[Local, BundleRef]:
    _, flow = project({"data/a.txt": "1", "run.sh": "#!/bin/sh"})
    storage = Local(tmp_path / "storage")
    return storage, storage.put_bundle(build_bundle(flow), LaunchSettings(env={"A": "1"}, labels=("x",)))


def _objects(storage: Local) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in storage.directory.rglob("*") if path.is_file()}


def test_what_is_fetched_is_what_was_stored(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    folder = from_reference(ref.storage, ref.location, host=ref.host).fetch(ref, tmp_path / "cache")
    assert (folder / "data" / "a.txt").read_text() == "1"
    assert manifest_of(folder).digest == ref.digest
    assert folder.name == ref.digest.removeprefix("sha256:")
    launch = storage.fetch_launch(ref)
    assert (launch.env, launch.labels) == ({"A": "1"}, ("x",))
    assert "A" not in repr(launch).replace("Launch", "")


def test_the_same_content_is_stored_once(stored: tuple[Local, BundleRef], project: Project) -> None:
    storage, ref = stored
    before = _objects(storage)
    _, flow = project({"data/a.txt": "1"})
    first = storage.put_bundle(build_bundle(flow))
    again = storage.put_bundle(build_bundle(flow))
    assert first == again
    after = _objects(storage)
    assert before.items() <= after.items()
    assert ref.digest != first.digest


def test_launch_digests_cannot_be_guessed_and_are_stable(tmp_path: Path, project: Project) -> None:
    _, flow = project()
    bundle = build_bundle(flow)
    settings = LaunchSettings(env={"PIN": "1234"})
    one, two = Local(tmp_path / "one"), Local(tmp_path / "two")
    ref = one.put_bundle(bundle, settings)
    assert one.put_bundle(bundle, settings) == ref
    assert two.put_bundle(bundle, settings).launch_digest != ref.launch_digest
    assert ref.launch_digest != settings.digest


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX's")
def test_files_in_storage_are_for_their_owner(stored: tuple[Local, BundleRef]) -> None:
    storage, _ = stored
    for path in storage.directory.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0


def test_the_host_is_part_of_the_reference_and_of_the_message(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    import socket

    _, ref = stored
    assert ref.host == socket.gethostname()
    assert Local(tmp_path, host="").host == ""
    elsewhere = from_reference("local", str(tmp_path / "empty"), host="other-host")
    with pytest.raises(StorageError, match="is not there") as caught:
        elsewhere.fetch(ref, tmp_path / "cache")
    assert "other-host" in caught.value.hint


def _manifest_path(storage: Local, ref: BundleRef) -> Path:
    value = ref.digest.removeprefix("sha256:")
    return storage.directory / "bundles" / "sha256" / value[:2] / value / "manifest.json"


def _rewrite(storage: Local, ref: BundleRef, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]) -> None:
    path = _manifest_path(storage, ref).with_name("bundle.tar")
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    change(members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in members:
            if member.isreg():
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())


def _add(name: str, type: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[list[Any]], None]:
    def change(members: list[Any]) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = type, target
        members.insert(0, (member, b""))

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.__setitem__(0, (members[0][0], b"x" * len(members[0][1]))),
        lambda members: members.__setitem__(0, (members[0][0], members[0][1] + b"x")),
        lambda members: members.pop(),
        lambda members: members.append(members[0]),
        _add("extra.py"),
        _add("../outside"),
        _add("/tmp/outside"),
        _add("link", tarfile.SYMTYPE, "/etc/passwd"),
        _add("data/a.txt", tarfile.LNKTYPE, "run.sh"),
        _add("data", tarfile.SYMTYPE, "/tmp"),
        _add("device", tarfile.CHRTYPE),
    ],
    ids=[
        "bytes",
        "longer",
        "missing",
        "twice",
        "extra",
        "up",
        "absolute",
        "symlink",
        "hardlink",
        "folder-link",
        "device",
    ],
)
def test_a_changed_archive_is_refused_and_nothing_is_left(
    stored: tuple[Local, BundleRef], tmp_path: Path, change: Callable[[list[Any]], Any]
) -> None:
    storage, ref = stored
    _rewrite(storage, ref, change)
    with pytest.raises(BundleChangedError) as caught:
        storage.fetch(ref, tmp_path / "cache")
    assert "Register the flow again" in caught.value.hint
    assert not [path for path in (tmp_path / "cache" / "bundles").iterdir() if path.is_dir()]
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x1f\x8b" + b"x" * 600, b"\0" * 10240])
def test_a_damaged_archive_is_refused(stored: tuple[Local, BundleRef], tmp_path: Path, data: bytes) -> None:
    storage, ref = stored
    _manifest_path(storage, ref).with_name("bundle.tar").write_bytes(data)
    with pytest.raises(BundleChangedError):
        storage.fetch(ref, tmp_path / "cache")


def test_a_changed_manifest_or_launch_file_is_refused(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    path = _manifest_path(storage, ref)
    path.write_bytes(path.read_bytes().replace(b'"etl"', b'"evil"'))
    with pytest.raises(BundleChangedError):
        storage.fetch(ref, tmp_path / "cache")
    launch = storage.directory / "launch" / "sha256" / f"{ref.launch_digest.removeprefix('sha256:')}.json"
    launch.write_bytes(launch.read_bytes().replace(b'"1"', b'"2"'))
    with pytest.raises(BundleChangedError, match="launch settings"):
        storage.fetch_launch(ref)


def test_registering_again_repairs_the_storage(project: Project, tmp_path: Path) -> None:
    _, flow = project({"a.txt": "1"})
    storage = Local(tmp_path / "storage")
    bundle = build_bundle(flow)
    ref = storage.put_bundle(bundle)
    for damage in (b"", b"{}", b"other"):
        for path in (_manifest_path(storage, ref), _manifest_path(storage, ref).with_name("bundle.tar")):
            path.write_bytes(damage)
            assert storage.put_bundle(bundle) == ref
            cache = tmp_path / f"cache-{len(damage)}-{path.name}"
            assert (storage.fetch(ref, cache) / "a.txt").read_text() == "1"


def test_what_a_killed_extraction_left_goes_away(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    rest = tmp_path / "cache" / "bundles" / ".abc.part"
    rest.mkdir(parents=True)
    os.utime(rest, (1, 1))
    storage.fetch(ref, tmp_path / "cache")
    assert not rest.exists()


@pytest.mark.parametrize("how", ["change", "add", "remove", "link"])
def test_a_changed_cache_is_replaced_by_a_sound_copy(stored: tuple[Local, BundleRef], tmp_path: Path, how: str) -> None:
    storage, ref = stored
    folder = storage.fetch(ref, tmp_path / "cache")
    file = folder / "data" / "a.txt"
    for path in (folder, file.parent):
        path.chmod(0o700)
    if how == "change":
        file.chmod(0o600)
        file.write_text("evil")
    elif how == "add":
        (folder / "json.py").write_text("evil")
    elif how == "remove":
        file.unlink()
    else:
        file.unlink()
        file.symlink_to(__file__)
    assert storage.fetch(ref, tmp_path / "cache") == folder
    assert file.read_text() == "1"
    assert not (folder / "json.py").exists()
    assert not file.is_symlink()


def test_a_cached_bundle_needs_no_storage(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    folder = storage.fetch(ref, tmp_path / "cache")
    assert from_reference("local", str(tmp_path / "gone")).fetch(ref, tmp_path / "cache") == folder


def test_many_processes_extract_once(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    code = (
        "import sys; from heliograph.storage import *; ref = BundleRef('local', sys.argv[1], sys.argv[2], '');"
        "print(from_reference('local', sys.argv[1]).fetch(ref, sys.argv[3]))"
    )
    arguments = [sys.executable, "-c", code, str(storage.directory), ref.digest, str(tmp_path / "cache")]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(folders) == 1
    assert all(process.returncode == 0 for process in processes)


def test_threads_share_the_cache(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    found: list[Path] = []
    ends.together([lambda: found.append(storage.fetch(ref, tmp_path / "cache"))] * 4)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_limit_of_size_holds_on_this_side_too(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    with (
        set_temporary_config({"storage.hard_limit_bytes": 10}),
        pytest.raises(StorageError, match="the limit here is 10"),
    ):
        storage.fetch(ref, tmp_path / "cache")


def test_the_cache_lets_go_of_what_is_old(stored: tuple[Local, BundleRef], tmp_path: Path, project: Project) -> None:
    storage, ref = stored
    cache = tmp_path / "cache"
    old = storage.fetch(ref, cache)
    os.utime(old.with_name(f"{old.name}.lock"), (1, 1))
    _, flow = project({"b.txt": "2"})
    with set_temporary_config({"storage.cache_limit_bytes": 1}):
        new = storage.fetch(storage.put_bundle(build_bundle(flow)), cache)
        assert (old.exists(), new.exists()) == (False, True)
        assert prune(cache) == [], "what was used today stays"


def test_digests_that_are_paths_are_refused(stored: tuple[Local, BundleRef], tmp_path: Path) -> None:
    storage, ref = stored
    for digest in ("sha256:../../x", "md5:" + "0" * 64, "", "sha256:" + "0" * 63 + "/"):
        with pytest.raises(InvalidArgumentError):
            storage.fetch(replace(ref, digest=digest), tmp_path / "cache")
        with pytest.raises(InvalidArgumentError):
            storage.fetch_launch(replace(ref, launch_digest=digest))


def test_references_name_their_storage() -> None:
    s3 = from_reference("s3", "s3://bucket/a/b")
    assert isinstance(s3, S3)
    assert (s3.bucket, s3.prefix, s3.location) == ("bucket", "a/b", "s3://bucket/a/b")
    for kind, location in (("git", "x"), ("s3", "bucket/x"), ("s3", "s3://"), ("s3", "https://a/b")):
        with pytest.raises((StorageError, InvalidArgumentError)):
            from_reference(kind, location)
    with pytest.raises(InvalidArgumentError):
        S3("user:password@host")
