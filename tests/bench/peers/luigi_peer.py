"""Luigi: a chain of tasks and many independent ones under one, with its scheduler and targets in memory."""

from __future__ import annotations

import luigi
from luigi.mock import MockTarget
from peer import Peer, user_line


class Step(luigi.Task):
    number = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        return [Step(number=self.number - 1)] if self.number else []

    def output(self) -> MockTarget:
        return MockTarget(f"step-{self.number}")

    def run(self) -> None:
        user_line()
        with self.output().open("w") as file:
            file.write("0")


class Child(luigi.Task):
    number = luigi.IntParameter()

    def output(self) -> MockTarget:
        return MockTarget(f"child-{self.number}")

    def run(self) -> None:
        user_line()
        with self.output().open("w") as file:
            file.write("0")


class Children(luigi.WrapperTask):
    count = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        return [Child(number=number) for number in range(self.count)]


def chain(count: int) -> None:
    assert luigi.build([Step(number=count - 1)], local_scheduler=True, log_level="WARNING")


def mapped(count: int) -> None:
    assert luigi.build([Children(count=count)], local_scheduler=True, log_level="WARNING")


Peer(chain=chain, map=mapped).main()
