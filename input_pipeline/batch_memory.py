"""What fills batches: memory that is used again, and threads that share the rows of one batch."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Arrays begin at multiples of this many bytes, so that jax on a CPU can take them as they are, without a copy.
_ALIGNMENT = 64
# Parts that each thread gets of a batch's rows: enough for all to end at about the same time.
_PARTS = 4


class BatchMemory:
    """Hands out arrays in memory that is used again once nobody holds an array in it any more.

    The system clears every page of fresh memory, which takes as long as filling it. May be shared between threads, and
    pickled: each process has memory of its own.
    """

    def __init__(self):
        self._lock = threading.Lock()
        # Each block, and the array that was last handed out in it.
        self._blocks: list[tuple[np.ndarray, weakref.ref]] = []

    def __reduce__(self):
        return BatchMemory, ()

    def array(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Return an array of whatever the memory holds; zeros are not to be expected."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            block = self._free_block(size)
            # Not of an ndarray: views of views refer to the last array that has no ndarray below it, which is this one.
            # So it lives as long as any view of it, jax's included.
            whole = np.frombuffer(memoryview(block), np.uint8, size)
            self._blocks.append((block, weakref.ref(whole)))
        return whole.view(dtype).reshape(shape)

    def _free_block(self, size: int) -> np.ndarray:
        """Return a block of at least this size, taken out of the list; too small ones that are free are given up."""
        free = [place for place, (_, user) in enumerate(self._blocks) if user() is None]
        for place in free:
            if self._blocks[place][0].size >= size:
                return self._blocks.pop(place)[0]
        if free:
            del self._blocks[free[0]]
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        return memory[-memory.ctypes.data % _ALIGNMENT :][:size]


class RowThreads:
    """Runs a function for each row of a batch in a few threads; may be pickled, each process has threads of its own."""

    def __init__(self, count: int):
        self.count = count
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def __reduce__(self):
        return RowThreads, (self.count,)

    def __call__(self, fill: Callable[[int], None], rows: int) -> None:
        """Return when `fill(row)` has run for every row, in any order; raises what the first of them raises."""
        if self.count < 2:  # 0 is no thread at all: the work is done here
            _run(fill, range(rows))
            return
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, "batch_row")
        parts = min(rows, _PARTS * self.count)
        work = [range(rows * i // parts, rows * (i + 1) // parts) for i in range(parts)]
        for _ in self._pool.map(lambda part: _run(fill, part), work):
            pass

    def close(self) -> None:
        """Let the threads end once they have done what is left."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None


def _run(fill: Callable[[int], None], rows: range) -> None:
    for row in rows:
        fill(row)
