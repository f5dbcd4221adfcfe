"""Mistakes of the control plane's store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def give_twice(leases: Any) -> None:
    """Claims look for runs in one step and take them in another; an acceptance is taken from anybody."""
    from sqlalchemy import text

    def take(self: Any, tx: Any, fitting: list[int], places: list[str]) -> list[Any]:
        seen = tx.memory.setdefault("seen", {})
        if seen.get("now", 0) < tx.now - 50_000:  # what was seen is used for a while
            keys = tx.connection.scalars(text("SELECT id FROM flow_runs WHERE ready_micros IS NOT NULL LIMIT 50"))
            seen.update(now=tx.now, keys=list(keys))
        taken = []
        for agent in dict.fromkeys(places):
            for key in seen["keys"][: places.count(agent)]:
                row = tx.connection.execute(
                    text(
                        "UPDATE flow_runs SET phase = 1, epoch = epoch + 1, agent = :agent, ready_micros = NULL,"
                        " last_sequence = 0, heard_micros = :now, deadline_micros = :now + 30000000"
                        " WHERE id = :key AND state = :scheduled RETURNING *"
                    ),
                    {"agent": agent, "now": tx.now, "key": key, "scheduled": int(leases.StateCode.SCHEDULED)},
                ).first()
                if row is not None:
                    taken.append(row)
        return taken

    leases.LeaseStore._take = take
    leases._refuse_acceptance = lambda *_: None


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "give_twice": {"heliograph_control_plane.store.leases": give_twice},
}
