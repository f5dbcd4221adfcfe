"""The ground on which storages are tested: a real place of each kind, what the author has, and what an agent does.

A kind joins the suite with one file, `<kind>_ground.py`: a subclass of `Ground`, or of `HoldingGround` when it keeps
bundles' bytes itself, named by `GROUND`; session fixtures that it needs stand in its `__all__`.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from heliograph.core.flow import Flow
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.run_configs import UniversalRun
from heliograph.storage import BundleFormat, BundleRef, Storage, from_reference, launch_settings
from heliograph.storage.cache import manifest_of
from heliograph.storage.load import load_flow, load_flows
from heliograph_agents.bundles import prepare
from heliograph_agents.gate import Gate
from heliograph_agents.launcher import BundleSpec, LaunchError, RunSpec
from heliograph_agents.policy import Policy
from heliograph_agents.run_directory import LaunchRecord, RunSettings

__all__ = ["Damage", "Ground", "HoldingGround", "Refusal", "moved"]

FLOW = """
from heliograph import Flow, task
from {helper} import WORD

@task
def say():
    return WORD

with Flow({name!r}) as flow:
    say()
"""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that happens to what was registered.

    Attributes:
        name: For messages.
        do: Does it.
        error: What an agent must say of it.
        undo: Makes it as it was.
    """

    name: str
    do: Callable[[], None]
    error: type[StorageError]
    undo: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A situation in which the place cannot be used.

    Attributes:
        name: For messages.
        there: The situation, entered.
        says: What the message must name: a regular expression.
        hints: What the hint must name.
        storage: The storage to register with; the ground's own when None.
        reference: The reference to fetch, from the one of a sound registration; the same when None.
        registers, fetches: What is refused.
    """

    name: str
    there: Callable[[], AbstractContextManager[None]]
    says: str
    hints: str
    storage: Callable[[], Storage] | None = None
    reference: Callable[[BundleRef], BundleRef] | None = None
    registers: bool = True
    fetches: bool = True


class Ground(ABC):
    """One kind of storage.

    Args:
        folder: Folder of this test.
        request: For fixtures that the kind needs, asked for when it is tested.

    Attributes:
        kind: Name of the kind.
        holds: True when the storage keeps bundles' bytes; False when its content is there before a registration.
        has_values: True when launch settings with values can be registered without more.
        one_maker: True when of many who write an object at the same time one succeeds; False where the place has no
            conditional writes: then authors of its first registrations may differ in their salt, and later ones agree.
        repairs: True when a registration replaces what was damaged; False where the place keeps what it once took, by
            its digest: then a registration makes a sound reference or says what is damaged.
        secrets: Texts that must be told to nobody.
    """

    kind: ClassVar[str]
    holds: ClassVar[bool] = False
    has_values: ClassVar[bool] = False
    one_maker: ClassVar[bool] = True
    repairs: ClassVar[bool] = True

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self.request = request
        self.secrets: tuple[str, ...] = ()
        self._names = 0

    # --- of each kind -------------------------------------------------------------------------------------------------

    def open(self) -> None:  # noqa: B027 (not each kind has something to make)
        """Makes the place, in an environment in which author and agent reach it."""

    def close(self) -> None:  # noqa: B027
        """Takes it away."""

    @abstractmethod
    def storage(self) -> Storage:
        """Returns the storage as an author writes it, a new object of the same place each time."""

    def write(self, files: Mapping[str, str]) -> Path:
        """Has files where the author registers from, committed where that is the kind's way. Returns the folder."""
        folder = self.folder / f"project-{uuid.uuid4().hex[:8]}"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode())
        (folder / "heliograph.toml").touch()
        return folder

    @abstractmethod
    def snapshot(self) -> Mapping[str, object]:
        """Returns what is in the place, by name, with something that differs when it is written again."""

    @abstractmethod
    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields what may happen to a registered bundle."""

    @abstractmethod
    def vanish(self) -> None:
        """Takes all content of the place away."""

    def salt(self) -> str:
        """Returns the salt that stands in the place."""
        raise NotImplementedError

    def make_salt(self, text: str) -> bool:
        """Does what an author does who found no salt; True when the author takes that text for the salt."""
        raise NotImplementedError

    def stored(self, digest: str) -> BundleRef:
        """Returns the reference to a bundle, as far as it can be known without the author's last word."""
        storage = self.storage()
        return BundleRef(self.kind, storage.location, digest, "sha256:" + "0" * 64, host=storage.host)

    def refusals(self) -> Iterator[Refusal]:
        """Yields situations in which the place cannot be used."""
        return iter(())

    def outside(self, location: str) -> Iterator[str]:
        """Yields locations that must not be taken for one at or below `location`, nor for another spelling of it."""
        yield from (f"{location}/../other", f"{location}/..", f"{location}/./../other", f"{location}-other")
        yield from (f"{location}/%2e%2e/other", f"{location}/%2E%2E/other", f"{location}%2f..%2fother")
        yield from (f"{location}/..\\other", f"{location}/\x00", f"{location}\n", f" {location}")
        yield from (f"{location}?x", f"{location}#x/y", f"{location}-x#/y")
        if location != location.upper():
            yield location.upper()

    def port(self) -> int:
        """Returns the port at which the kind's server speaks HTTP; 0 where there is none."""
        return 0

    def via(self, port: int) -> AbstractContextManager[None]:
        """Has everybody reach the server through another port of this machine."""
        raise NotImplementedError

    def named(self, location: str) -> str:
        """Returns what an agent's owner writes into a policy to allow the place: the location without a commit."""
        return location if self.holds else location.partition("#")[0]

    # --- the author ---------------------------------------------------------------------------------------------------

    def flow(self, word: str = "one", *, files: Mapping[str, str] | None = None, name: str = "say") -> Flow:
        """Writes a flow that says a word of a helper module, and loads it from there."""
        self._names += 1
        helper, main = f"helper_{uuid.uuid4().hex[:8]}", f"flow_{uuid.uuid4().hex[:8]}.py"
        texts = {f"{helper}.py": f"WORD = {word!r}\n", main: FLOW.format(helper=helper, name=name)}
        folder = self.write({**texts, **(files or {})})
        (flow,) = load_flows(folder / main)
        assert isinstance(flow, Flow)
        return flow

    def register(
        self, flow: Flow, storage: Storage | None = None, *, env: Mapping[str, str] | None = None
    ) -> BundleRef:
        """Does what `flow.register()` does with storage."""
        kept = storage if storage is not None else self.storage()
        if env:
            flow.run_config = UniversalRun(env=env)
        return kept.put_bundle(kept.make_bundle(flow), launch_settings(flow, kept))

    # --- the agent ----------------------------------------------------------------------------------------------------

    def reader(self, ref: BundleRef) -> Storage:
        """Returns the storage as an agent makes it."""
        return from_reference(ref.storage, ref.location, host=ref.host)

    def check(
        self, ref: BundleRef, flow: Flow | str = "say", *, policy: Policy | None = None, cache: str = "cache"
    ) -> Path:
        """Does what an agent and its supervisor do before any user code runs. Returns the folder of the bundle.

        Raises:
            StorageError: It is refused where the bundle is fetched.
            LaunchError: It is refused at the gate.
        """
        name = flow if isinstance(flow, str) else flow.name
        spec = _spec(ref, name)
        gate = Gate(self.folder / cache, needs_settings=False, policy=policy)
        asyncio.run(gate.admit(spec))
        return prepare(LaunchRecord(spec, self._settings(cache), "i", 5.0)).bundle

    def run(self, ref: BundleRef, *, cache: str = "cache") -> Any:
        """Checks, loads and runs a flow of `flow()`, without anything that the registration imported."""
        folder = self.check(ref, cache=cache)
        for module in [module for module in sys.modules if module.startswith(("helper_", "flow_"))]:
            del sys.modules[module]
        flow = load_flow(folder, manifest_of(folder))
        state = flow.run()
        return state.result[next(iter(flow.tasks))].result

    def refused(self, ref: BundleRef, *, cache: str) -> StorageError:
        """Has an agent refuse a bundle, and looks that nothing of it is left in the cache. Returns the error."""
        with pytest.raises(StorageError) as caught:
            self.check(ref, cache=cache)
        left = [path for path in (self.folder / cache / "bundles").glob("*") if path.is_dir()]
        assert not left, f"left in the cache: {left}"
        return caught.value

    def admits(self, ref: BundleRef, storages: tuple[str, ...]) -> bool:
        """True when the policy of an agent whose owner allows only these storages lets it through."""
        gate = Gate(self.folder / "gate", needs_settings=False, policy=Policy(storages=storages))
        try:
            asyncio.run(gate.admit(_spec(ref, "say")))
        except LaunchError:
            return False
        return True

    def _settings(self, cache: str) -> RunSettings:
        return RunSettings(
            address="127.0.0.1:1", agent="a", home=str(self.folder / "home"), cache=str(self.folder / cache)
        )


class HoldingGround(Ground):
    """A kind that keeps the objects of `heliograph.storage.base`, by key."""

    holds = True
    has_values = True
    one_maker: ClassVar[bool] = True
    """False where the place has no conditional writes: of writers at the same moment the last one stays."""

    @abstractmethod
    def objects(self) -> dict[str, bytes]:
        """Returns all objects, by key below the place."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Writes an object past the storage."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object past the storage."""

    def salt(self) -> str:
        """Returns the object."""
        return self.objects()["launch/salt"].decode()

    def make_salt(self, text: str) -> bool:
        """Stores the object unless there is one."""
        return self.storage()._put("launch/salt", text.encode(), replace=False)

    def vanish(self) -> None:
        """Removes all objects."""
        for key in self.objects():
            self.delete(key)

    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields what may happen to each of a bundle's three objects."""
        before = self.objects()
        hexadecimal, launch = ref.digest.removeprefix("sha256:"), ref.launch_digest.removeprefix("sha256:")
        keys = {name: _key_with(before, hexadecimal, name) for name in ("bundle.tar", "manifest.json")}
        keys["launch"] = _key_with(before, launch, "")
        other = self.register(self.flow("another"))
        theirs = self.objects()
        swap = {
            name: _key_with(theirs, other.digest.removeprefix("sha256:"), name)
            for name in ("bundle.tar", "manifest.json")
        }
        for name, key in keys.items():
            data = before[key]
            middle = len(data) // 2
            changes = {
                "cut short": data[:middle],
                "with a letter changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
                "emptied": b"",
                "with more behind it": data + b"x" * 1024,
            }
            if name == "bundle.tar":
                # What lies behind the last file of a tar is read by nobody: the damage must be in front of it.
                changes["cut short"] = data[: data.index(b"WORD = ")]
                changes["with more behind it"] = _with_a_file(data)
                changes["with a letter changed"] = data.replace(b"WORD = ", b"WORD = 0,", 1)
            if name == "manifest.json":
                at = data.index(b'"sha256": "') + 15
                changes["with a letter changed"] = (
                    data[:at] + (b"1" if data[at : at + 1] == b"0" else b"0") + data[at + 1 :]
                )
            if name in swap:
                changes["another's"] = theirs[swap[name]]
            for how, changed in changes.items():
                yield Damage(f"{name} {how}", _put(self, key, changed), BundleChangedError, _put(self, key, data))
            yield Damage(f"{name} gone", _delete(self, key), StorageError, _put(self, key, data))


def _put(ground: HoldingGround, key: str, data: bytes) -> Callable[[], None]:
    return lambda: ground.put(key, data)


def _delete(ground: HoldingGround, key: str) -> Callable[[], None]:
    return lambda: ground.delete(key)


def _key_with(objects: Mapping[str, bytes], hexadecimal: str, name: str) -> str:
    (key,) = [key for key in objects if hexadecimal in key and name in key]
    return key


def _with_a_file(tar: bytes) -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO(tar)
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        archive.addfile(tarfile.TarInfo("sitecustomize.py"), io.BytesIO())
    return buffer.getvalue()


def _spec(ref: BundleRef, flow: str) -> RunSpec:
    bundle = BundleSpec(
        ref.storage, ref.location, ref.digest, ref.launch_digest, ref.format is BundleFormat.PICKLE, ref.python_version,
        ref.host,
    )  # fmt: skip
    return RunSpec(
        "projects/etl/flowRuns/r", f"projects/etl/flows/{flow}/versions/1", "otter", 1, 1, "{}", bundle, "", 0
    )


@contextmanager
def as_user(**environment: str | None) -> Iterator[None]:
    """Has somebody else's login in the environment; None takes a variable out of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if value is None:
                patch.delenv(name)
            else:
                patch.setenv(name, value)
        yield


def moved(ref: BundleRef, location: str) -> BundleRef:
    """Returns a reference to another location, as an evil control plane would make it."""
    return replace(ref, location=location)
