"""What the double is told to do wrong, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fargate.shapes import ServiceError


@dataclass
class Misfortune:
    """What happens to tasks that are started while it is set.

    Attributes:
        stop_code: Stop code of a task that never begins; empty when it may.
        reason: What ECS says of it.
        hold: Phase in which it stays until `let_go` is set; empty for none.
        let_go: Ends the hold.
        spared: Tasks that are left alone before.
    """

    stop_code: str = ""
    reason: str = ""
    hold: str = ""
    let_go: threading.Event = field(default_factory=threading.Event)
    times: int = 1_000_000


class Script:
    """What is to go wrong with calls and tasks. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: dict[str, list[ServiceError]] = {}
        self._lost: dict[str, int] = {}
        self._unplaced: list[list[dict[str, str]]] = []
        self._misfortunes: list[Misfortune] = []
        self.ignore_client_tokens = False
        """True for a double that makes a second task for one token."""

    def refuse(self, operation: str, error: ServiceError, times: int = 1) -> None:
        """The next calls of an operation get this error."""
        with self._lock:
            self._errors.setdefault(operation, []).extend([error] * times)

    def lose_answers(self, operation: str, times: int = 1) -> None:
        """The next calls of an operation are done, and their answers lost."""
        with self._lock:
            self._lost[operation] = self._lost.get(operation, 0) + times

    def to_lose(self, operation: str) -> int:
        """Returns how many answers of an operation are still to be lost."""
        with self._lock:
            return self._lost.get(operation, 0)

    def place_nowhere(self, reason: str, detail: str = "", times: int = 1) -> None:
        """The next tasks find no place."""
        failure = {"reason": reason, "arn": "arn:aws:ecs:eu-west-1:123456789012:cluster/default", "detail": detail}
        with self._lock:
            self._unplaced += [[{key: value for key, value in failure.items() if value}]] * times

    def befall(self, misfortune: Misfortune) -> Misfortune:
        """The next tasks have it."""
        with self._lock:
            self._misfortunes.append(misfortune)
        return misfortune

    # --- asked by the double -------------------------------------------------------------------------------------

    def error(self, operation: str) -> ServiceError | None:
        """Takes the error of this call."""
        return self._take(lambda: self._errors[operation].pop(0) if self._errors.get(operation) else None)

    def loses(self, operation: str) -> bool:
        """Takes whether the answer of this call is lost."""

        def take() -> bool:
            left = self._lost.get(operation, 0)
            self._lost[operation] = max(0, left - 1)
            return left > 0

        return bool(self._take(take))

    def unplaced(self) -> list[dict[str, str]]:
        """Takes why this task finds no place; empty when it finds one."""
        found = self._take(lambda: self._unplaced.pop(0) if self._unplaced else [])
        return list(found)

    def misfortune(self) -> Misfortune:
        """Takes what befalls this task."""

        def take() -> Misfortune:
            while self._misfortunes and not self._misfortunes[0].times:
                self._misfortunes.pop(0)
            if not self._misfortunes:
                return Misfortune()
            self._misfortunes[0].times -= 1
            return self._misfortunes[0]

        found = self._take(take)
        assert isinstance(found, Misfortune)
        return found

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        with self._lock:
            for misfortune in self._misfortunes:
                misfortune.let_go.set()
            self._errors.clear()
            self._lost.clear()
            self._unplaced.clear()
            self._misfortunes.clear()
            self.ignore_client_tokens = False

    def _take(self, take: Callable[[], Any]) -> Any:
        with self._lock:
            return take()
