"""Dask: delayed calls on its threaded scheduler. It keeps no states, and retries and records nothing."""

from __future__ import annotations

import dask
from peer import Peer, user_line


@dask.delayed
def start() -> int:
    user_line()
    return 0


@dask.delayed
def same(x: int) -> int:
    return x


@dask.delayed
def child(x: int) -> int:
    user_line()
    return x


def chain(count: int) -> None:
    value = start()
    for _ in range(count - 1):
        value = same(value)
    value.compute(scheduler="threads", optimize_graph=False)


def mapped(count: int) -> None:
    dask.compute(*(child(number) for number in range(count)), scheduler="threads", optimize_graph=False)


Peer(chain=chain, map=mapped).main()
