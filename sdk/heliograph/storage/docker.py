"""Images of flows: the image is the environment, the bundle is the code.

The image is built at registration, pushed, and named by its digest. The bundle is an artifact in the image's
repository, so that changed code builds nothing; or, on request and without a registry, the last layer of its own image.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.base import BundleRef, ObjectMissingError, Storage, bundle_key
from heliograph.storage.compat import accept_common
from heliograph.storage.image_build import Context, Engine, copies, quoted
from heliograph.storage.launch import LaunchSettings
from heliograph.storage.manifest import BundleFormat
from heliograph.storage.oci import OCI
from heliograph.storage.own_launch import public_part
from heliograph.storage.pin import Pin, location_launch
from heliograph.storage.registry_client import parse_repository
from heliograph.storage.registry_login import login_for

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.storage.bundle import Bundle

__all__ = ["Docker"]

PLACE = "/opt/heliograph/storage"
"""Where an image has its bundle."""

_FIXED = {"fileobj", "custom_context", "dockerfile", "tag", "path", "decode", "rm", "forcerm"}
_built: dict[tuple[str, ...], str] = {}
"""Images that this process has built and pushed: many flows of one registration share them."""


class Docker(Storage):
    """An image, built when the flow is registered, in which it runs; beside it, or in it, the flow's bundle.

    Args:
        registry_url: `registry.example.org/team`: where the image is pushed. Without one the image stays in the engine
            that builds it, and only Docker agents of that engine can run the flow.
        base_image: What the image is made from; it needs Python, and Heliograph unless `python_dependencies` has it. By
            default Python's own image of this version, with this version of Heliograph.
        dockerfile: A Dockerfile to begin with, instead of a base image. Its folder is the context.
        python_dependencies: Packages that pip installs.
        image_name: Name in the registry; by default the first flow's.
        image_tag: Tag; by default made of what the image is built from.
        env_vars: Variables of the image. Whoever may pull the image can read them.
        files: Files and folders of this machine by absolute path, and where they go in the image.
        prefect_version: Accepted: the version of Heliograph is this one's.
        local_image: True when the base image is in the engine and must not be pulled.
        ignore_healthchecks: True to leave out the look whether runs can begin in the image.
        base_url: Address of the engine; by default `DOCKER_HOST`, else this machine's.
        tls_config: TLS of that address, as the Docker SDK takes it.
        build_kwargs: More arguments of the SDK's `build`, such as `buildargs` and `nocache`.
        prefect_directory: Accepted: bundles have a place of their own.
        path: Accepted: the flow's file is found.
        stored_as_script: Accepted: the flow's file is what is loaded, unless `pickle` says otherwise.
        extra_dockerfile_commands: Lines at the Dockerfile's end.
        bake: True to have the bundle in the image, as its last layer: for agents whose containers cannot log in to the
            registry. Always so without a registry.
        launch: For baked images: `agent` when agents' own files give the values of variables and what else of the
            launch settings may not be told.
        secret: Name of the secret, `user:password`, that is the registry's login at registration.
        insecure: True to speak to the registry without TLS when the bundle is stored.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
        **prefect: What Prefect 1 had besides; an error says the way where the meaning is another.
    """

    kind: ClassVar[str] = "docker"

    def __init__(
        self,
        registry_url: str | None = None,
        base_image: str | None = None,
        dockerfile: str | os.PathLike[str] | None = None,
        python_dependencies: Sequence[str] | None = None,
        image_name: str | None = None,
        image_tag: str | None = None,
        env_vars: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        prefect_version: str | None = None,
        local_image: bool = False,
        ignore_healthchecks: bool = False,
        base_url: str | None = None,
        tls_config: Any = False,
        build_kwargs: Mapping[str, Any] | None = None,
        prefect_directory: str | None = None,
        path: str | None = None,
        stored_as_script: bool | None = None,
        extra_dockerfile_commands: Sequence[str] | None = None,
        *,
        bake: bool | None = None,
        launch: str = "",
        secret: str | None = None,
        insecure: bool = False,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        **prefect: Any,
    ) -> None:
        del prefect_version, prefect_directory, path
        accept_common("Docker", prefect)
        # Prefect 1 pickled unless told otherwise; here that is asked for by name.
        super().__init__(project_root=project_root, pickle=pickle and not stored_as_script)
        if base_image and dockerfile:
            raise InvalidArgumentError("only one of base_image and dockerfile can be given")
        if bake is False and not registry_url:
            raise InvalidArgumentError("bake=False needs a registry_url: the bundle has to be somewhere")
        if unfit := _FIXED & set(build_kwargs or {}):
            raise InvalidArgumentError(f"build_kwargs cannot have {', '.join(sorted(unfit))}")
        self.registry_url = registry_url.rstrip("/") if registry_url else ""
        self.base_image = base_image or ""
        self.dockerfile = os.fspath(dockerfile) if dockerfile is not None else ""
        self.python_dependencies = list(python_dependencies or ())
        self.image_name = image_name or ""
        self.image_tag = image_tag or ""
        self.env_vars = dict(env_vars or {})
        self.files = dict(files or {})
        self.local_image = local_image
        self.ignore_healthchecks = ignore_healthchecks
        self.build_kwargs = dict(build_kwargs or {})
        self.extra_dockerfile_commands = list(extra_dockerfile_commands or ())
        self.baked = not registry_url if bake is None else bake
        self.launch = launch
        self._engine = Engine(base_url, tls_config)
        self._engine_key = base_url or os.environ.get("DOCKER_HOST", "")
        self._secret, self._insecure = secret or "", insecure
        self._image = self._given_host = ""
        self._pin: Pin | None = None

    @classmethod
    def at(cls, location: str, host: str = "") -> Docker:
        """Returns the storage that a location names, to fetch from: in a container of the image."""
        made = cls()
        made._given_host = host
        made._pin = Pin.parse(location)
        return made

    @property
    def host(self) -> str:
        """This host for an image that stays in its engine; empty for one in a registry."""
        if self.registry_url or self._pin is not None:
            return self._given_host
        near = not self._engine_key or self._engine_key.startswith(("unix:", "npipe:"))
        return socket.gethostname() if near else ""

    # --- the image ---------------------------------------------------------------------------------------------------

    @property
    def repository(self) -> str:
        """Where the image is, without tag and digest."""
        return f"{self.registry_url}/{self.image_name}" if self.registry_url else self.image_name

    @property
    def image(self) -> str:
        """The image in which the flow runs, by its digest; empty before it is built."""
        return self._image

    def prepare(self, flow: Flow, *, project_root: str | os.PathLike[str] | None, pickle: bool | None) -> Sequence[str]:
        """Builds the image, pushes it, and returns what to tell the author."""
        self._name(flow)
        context = self._context()
        tag = self.image_tag or f"env-{context.digest[:16]}"
        notes = []
        if not self.baked:
            self._image = self._once(context, tag, pull=not self.local_image, push=True)
        else:
            environment = self._once(context, tag, pull=not self.local_image, push=False)
            bundle = self.make_bundle(flow, project_root=project_root, pickle=pickle)
            with_code = _baked(environment, bundle)
            short = bundle.manifest.digest.removeprefix("sha256:")[:16]
            self._image = self._once(with_code, f"{tag}-{short}", pull=False, push=bool(self.registry_url))
            notes.append("the bundle is the image's last layer")
        return [f"the image is {self._image}", *notes]

    def _once(self, context: Context, tag: str, *, pull: bool, push: bool) -> str:
        """Builds, checks and pushes an image unless this process has. Returns its name by digest, or its id."""
        key = (self._engine_key, self.repository, tag, context.digest, str(push))
        if key in _built:
            return _built[key]
        name = self.repository
        image = self._engine.build(context, f"{name}:{tag}", pull=pull, options=self.build_kwargs)
        if not self.ignore_healthchecks:
            self._check(image)
        if push:
            host, path = parse_repository(name)
            image = f"{name}@{self._engine.push(name, tag, login_for(host, path, self._secret))}"
        _built[key] = image
        return image

    def _check(self, image: str) -> None:
        python, heliograph, cloudpickle = self._engine.check(image)
        here = importlib.metadata.version("cloudpickle")
        minor = f"{sys.version_info.major}.{sys.version_info.minor}."
        if self.pickle and (not python.startswith(minor) or cloudpickle.partition(".")[0] != here.partition(".")[0]):
            raise StorageError(
                f"the image has Python {python} and cloudpickle {cloudpickle}; the pickle is made by {minor[:-1]} and"
                f" {here}",
                hint="Choose another base_image, or register without pickle.",
            )
        if heliograph != importlib.metadata.version("heliograph"):
            raise StorageError(
                f"the image has Heliograph {heliograph}, here is {importlib.metadata.version('heliograph')}",
                hint="Choose another base_image, or give ignore_healthchecks=True when the two fit each other.",
            )

    def _context(self) -> Context:
        lines: list[str] = []
        folder = ""
        if self.dockerfile:
            path = Path(self.dockerfile).expanduser().absolute()
            try:
                lines.append(path.read_text("utf-8").rstrip())
            except (OSError, UnicodeDecodeError) as error:
                raise StorageError(f"{path} cannot be read: {error}") from error
            folder = str(path.parent)
        elif self.base_image:
            lines.append(f"FROM {self.base_image}")
        else:
            version = importlib.metadata.version("heliograph")
            lines.append(f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim")
            lines.append(f"RUN pip install --no-cache-dir 'heliograph=={version}'")
        if self.python_dependencies:
            wanted = " ".join(f"'{one}'" for one in self.python_dependencies)
            lines.append(f"RUN pip install --no-cache-dir {wanted}")
        copied, contents = copies(self.files)
        lines += copied
        lines += [f"ENV {name}={quoted(text)}" for name, text in sorted(self.env_vars.items())]
        lines += self.extra_dockerfile_commands
        return Context("\n".join(lines) + "\n", contents, folder)

    # --- the bundle --------------------------------------------------------------------------------------------------

    @property
    def location(self) -> str:
        """Where the bundle is: the image's repository, or the image."""
        if self._pin is not None:
            return self._pin.location()
        return f"{'docker' if self.baked else 'oci'}://{self.repository}"

    @property
    def reference_kind(self) -> str:
        """`docker` for a bundle in the image, `oci` for one beside it."""
        return self.kind if self.baked else OCI.kind

    def make_bundle(
        self, flow: Flow, *, project_root: str | os.PathLike[str] | None = None, pickle: bool | None = None
    ) -> Bundle:
        """Makes the bundle; the flow's name is the image's when none is given. See `Storage.make_bundle`."""
        self._name(flow)
        return super().make_bundle(flow, project_root=project_root, pickle=pickle)

    def _name(self, flow: Flow) -> None:
        if not self.image_name:
            self.image_name = re.sub(r"[^a-z0-9]+", "-", flow.name.lower()).strip("-") or "flow"

    def put_bundle(self, bundle: Bundle, launch: LaunchSettings | None = None) -> BundleRef:
        """Stores the bundle beside the image; one that is in the image is there already.

        Raises:
            LaunchSettingsError: If launch settings have values, for which an image has no place.
        """
        settings = launch or LaunchSettings()
        if not self.baked:
            beside = OCI(self.repository, secret=self._secret, insecure=self._insecure)
            return beside.put_bundle(bundle, settings)
        public = public_part(settings, "A baked image of Docker", self.launch)
        pin = Pin(url=f"docker://{self.repository}", flow=bundle.manifest.flow, launch=public)
        return BundleRef(
            storage=self.kind,
            location=pin.location(),
            digest=bundle.manifest.digest,
            launch_digest=pin.launch.digest,
            format=BundleFormat(bundle.manifest.format),
            python_version=bundle.manifest.info.get("python", bundle.manifest.python),
            host=self.host,
        )

    def fetch_launch(self, ref: BundleRef) -> LaunchSettings:
        """Returns the public part of the launch settings, which the location says."""
        return location_launch(ref.location, ref.launch_digest)

    def _open(self, key: str) -> BinaryIO:
        try:
            return Path(PLACE, key).open("rb")
        except OSError:
            image = self._pin.launch.image if self._pin is not None else ""
            raise ObjectMissingError(
                f"the bundle is in the image {image or 'of the flow'}, and this is no container of it",
                hint="Give the flow a run config of containers, such as DockerRun() or KubernetesRun().",
            ) from None


def _baked(environment: str, bundle: Bundle) -> Context:
    """Returns an image with a bundle as its last layer. Times and remarks stay out: the same code is the same layer."""
    manifest = replace(bundle.manifest, info={"python": bundle.manifest.info.get("python", "")})
    folder = bundle_key(manifest.digest)
    name = ".heliograph-bundle"
    files = {
        f"{name}/{folder}/bundle.tar": (bundle.archive(), False),
        f"{name}/{folder}/manifest.json": (manifest.to_json(), False),
    }
    return Context(f"FROM {environment}\nCOPY {name} {PLACE}\n", files)
