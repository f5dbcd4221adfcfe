"""DBOS: a workflow whose steps are recorded one after the other in SQLite. It has no map: the steps are a loop."""

from __future__ import annotations

import os

from dbos import DBOS
from peer import Peer, user_line

DBOS(config={"name": "peer", "system_database_url": f"sqlite:///{os.environ['PEER_HOME']}/dbos.sqlite"})


@DBOS.step()
def same(x: int) -> int:
    user_line()
    return x


@DBOS.workflow()
def chained(count: int) -> int:
    value = 0
    for _ in range(count):
        value = same(value)
    return value


@DBOS.workflow()
def mapped(count: int) -> list[int]:
    return [same(number) for number in range(count)]


DBOS.launch()
Peer(chain=chained, map=mapped).main(DBOS.destroy)
