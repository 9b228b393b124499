"""The readable chain from integers to batches; the only module that imports grain.

Batch k is a pure function of (seed, k), so the place in the data is the step number: a resumed run starts its chain at
that step, and threads, worker processes, devices and hosts change nothing in what is drawn.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import signal
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker

import grain
import numpy as np
from absl import flags

from input_pipeline import sampling, transforms, workers
from input_pipeline.batch_memory import BatchMemory, RowThreads

# Batches that are filled at the same time, so that threads which have done their part of one begin the next; and those
# that are ready or being filled. Grain's own default keeps 500 elements, each a whole batch here: of the paper's 256 stacks
# 257 MB.
_BATCHES_AT_ONCE = 2
BATCHES_AHEAD = 3


@dataclass(frozen=True)
class Reading:
    """How batches are read: which threads and processes work, and which rows this process keeps."""

    num_threads: int = 8
    num_workers: int = 0
    process_index: int = 0
    process_count: int = 1

    def rows(self, batch_size: int) -> slice:
        """Return the contiguous rows of a global batch that this process's devices hold."""
        per_process = batch_size // self.process_count
        return slice(self.process_index * per_process, (self.process_index + 1) * per_process)


@dataclass(frozen=True)
class DrawBatch:
    """Step number -> the integers of that step's global batch."""

    tables: tuple[sampling.VideoTable, ...]  # of each task
    batch_size: int
    before: int
    after: int
    crop: int
    flip: bool
    seed: int
    shares: tuple[float, ...] = (1.0,)  # of each task in a batch, relative to the others'

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, step])
        draw = {"before": self.before, "after": self.after, "crop": self.crop, "flip": self.flip}
        return sampling.mixed_indices(rng, self.tables, self.shares, self.batch_size, **draw)


@dataclass(frozen=True)
class KeepRows:
    """Integers of a global batch -> those of this process's rows."""

    rows: slice

    def __call__(self, draws: dict) -> dict:
        return {key: value[self.rows] if isinstance(value, np.ndarray) else value for key, value in draws.items()}


@dataclass(frozen=True)
class ReadTrainBatch:
    """Integers -> uint8 training batch."""

    records: tuple  # of each task
    window: transforms.Window
    filling: transforms.Filling

    def __call__(self, draws: dict) -> dict[str, np.ndarray]:
        return transforms.train_batch(self.records, draws, self.window, self.filling)


@dataclass(frozen=True)
class ReadEvalBatch:
    """A chunk of (video, anchor) pairs -> uint8 batch of whole frames."""

    records: object
    table: sampling.VideoTable
    window: transforms.Window
    filling: transforms.Filling

    def __call__(self, chunk: dict) -> dict[str, np.ndarray]:
        height, width = chunk["bucket"]
        window = replace(self.window, height=height, width=width)
        return transforms.eval_batch(self.records, self.table, chunk, window, self.filling)


def _run(chain: grain.MapDataset, filling: transforms.Filling, reading: Reading) -> Iterator[dict[str, np.ndarray]]:
    options = grain.ReadOptions(
        num_threads=min(_BATCHES_AT_ONCE, reading.num_threads), prefetch_buffer_size=BATCHES_AHEAD
    )
    dataset = chain.to_iter_dataset(options)
    if reading.num_workers:
        # Grain's worker processes read absl's flags, which nobody else parses here, and import jax, which must leave
        # the accelerator to this process.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        os.environ["JAX_PLATFORMS"] = "cpu"
        copies = _OwnCopies()
        workers_options = grain.MultiprocessingOptions(num_workers=reading.num_workers)
        dataset = dataset.mp_prefetch(workers_options, worker_init_fn=_start_worker).map(copies)
    iterator = iter(dataset)
    try:
        # Grain starts its threads and processes when the first batch is asked for.
        with _interrupts_held_back() if reading.num_workers else contextlib.nullcontext():
            batch = next(iterator, None)
        while batch is not None:
            yield batch
            batch = next(iterator, None)
    finally:
        # Else worker processes are killed at exit, and leave behind the shared memory that batches lie in; Grain's own
        # objects, which hold the last of them, stand in cycles.
        iterator.close()
        del iterator, dataset
        filling.threads.close()
        if reading.num_workers:
            copies.wait_until_freed()


def _filling(reading: Reading) -> transforms.Filling:
    return transforms.Filling(BatchMemory(), RowThreads(reading.num_threads))


class _OwnCopies:
    """Batch -> the same outside of the memory shared with the worker that made it.

    The device may hold on to a batch until the program ends, which is too late to give shared memory back.
    """

    def __init__(self):
        # The last arrays in shared memory that were handed over: Grain's threads may hold on to them for a moment.
        self._shared: collections.deque[weakref.ref] = collections.deque(maxlen=100)
        self._kinds: set[type] = set()

    def __call__(self, batch: dict) -> dict[str, np.ndarray]:
        self._shared.extend(weakref.ref(value) for value in batch.values())
        self._kinds.update(map(type, batch.values()))
        return {key: np.array(value) for key, value in batch.items()}

    def wait_until_freed(self, seconds: float = 5.0) -> None:
        """Collect garbage until nobody holds shared memory, or the time is over."""
        limit = time.monotonic() + seconds
        gc.collect()
        while any(array() is not None for array in self._shared) and time.monotonic() < limit:
            time.sleep(0.01)
            gc.collect()
        # Grain gives the memory back in a thread of its own, which the end of the program would cut off: when the thread
        # has done one thing more, it has done those before.
        for thread in (getattr(kind, "_del_thread_pool", None) for kind in self._kinds):
            if thread is not None:
                thread.apply_async(int).wait(seconds)


def _start_worker(index: int, count: int) -> None:
    workers.start_worker()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C waiting, in this thread and for good in the threads and processes started meanwhile.

    Ctrl-C reaches the whole process group, and a worker takes seconds to come so far that it can say for itself that it
    leaves the answer to the parent; until then it would print a traceback. What is held back is inherited.
    """
    # Python's multiprocessing takes back what is held back where it starts this helper, so it must be there already.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def train_batches(
    records: Sequence, draw: DrawBatch, window: transforms.Window, *, start_step: int, steps: int, reading: Reading
) -> Iterator[dict[str, np.ndarray]]:
    """Return a generator of the uint8 batches of steps `start_step` .. `steps` - 1, this process's rows of each.

    records: those of each task, in the order of `draw.tables`.
    """
    filling = _filling(reading)
    chain = (
        grain.MapDataset.range(start_step, steps)
        .map(draw)
        .map(KeepRows(reading.rows(draw.batch_size)))
        .map(ReadTrainBatch(tuple(records), window, filling))
    )
    return _run(chain, filling, reading)


def eval_batches(
    records, table: sampling.VideoTable, chunks: list[dict], window: transforms.Window, *, reading: Reading
) -> Iterator[dict[str, np.ndarray]]:
    """Return a generator of the batches of `chunks` (`sampling.eval_chunks`), this process's rows of each, in order."""
    filling = _filling(reading)
    own = [KeepRows(reading.rows(len(chunk["row"])))(chunk) for chunk in chunks]
    chain = grain.MapDataset.source(own).map(ReadEvalBatch(records, table, window, filling))
    return _run(chain, filling, reading)
