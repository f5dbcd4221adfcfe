"""What one kind of launcher needs to run whole flows in tests, and what can be seen of it and done to it from outside.

A place is used by a stack of real processes: it gives arguments to the agent's command and a run config to flows, and
is asked what the infrastructure was shown, how often it was asked for an attempt, and what is left of them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from tests.support.stack import Stack

Attempt = tuple[str, int]
"""A run's id and its epoch."""

Shown = Iterator[tuple[str, bytes]]
"""Where something is shown, and what."""


class Place(ABC):
    """Where an agent launches runs.

    Args:
        folder: A folder of its own.
        request: For fixtures that the kind needs.

    Attributes:
        kind: As `--type` has it.
        run_config: Class of its run configs.
        is_remote: True where the infrastructure is somebody else's: its answers are lost, and it has troubles.
        image: The image that flows ask for; empty where there are none.
        python: The Python of runs.
    """

    kind: ClassVar[str]
    run_config: ClassVar[str]
    is_remote: ClassVar[bool] = True
    image, python = "", "python"

    def __init__(self, folder: Path, request: pytest.FixtureRequest | None = None) -> None:
        self.folder, self.request = folder, request
        self.shared: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the agent."""
        return {}

    def share(self, folder: Path) -> None:
        """Has runs see a folder of this host at its own path. Before the agent starts."""
        self.shared.append(folder)

    @abstractmethod
    def agent_arguments(self, address: str) -> list[str]:
        """Returns arguments of the agent's command. `address`: of the control plane, as runs reach it."""

    def asks(self, **arguments: Any) -> str:
        """Returns the source of a run config that asks for this, and for an image where one is needed."""
        given = {**({"image": self.image} if self.image else {}), **arguments}
        return f"{self.run_config}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def described(self, label: Callable[[], str], folder: Callable[[], str]) -> dict[str, Any]:
        """Returns arguments that show a label to the infrastructure and name a working folder, where it has such."""
        return {}

    def tag(self, name: str) -> None:
        """Gives the image of flows another name, which they ask for from then on."""
        self.image = name

    def close(self) -> None:  # noqa: B027 (most have nothing)
        """Ends what is left, and lets go of what it shares with others."""

    # --- what is done to it ------------------------------------------------------------------------------------------

    @abstractmethod
    def kill(self, attempt: Attempt) -> bool:
        """Kills what an attempt runs in, as a lack of memory does. Returns False when nothing runs there."""

    def lose_answer(self) -> None:
        """The next launch is done, and nobody hears that it was."""
        raise NotImplementedError

    def hurt(self) -> None:
        """The infrastructure itself has trouble for a moment: what runs there goes on."""
        raise NotImplementedError

    def answers_to_lose(self) -> int:
        """Returns how many answers are still to be lost."""
        return 0

    # --- what is seen of it ------------------------------------------------------------------------------------------

    def look(self, stack: Stack) -> None:  # noqa: B027 (most can be asked later)
        """Remembers what can be seen at this moment alone. Called while a run is under way."""

    @abstractmethod
    def shown(self) -> Shown:
        """Yields every text that the infrastructure was shown, by where."""

    @abstractmethod
    def made(self) -> list[tuple[Attempt, str]]:
        """Returns the attempts that the infrastructure was had to start, each with the name of what was made for it."""

    @abstractmethod
    def left(self, runs: Collection[str]) -> list[str]:
        """Names what is left of these runs in the infrastructure."""


class LocalPlace(Place):
    """Processes of this host. What is shown there is their arguments, which every user of it can read."""

    kind = "local"
    run_config = "LocalRun"
    is_remote = False

    def __init__(self, folder: Path, request: pytest.FixtureRequest | None = None) -> None:
        super().__init__(folder, request)
        self._seen: list[tuple[str, bytes]] = []

    def agent_arguments(self, address: str) -> list[str]:
        return []

    def described(self, label: Callable[[], str], folder: Callable[[], str]) -> dict[str, Any]:
        return {"working_dir": folder()}

    def kill(self, attempt: Attempt) -> bool:
        raise NotImplementedError("the storm kills supervisors and flows itself")

    def look(self, stack: Stack) -> None:
        own = {process.pid for process in [*stack.agents, stack.control_plane] if process is not None}
        for process in stack.processes():
            if process.pid not in own:
                with suppress(psutil.Error):
                    self._seen.append(("arguments", "\0".join(process.cmdline()).encode()))

    def shown(self) -> Shown:
        assert self._seen, "no process of a run was seen"
        yield from self._seen

    def made(self) -> list[tuple[Attempt, str]]:
        return []

    def left(self, runs: Collection[str]) -> list[str]:
        return []


def texts_in(document: Any, place: str) -> Shown:
    """Yields every text of a JSON document, by where it is: keys, too, where they are no words of the API's own.

    Items of lists are told apart by their names where they have some, as variables and tags do.
    """
    if isinstance(document, dict):
        for key, value in document.items():
            if "/" in key or place.rpartition(".")[2] in _NAMED_BY_USERS:
                yield f"{place} key", key.encode()
            yield from texts_in(value, f"{place}.{key}")
    elif isinstance(document, list):
        for item in document:
            name = (item.get("name") or item.get("key")) if isinstance(item, dict) else None
            if isinstance(name, str) and item.keys() <= {"name", "key", "value"}:
                yield f"{place}[] name", name.encode()
                yield f"{place}[{name}]", str(item.get("value", "")).encode()
            else:
                yield from texts_in(item, f"{place}[]")
    elif document is not None:
        yield place, str(document).encode()


_NAMED_BY_USERS = {"labels", "annotations", "Labels", "tags", "matchLabels", "nodeSelector"}
