"""Batches that lie on the devices before the step that takes them asks for them."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from twostream_jax import mesh as meshes

# Batches on the devices that no step has taken yet: one to take at once, and one in reserve for an uneven reader.
QUEUED = 2
# How long the end of a run waits for the batch that is being read: longer takes a disk that does not answer.
CLOSE_S = 30.0


class DeviceBatches:
    """A generator's batches on the mesh, in its order: an iterator, to be closed.

    One thread of its own runs the generator from the first batch on, puts each on the mesh, and closes it: a generator
    belongs to one thread at a time. What it raises is raised where the batch would have come, as it was.

    On the devices lie at most QUEUED batches more than the steps under way have (`step_lines.AHEAD` + 1); on the host
    one, until there is room for it, beside what the generator keeps. (Grain's own `device_put` cannot take one process's
    rows of a batch of several, and hands over arrays that are still being copied, which would hide a slow copy.)
    """

    def __init__(self, batches: Generator[dict[str, np.ndarray], None, None], mesh: Mesh):
        self._mesh = mesh
        self._changed = threading.Condition()
        self._ready: deque[dict | BaseException] = deque()
        self._closed = False
        # Daemonic, so that a read that never returns (a dead network disk) cannot keep the program from ending.
        self._thread = threading.Thread(target=self._run, args=(batches,), name="device-batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        return self

    def __next__(self) -> dict[str, jax.Array]:
        """Return the next batch, waiting for it; raises what the generator raised, StopIteration at its end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready)
            if isinstance(self._ready[0], BaseException):
                raise self._ready[0]  # and again whenever it is asked for
            batch = self._ready.popleft()
            self._changed.notify_all()
            return batch

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; return whether `next` returns at once."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._ready, seconds))

    def close(self) -> None:
        """Stop after the batch that is being read, free those not taken, and wait until the generator is closed.

        For `CLOSE_S` at most.
        """
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._ready.append(StopIteration())
            self._changed.notify_all()
        self._thread.join(CLOSE_S)

    def _run(self, batches: Generator) -> None:
        try:
            with contextlib.closing(batches):
                self._put_all(batches)
            end: BaseException = StopIteration()
        except BaseException as error:  # whatever it is, the training thread must not wait for ever
            end = error
        self._hand_over(end)

    def _put_all(self, batches: Generator) -> None:
        for batch in batches:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._ready) < QUEUED)
                if self._closed:
                    return
            with jax.profiler.TraceAnnotation("batch to the devices"):
                placed = meshes.put_batch(batch, self._mesh)
                # Let go of before the next is read: the pipeline may fill the memory again once jax needs it no more.
                del batch
                jax.block_until_ready(placed)
            self._hand_over(placed)
            del placed

    def _hand_over(self, item: dict | BaseException) -> None:
        with self._changed:
            if not self._closed:
                self._ready.append(item)
            self._changed.notify_all()
