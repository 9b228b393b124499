"""The readable chain from integers to batches; the only module that imports grain.

Batch k is a pure function of (seed, k), so the place in the data is the step number: a resumed run starts its chain at
that step, and threads, worker processes, devices and hosts change nothing in what is drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import grain
import numpy as np

from input_pipeline import filling, sampling, transforms

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
    filler: filling.Filling

    def __call__(self, draws: dict) -> dict[str, np.ndarray]:
        return transforms.train_batch(self.records, draws, self.window, self.filler)


@dataclass(frozen=True)
class ReadEvalBatch:
    """A chunk of (video, anchor) pairs -> uint8 batch of whole frames."""

    records: object
    table: sampling.VideoTable
    window: transforms.Window
    filler: filling.Filling

    def __call__(self, chunk: dict) -> dict[str, np.ndarray]:
        height, width = chunk["bucket"]
        window = replace(self.window, height=height, width=width)
        return transforms.eval_batch(self.records, self.table, chunk, window, self.filler)


def _run(
    chain_of: Callable[[filling.Filling], grain.MapDataset], records: Sequence, reading: Reading
) -> Iterator[dict[str, np.ndarray]]:
    ahead = _BATCHES_AT_ONCE if reading.num_workers else min(_BATCHES_AT_ONCE, reading.num_threads)
    options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=BATCHES_AHEAD)
    if reading.num_workers:
        filler = filling.FillingProcesses(reading.num_workers, records)
    else:
        filler = filling.FillingThreads(reading.num_threads)
    with contextlib.closing(filler):
        iterator = iter(chain_of(filler).to_iter_dataset(options))
        try:
            while (batch := next(iterator, None)) is not None:
                yield batch
                del batch  # its memory is used again once nobody holds it
        finally:
            iterator.close()


def train_batches(
    records: Sequence, draw: DrawBatch, window: transforms.Window, *, start_step: int, steps: int, reading: Reading
) -> Iterator[dict[str, np.ndarray]]:
    """Return a generator of the uint8 batches of steps `start_step` .. `steps` - 1, this process's rows of each.

    records: those of each task, in the order of `draw.tables`.
    """
    chain = grain.MapDataset.range(start_step, steps).map(draw).map(KeepRows(reading.rows(draw.batch_size)))
    return _run(lambda filler: chain.map(ReadTrainBatch(tuple(records), window, filler)), records, reading)


def eval_batches(
    records, table: sampling.VideoTable, chunks: list[dict], window: transforms.Window, *, reading: Reading
) -> Iterator[dict[str, np.ndarray]]:
    """Return a generator of the batches of `chunks` (`sampling.eval_chunks`), this process's rows of each, in order."""
    # Chunks are of several sizes.
    own = [KeepRows(reading.rows(len(chunk["row"])))(chunk) for chunk in chunks]
    chain = grain.MapDataset.source(own)
    return _run(lambda filler: chain.map(ReadEvalBatch(records, table, window, filler)), (records,), reading)
