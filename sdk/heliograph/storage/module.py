"""Flows that are installed where they run: imported by name, compared by the version of their distribution.

The bundle is one generated file that imports the module, made again by agents from the location. What the module holds
is not fetched and not compared; the version of its distribution and the flow's graph are.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal

from heliograph.exceptions import InvalidArgumentError, LoadError, RequirementsMismatchError, StorageError
from heliograph.storage.archive import pack
from heliograph.storage.base import BundleRef, Storage
from heliograph.storage.bundle import Bundle, find_source, remarks, unless_renamed
from heliograph.storage.collect import BundleReport
from heliograph.storage.compat import accept_common
from heliograph.storage.launch import LaunchSettings
from heliograph.storage.manifest import BundleFormat, FileEntry, Manifest
from heliograph.storage.own_launch import public_part
from heliograph.storage.pin import Pin, location_launch

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

__all__ = ["Module"]

ENTRYPOINT = "installed_flow.py"
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_SOURCE = '''"""Takes the flows of {module}, which is installed."""

from importlib import import_module

globals().update({{k: v for k, v in vars(import_module({module!r})).items() if not k.startswith("__")}})
'''


class Module(Storage):
    """A flow in a module that is installed wherever it runs. Nothing is stored.

    Args:
        module: Dotted name; by default that of the module that has the flow.
        launch: `agent` when agents' own files (`launch/<project>/<flow>.toml`) give the values of variables and what
            else of the launch settings may not be told. By default a flow that has such values is refused.
        **prefect: What Prefect 1 had besides; an error says the way where the meaning is another.
    """

    kind: ClassVar[str] = "module"

    def __init__(self, module: str | None = None, *, launch: Literal["", "agent"] = "", **prefect: Any) -> None:
        accept_common("Module", prefect, scripts_only=True)
        super().__init__()
        if module is not None and not _NAME.fullmatch(module):
            raise InvalidArgumentError(f"{module!r} is no dotted name of a module")
        if launch not in ("", "agent"):
            raise InvalidArgumentError(f"launch is 'agent' or empty, not {launch!r}")
        self.module = module or ""
        self.launch = launch
        self._pin: Pin | None = None

    @classmethod
    def at(cls, location: str, host: str = "") -> Module:
        """Returns the storage that a location names, to load from."""
        del host
        pin = Pin.parse(location)
        scheme, _, name = pin.url.partition("://")
        if scheme != "module" or not _NAME.fullmatch(name):
            raise StorageError(f"{pin.url!r} is no location of a module: module://name is expected")
        made = cls(name)
        made._pin = pin
        return made

    @property
    def location(self) -> str:
        """`module://name`, and after registration what of it is meant."""
        return self._pin.location() if self._pin is not None else f"module://{self.module}"

    # --- registering -------------------------------------------------------------------------------------------------

    def make_bundle(
        self, flow: Flow, *, project_root: str | os.PathLike[str] | None = None, pickle: bool | None = None
    ) -> Bundle:
        """Finds the module and looks that it has the flow.

        Raises:
            StorageError: It has not, or cannot be imported.
        """
        if pickle:
            raise StorageError("Module storage holds no pickles", hint="Use storage that holds files for pickle=True.")
        if project_root is not None:
            raise StorageError("Module storage takes no folder", hint="Leave project_root away.")
        unless_renamed(flow)
        name = self.module or _module_of(flow)
        self._require(name, flow)
        distribution, version = _distribution_of(name)
        self.module = name
        self._pin = Pin(
            url=f"module://{name}", ref=f"{distribution}=={version}" if distribution else "", flow=flow.name
        )
        manifest = _manifest(self._pin, f"{sys.version_info.major}.{sys.version_info.minor}", remarks(None))
        report = BundleReport(
            how=f"imported as {name}, {distribution} {version}" if distribution else f"imported as {name}"
        )
        report.files, report.size_bytes = 1, manifest.size_bytes
        if not distribution:
            report.warnings.append(f"{name} is of no installed distribution: nobody can compare its version")
        return Bundle(manifest, {ENTRYPOINT: _source(name)}, report)

    def _require(self, name: str, flow: Flow) -> None:
        from heliograph.context import context
        from heliograph.core.flow import Flow as FlowClass
        from heliograph.engine.graph import compile_flow

        try:
            with context(loading_flow=True):
                module = importlib.import_module(name)
        except Exception as error:  # boundary: a module is the user's code
            raise LoadError(
                f"the module {name} cannot be imported: {type(error).__name__}: {error}",
                hint="Install its distribution here, as it is installed where the flow runs.",
            ) from error
        there = [one for one in vars(module).values() if isinstance(one, FlowClass) and one.name == flow.name]
        if len({id(one) for one in there}) != 1:
            raise StorageError(f"the module {name} has {len(there)} flows named {flow.name!r} at its top level")
        if compile_flow(there[0]).graph_hash() != compile_flow(flow).graph_hash():
            raise StorageError(
                f"the flow {flow.name!r} of the installed module {name} has another graph than the one registered",
                hint="Install the version that you mean, then register.",
            )

    def put_bundle(self, bundle: Bundle, launch: LaunchSettings | None = None) -> BundleRef:
        """Stores nothing. Returns the reference.

        Raises:
            LaunchSettingsError: If launch settings have values, which a location may not tell.
        """
        from dataclasses import replace

        if self._pin is None:
            raise StorageError("the bundle is not of this storage")
        pin = replace(self._pin, launch=public_part(launch or LaunchSettings(), "Module", self.launch))
        return BundleRef(
            storage=self.kind,
            location=pin.location(),
            digest=bundle.manifest.digest,
            launch_digest=pin.launch.digest,
            format=BundleFormat.SOURCE,
            python_version=bundle.manifest.info["python"],
        )

    # --- fetching ----------------------------------------------------------------------------------------------------

    def fetch_launch(self, ref: BundleRef) -> LaunchSettings:
        """Returns the public part of the launch settings, which the location says."""
        return location_launch(ref.location, ref.launch_digest)

    def fetch_manifest(self, ref: BundleRef) -> Manifest:
        """Makes the manifest as registration made it."""
        made = _manifest(Pin.parse(ref.location), ".".join(ref.python_version.split(".")[:2]), {})
        return Manifest.from_json(made.to_json(), ref.digest)

    def fetch(self, ref: BundleRef, cache_dir: str | os.PathLike[str]) -> Path:
        """Returns a folder with the file that imports the module.

        Raises:
            RequirementsMismatchError: The module is not installed here.
        """
        top = self.module.partition(".")[0]
        if importlib.util.find_spec(top) is None:
            wanted = Pin.parse(ref.location).ref
            raise RequirementsMismatchError(
                f"the module {self.module} is not installed here",
                hint=f"Install {wanted or 'it'} in the agent's environment, or in the image.",
            )
        return super().fetch(ref, cache_dir)

    def _open_archive(self, manifest: Manifest) -> BinaryIO:
        return io.BytesIO(pack((entry, _source(self.module)) for entry in manifest.files))


def _module_of(flow: Flow) -> str:
    source = find_source(flow, None)
    name = source.module.__name__ if source is not None and source.module is not None else ""
    spec = getattr(source.module, "__spec__", None) if source is not None else None
    name = str(spec.name) if name == "__main__" and spec is not None else name
    if not name or name == "__main__":
        raise StorageError(
            f"the flow {flow.name!r} is in no module that has a name", hint="Give Module('package.module')."
        )
    return name


def _distribution_of(module: str) -> tuple[str, str]:
    """Returns name and version of the distribution that has a module; nothing when there is none."""
    names = importlib.metadata.packages_distributions().get(module.partition(".")[0], [])
    for name in sorted(set(names)):
        return name, importlib.metadata.version(name)
    return "", ""


def _source(module: str) -> bytes:
    return _SOURCE.format(module=module).encode()


def _manifest(pin: Pin, python: str, info: dict[str, str]) -> Manifest:
    data = _source(pin.url.partition("://")[2])
    distribution, _, version = pin.ref.partition("==")
    # The graph's hash is registered beside the location.
    return Manifest(
        flow=pin.flow, format=BundleFormat.SOURCE, entrypoint=ENTRYPOINT, module=ENTRYPOINT.removesuffix(".py"),
        sys_path=("",), graph_hash="", python=python, implementation="", cloudpickle="",
        requirements={distribution: version} if distribution else {},
        files=(FileEntry(ENTRYPOINT, hashlib.sha256(data).hexdigest(), len(data)),), info=info,
    )  # fmt: skip
