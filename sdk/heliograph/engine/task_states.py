"""The result of a flow's state: the state of each of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliograph.exceptions import UnknownTaskError

if TYPE_CHECKING:
    from heliograph.engine.state import State

    Base = dict[Any, State]
else:
    Base = dict


class TaskStates(Base):
    """A dictionary from task to its state, which explains why a task is not in it."""

    def __missing__(self, key: Any) -> State:
        name = getattr(key, "name", None)
        if not hasattr(key, "slug") or not isinstance(name, str):
            raise KeyError(key)
        copies = sum(task.name == name for task in self)
        if not copies:
            raise UnknownTaskError(f"the flow has no task {name!r}")
        raise UnknownTaskError(
            f"the task {name!r} itself is not in the flow: calling it in `with Flow(…)` put a copy there",
            hint=f"keep what the call returns, `x = {name}(…)`, and ask for that: `state.result[x]`",
        )
