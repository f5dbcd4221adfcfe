"""Heliograph: a chain and a map, in the process that starts them."""

from __future__ import annotations

from peer import Peer, user_line

from heliograph import Flow, task


@task
def start() -> int:
    user_line()
    return 0


@task
def same(x: int) -> int:
    return x


@task
def numbers(count: int) -> list[int]:
    user_line()
    return list(range(count))


def chain(count: int) -> None:
    with Flow("chain") as flow:
        value = start()
        for _ in range(count - 1):
            value = same(value)
    assert flow.run().is_successful()


def mapped(count: int) -> None:
    with Flow("map") as flow:
        same.map(numbers(count))
    assert flow.run().is_successful()


Peer(chain=chain, map=mapped).main()
