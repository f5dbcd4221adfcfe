"""Dagster: a chain of ops and a dynamic map, executed in the process that starts them, with its instance in memory."""

from __future__ import annotations

from collections.abc import Iterator

from dagster import DynamicOut, DynamicOutput, job, op
from peer import Peer, user_line


@op
def start() -> int:
    user_line()
    return 0


@op
def same(x: int) -> int:
    return x


def chain(count: int) -> None:
    @job
    def chained() -> None:
        value = start()
        for number in range(count - 1):
            value = same.alias(f"same_{number}")(value)

    assert chained.execute_in_process().success


def mapped(count: int) -> None:
    @op(out=DynamicOut(int))
    def numbers() -> Iterator[DynamicOutput[int]]:
        user_line()
        for number in range(count):
            yield DynamicOutput(number, mapping_key=str(number))

    @job
    def mapping() -> None:
        numbers().map(same)

    assert mapping.execute_in_process().success


Peer(chain=chain, map=mapped).main()
