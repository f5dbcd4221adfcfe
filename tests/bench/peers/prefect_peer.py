"""Prefect 3: a chain and a map of task runs, with the temporary server that it starts for itself."""

from __future__ import annotations

from peer import Peer, user_line
from prefect import flow, task


@task
def start() -> int:
    user_line()
    return 0


@task
def same(x: int) -> int:
    return x


@flow
def chained(count: int) -> int:
    value = start()
    for _ in range(count - 1):
        value = same(value)
    return value


@flow
def mapped(count: int) -> list[int]:
    user_line()
    return same.map(range(count)).result()


Peer(chain=chained, map=mapped).main()
