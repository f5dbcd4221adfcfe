"""The start of a run whose infrastructure takes no files, from both sides.

The agent (`StartCodes`) seals the launch record, leaves it with the control plane, and gets a start code. Code and key
travel with the infrastructure, as one text (`Start`), which shows to whoever may look there: nothing else of the run
does. The container (`collect`) exchanges the code, once, for the run token and the sealed record, and opens it. Whoever
reads the text later holds a code that is spent and a key to what only its holder was given; the control plane never has
the key.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.duration_pb2 import Duration

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph.exceptions import HeliographError, LeaseLostError, NotFoundError
from heliograph_agents.launcher import LaunchError
from heliograph_agents.link import AgentRefusedError, Pause
from heliograph_agents.sealing import derive_key, seal, unseal

if TYPE_CHECKING:
    from heliograph_agents.link import Link

_log = logging.getLogger("heliograph.agent")

VARIABLE = "HELIOGRAPH_START"
"""Environment variable with a `Start`."""

ASK_SECONDS = 60.0
"""How long an agent tries to get a code, before the run waits in the queue again."""

MAX_SEALED_BYTES = 524_288
"""As the API has it."""

LONGEST_LIFETIME_SECONDS = 86_400.0

EXCHANGE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Start:
    """What a container is given to begin with. The control plane is named in it, since the record comes from there.

    Attributes:
        address: `host:port` of the control plane.
        code: The start code.
        key: The key of the sealed record, in hexadecimal.
        insecure: True where plain text is allowed off loopback.
        tls_ca: Text of the authorities that the control plane's certificate is checked against; empty: the system's.
        seconds: How long the code is good.
    """

    address: str
    code: str = field(repr=False)
    key: str = field(repr=False)
    insecure: bool = False
    tls_ca: str = ""
    seconds: float = 900.0

    def text(self) -> str:
        """Returns it as one word."""
        return base64.b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode()

    @classmethod
    def parse(cls, text: str) -> Start:
        """Reads the word.

        Raises:
            ValueError, TypeError: It is none.
        """
        return cls(**json.loads(base64.b64decode(text, validate=True)))


@dataclass(frozen=True, slots=True)
class Collected:
    """What the container got for its code.

    Attributes:
        run_token: The run token.
        launch: Text of `launch.json`.
        files: More files of the offer, by name: certificates.
    """

    run_token: str = field(repr=False)
    launch: str = field(repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


# --- the agent's side -------------------------------------------------------------------------------------------------


class Codes(Protocol):
    """Gets start codes."""

    async def ask(
        self, flow_run: str, epoch: int, run_token: str, launch: str, files: Mapping[str, bytes], seconds: float
    ) -> tuple[str, str]:
        """Returns the start code of an accepted run and the key of what was sealed for it.

        Args:
            flow_run: The run.
            epoch: Its epoch.
            run_token: The agent's run token: the key comes from it, so that asking again gives the same.
            launch: Text of `launch.json`.
            files: More files of the offer.
            seconds: How long the code is good.

        Raises:
            LaunchError: There is none to be had.
        """


class StartCodes:
    """Gets start codes from the control plane.

    Args:
        agent: `agents/{agent}`.
        link: The agent's connection.
    """

    def __init__(self, agent: str, link: Link) -> None:
        self._agent, self._link = agent, link

    async def ask(
        self, flow_run: str, epoch: int, run_token: str, launch: str, files: Mapping[str, bytes], seconds: float
    ) -> tuple[str, str]:
        """Asks until there is an answer, for a while."""
        from heliograph.api.v1 import agent_service_pb2 as pb
        from heliograph.api.v1.agent_service_pb2_grpc import AgentServiceStub

        key = derive_key(run_token, "sealed launch record")
        sealed = seal(key, _packed(launch, files))
        if len(sealed) > MAX_SEALED_BYTES:
            raise LaunchError(
                f"what the run is to know has {len(sealed):,} bytes, and may have {MAX_SEALED_BYTES:,}",
                FailureCode.LAUNCH_SETTINGS,
            )
        lifetime = Duration()
        lifetime.FromMilliseconds(int(1000 * min(seconds, LONGEST_LIFETIME_SECONDS)))
        request = pb.CreateStartCodeRequest(
            agent=self._agent, flow_run=flow_run, epoch=epoch, sealed_launch=sealed, lifetime=lifetime
        )
        limit, pause = time.monotonic() + ASK_SECONDS, Pause()
        while True:
            try:
                answer = await self._link.call(AgentServiceStub, "CreateStartCode", request)
            except (LeaseLostError, NotFoundError) as error:
                raise LaunchError(f"it has no start code: {error}", delay=LaunchDelay.UNCONFIRMED) from error
            except AgentRefusedError:
                raise
            except HeliographError as error:
                if not error.retryable or time.monotonic() > limit:
                    raise LaunchError(f"it has no start code: {error}", delay=LaunchDelay.UNCONFIRMED) from error
                await asyncio.sleep(pause.seconds())
            else:
                return str(answer.start_code), key.hex()


def _packed(launch: str, files: Mapping[str, bytes]) -> bytes:
    return json.dumps({"launch": launch, "files": {name: data.decode() for name, data in files.items()}}).encode()


# --- the container's side ---------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """The control plane does not give out the run. `spent`: somebody else has exchanged the code before."""

    def __init__(self, message: str, *, spent: bool = False) -> None:
        super().__init__(message)
        self.spent = spent


def collect(start: Start, *, tell: Callable[[str], None]) -> Collected:
    """Exchanges the code, and opens what was sealed. Tries for as long as the code is good.

    Args:
        start: What the container was given.
        tell: Takes a sentence for the container's output.

    Raises:
        RefusedError: The code is worth nothing (any more).
        ValueError: What comes cannot be opened.
    """
    from heliograph.api.v1.agent_service_pb2 import ExchangeStartCodeRequest

    # Its own, and told to nobody else: with it alone an answer that was lost is given again.
    request = ExchangeStartCodeRequest(request_id=uuid.uuid4().hex)
    limit, pause, said = time.monotonic() + start.seconds, Pause(), False
    while True:
        try:
            answer = _exchange(start, request)
            break
        except HeliographError as error:
            if not error.retryable:
                raise RefusedError(str(error), spent=error.reason == "PERMISSION_DENIED") from error
            if time.monotonic() > limit:
                raise RefusedError(f"not reached for {start.seconds:.0f} s: {error}") from error
            if not said:
                tell(f"the control plane {start.address} cannot be reached, trying again: {error}")
            said = True
        time.sleep(pause.seconds())
    found = json.loads(unseal(bytes.fromhex(start.key), answer.sealed_launch))
    files = {name: text.encode() for name, text in found["files"].items()}
    return Collected(str(answer.run_token), str(found["launch"]), files)


def collect_apart(start: Start, *, tell: Callable[[str], None]) -> Collected:
    """Does the same in a process of its own: gRPC must not have begun where the flow's process is forked later.

    Raises:
        RefusedError, ValueError: As `collect` does.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as stream:
                json.dump(_outcome(start, tell), stream)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    found: dict[str, Any] = json.loads(text) if text else {"bad": "whoever exchanged the start code died"}
    if "refused" in found:
        raise RefusedError(found["refused"], spent=found["spent"])
    if "bad" in found:
        raise ValueError(found["bad"])
    files = {name: content.encode() for name, content in found["files"].items()}
    return Collected(found["run_token"], found["launch"], files)


def _outcome(start: Start, tell: Callable[[str], None]) -> dict[str, Any]:
    try:
        found = collect(start, tell=tell)
    except RefusedError as error:
        return {"refused": str(error), "spent": error.spent}
    except (ValueError, OSError, HeliographError) as error:
        return {"bad": str(error)}
    files = {name: data.decode() for name, data in found.files.items()}
    return {"run_token": found.run_token, "launch": found.launch, "files": files}


def _exchange(start: Start, request: Any) -> Any:
    import contextlib
    import tempfile

    import grpc

    from heliograph.api.v1.agent_service_pb2_grpc import AgentServiceStub
    from heliograph.client.channel import TlsFiles, open_channel
    from heliograph.client.errors import to_error
    from heliograph.config import config

    # A client's certificate cannot be known before the record: where one is wanted, it is in the image.
    own = config().client
    with contextlib.ExitStack() as stack:
        authorities = own.tls_ca
        if start.tls_ca:
            file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".pem"))
            file.write(start.tls_ca)
            file.flush()
            authorities = file.name
        tls = TlsFiles(authorities, own.tls_cert, own.tls_key)
        channel = stack.enter_context(open_channel(start.address, start.code, tls, insecure=start.insecure))
        try:
            return AgentServiceStub(channel).ExchangeStartCode(request, timeout=EXCHANGE_SECONDS)
        except grpc.RpcError as error:
            raise to_error(error, address=start.address) from None
