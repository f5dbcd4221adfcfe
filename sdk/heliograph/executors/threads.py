"""The executor that runs tasks in threads of this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from heliograph.exceptions import InvalidArgumentError
from heliograph.executors.base import Executor, Work, work_off

_LOOK_AGAIN_SECONDS = 0.5
_GRACE_SECONDS = 5.0
"""How long a cancelled run waits for all threads that hang in C code, before it ends without them."""


class ThreadsExecutor(Executor):
    """Runs tasks in threads of this process, mapped pipelines depth first.

    A worker that ends a task goes on with the task that became ready by it, so that chains stay in one thread and a
    mapped pipeline holds few intermediate values.

    Args:
        num_workers: Number of threads; by default that of the CPUs, at least 4.

    Raises:
        InvalidArgumentError: `num_workers` is not a positive whole number.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        if num_workers is not None and (type(num_workers) is not int or num_workers < 1):
            raise InvalidArgumentError(f"num_workers must be a whole number from 1, not {num_workers!r}")
        self.num_workers = num_workers or max(4, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def drive(self, work: Work) -> None:
        """Works off a flow run in the executor's threads; returns when it is over."""
        workers = [_Worker(work, number) for number in range(self.num_workers)]
        for worker in workers:
            worker.start()
        # A bare lock: the run may be ended by a signal handler of this very thread, wherever it is. The wait is short
        # because a signal that arrives just before it begins does not end it.
        ended = threading.Lock()
        ended.acquire()
        work.add_end(ended.release)
        try:
            while not ended.acquire(timeout=_LOOK_AGAIN_SECONDS):
                pass
        except BaseException as error:  # noqa: BLE001 - from a signal handler: the threads end with the run
            work.abort(error)
        given_up = time.monotonic() + _GRACE_SECONDS
        for worker in workers:
            worker.join(max(0.0, given_up - time.monotonic()))

    # --- functions by themselves ------------------------------------------------------------------------------------

    @contextmanager
    def start(self) -> Iterator[None]:
        """Starts the pool for submitted functions, for the duration of the block."""
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="heliograph") as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Submits a function, whose arguments may be futures of this executor, and returns its future.

        Raises:
            RuntimeError: The executor was not started.
        """
        del extra_context
        if self._pool is None:
            raise RuntimeError("submit needs a started executor: `with executor.start():`")
        return self._pool.submit(_call, fn, args, kwargs)

    def wait(self, futures: Any) -> Any:
        """Returns the values of futures: of one, or of those in a list, tuple, set or dict."""
        return _values(futures)


class LocalDaskExecutor(ThreadsExecutor):
    """The name that Prefect 1 users know. Runs tasks in this process's threads; Dask is not needed.

    Args:
        scheduler: `threads`, or `sync` for one task at a time.
        num_workers: Number of threads; by default that of the CPUs, at least 4.

    Raises:
        InvalidArgumentError: Another scheduler.
    """

    def __init__(self, scheduler: str = "threads", num_workers: int | None = None) -> None:
        aliases = {
            "threads": "threads", "threading": "threads",
            "sync": "sync", "synchronous": "sync", "single-threaded": "sync",
        }  # fmt: skip
        if scheduler not in aliases:
            raise InvalidArgumentError(
                f"LocalDaskExecutor knows the schedulers 'threads' and 'sync', not {scheduler!r}",
                hint="processes are not supported: threads share memory and need no pickling",
            )
        super().__init__(num_workers)
        self.scheduler = aliases[scheduler]

    def drive(self, work: Work) -> None:
        """Works off a flow run."""
        if self.scheduler == "sync":
            work_off(work)
        else:
            super().drive(work)


class _Worker(threading.Thread):
    def __init__(self, work: Work, number: int) -> None:
        super().__init__(name=f"heliograph-{number}", daemon=True)
        self.work = work

    def run(self) -> None:
        try:
            work_off(self.work)
        except BaseException as error:  # noqa: BLE001 - a fault of the engine: the run ends with it, not just this thread
            self.work.crash(error)


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*_values(args), **_values(kwargs))


def _values(futures: Any) -> Any:
    if isinstance(futures, Future):
        return futures.result()
    if isinstance(futures, list | tuple | set):
        return type(futures)(_values(item) for item in futures)
    if isinstance(futures, dict):
        return {key: _values(item) for key, item in futures.items()}
    return futures
