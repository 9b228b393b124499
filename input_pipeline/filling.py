"""Who fills batches: a few threads of this process, or worker processes that write into memory shared with it.

Both are called as `filling(fill, records, batch, items, window)` and return when `fill(records, batch, item, window)` has
run for every item, in any order. Threads suit JPEGs, whose decoder leaves Python to the others; with many short calls, as
DCT records need, they stand in each other's way, and only processes add up.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from input_pipeline import workers
from input_pipeline.batch_memory import BatchMemory, SharedPlace, open_place
from input_pipeline.schema import UserError

# (records of each task, arrays of the batch, what of it is to be filled, the window).
Fill = Callable[[Sequence, dict[str, np.ndarray], Any, Any], None]

# Parts that each thread or process gets of a batch: enough for all to end at about the same time.
_PARTS = 4


class FillingThreads:
    """Fills batches in `count` threads, or, below two, in the thread that asks for it."""

    def __init__(self, count: int):
        self.count, self.memory = count, BatchMemory()
        # Its threads begin with the first work.
        self._pool = ThreadPoolExecutor(count, "batch") if count > 1 else None

    def __call__(self, fill: Fill, records: Sequence, batch: dict[str, np.ndarray], items: list, window) -> None:
        """Return when all items are filled; raises what the first of them raises."""
        if self._pool is None:
            _fill_all(fill, records, batch, items, window)
            return
        _wait([self._pool.submit(_fill_all, fill, records, batch, p, window) for p in _parts(items, self.count)])

    def close(self) -> None:
        """Let the threads end once they have done what they are at."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


class FillingProcesses:
    """Fills batches in `count` worker processes, which have the records open and write where the batch lies."""

    def __init__(self, count: int, records: Sequence):
        self.count, self.memory = count, BatchMemory(shared=True)
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, _start, (tuple(records),))
        # Started here and now: a process inherits from the thread that starts it that Ctrl-C is held back.
        with _interrupts_held_back():
            self._started = [self._pool.submit(int) for _ in range(count)]

    def __call__(self, fill: Fill, records: Sequence, batch: dict[str, np.ndarray], items: list, window) -> None:
        """Return when all items are filled; raises what the first of them raises. `records` are those of the start."""
        places = {key: self.memory.place(value) for key, value in batch.items()}
        try:
            _wait([self._pool.submit(_fill_there, fill, places, p, window) for p in _parts(items, self.count)])
        except BrokenProcessPool as error:
            raise UserError(
                f"data.num_workers={self.count}: a worker process has died, perhaps of too little memory; lower it, or the "
                "batch, and run the same command again"
            ) from error

    def close(self) -> None:
        """Wait until the processes have ended."""
        self._pool.shutdown(cancel_futures=True)


Filling = FillingThreads | FillingProcesses


def _parts(items: list, count: int) -> list[list]:
    """Return the items in runs of about the same length, some for each of `count`."""
    parts = min(len(items), _PARTS * count)
    return [items[len(items) * i // parts : len(items) * (i + 1) // parts] for i in range(parts)]


def _wait(futures: list[Future]) -> None:
    """Return when all are done; of those that raise, raise what the first does, without beginning any more of them."""
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()


def _fill_all(fill: Fill, records: Sequence, batch: dict[str, np.ndarray], items: list, window) -> None:
    for item in items:
        fill(records, batch, item, window)


# Of a worker process: the records that it was started with.
_records: Sequence = ()


def _start(records: Sequence) -> None:
    global _records
    workers.start_worker()
    _records = records


def _fill_there(fill: Fill, places: dict[str, SharedPlace], items: list, window) -> None:
    _fill_all(fill, _records, {key: open_place(place) for key, place in places.items()}, items, window)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C waiting, in this thread and for good in the threads and processes started meanwhile.

    Ctrl-C reaches the whole process group, and a worker takes a while to come so far that it can say for itself that it
    leaves the answer to the parent; until then it would print a traceback. What is held back is inherited.
    """
    # Python's multiprocessing takes back what is held back where it starts this helper, so it must be there already.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
