"""The lines of metrics.jsonl that training writes: gathered without waiting for the step that was just dispatched."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from twostream_jax.drivers.bad_batch import NotFinite
from twostream_jax.drivers.device_batches import DeviceBatches
from twostream_jax.drivers.starving import Starving
from twostream_jax.metrics import ClipMetrics
from twostream_jax.run_log import MetricsLog, NoLog

# Steps dispatched ahead of the one whose result is awaited. Without a limit the host would queue batches on the device
# until its memory is full; with two the device never waits for the host. The batches of AHEAD + 1 steps are on the device
# for as long as it takes to wait for the oldest, beside `device_batches.QUEUED` that no step has taken.
AHEAD = 2
# How often, while a batch is waited for, it is looked whether a step still runs. Of each wait in which the last one ends,
# at most so much is not counted.
LOOK_S = 0.001


def one_by_one(mesh: Mesh) -> bool:
    """Return whether a step should be dispatched only when the one before has ended: on a CPU, where it makes both slower.

    Full-size steps of the temporal net take 0.87 of the time so (two cores, batches of 8).
    """
    return mesh.devices.flat[0].platform == "cpu"


class StepLines:
    """Sums the steps' metrics and writes a line every `log_every` steps, once that step's result has come."""

    def __init__(
        self,
        log: MetricsLog | NoLog,
        log_every: int,
        batch_size: int,
        rate: Callable,
        tasks: tuple[str, ...] = ("",),
        *,
        one_by_one: bool = False,
        on_starving: Callable[[float], None] = lambda share: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._tasks = tasks
        self._log, self._log_every, self._batch_size, self._rate = log, log_every, batch_size, rate
        self._one_by_one, self._clock, self._starving = one_by_one, clock, Starving(on_starving)
        self._pending: deque[tuple[int, ClipMetrics]] = deque()
        self._sums = ClipMetrics.empty(len(self._tasks))
        self._steps, self._wait, self._since = 0, 0.0, clock()
        self._taken = 0  # the last step in the sums
        self.last: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The last line's loss and accuracy in words."""
        if not self.last:
            return ""
        return (
            f"loss {self.last['loss']:.3f}, clip accuracy of training batches {100 * self.last['clip_accuracy']:.1f} %"
        )

    def timed(self, batches: DeviceBatches) -> dict[str, jax.Array]:
        """Return the next batch; the time that it is waited for while no step is left running counts as `input_wait`.

        Steps are dispatched ahead, so a batch may come late and find the devices at work: that costs nothing.
        """
        with jax.profiler.TraceAnnotation("next batch"):
            while self._running():
                if batches.wait(LOOK_S):
                    return next(batches)
            # While there is nothing else to do, and not with the results of later steps: lines then have their own time.
            while self._pending:
                self._read_oldest()
            begun = self._clock()
            batch = next(batches)
            self._wait += self._clock() - begun
            return batch

    def _running(self) -> bool:
        return bool(self._pending) and not self._pending[-1][1].count.is_ready()

    def add(self, step: int, metrics: ClipMetrics) -> None:
        """Take the metrics of a step just dispatched, and wait for those of `AHEAD` steps before, or `one_by_one` for it."""
        self._pending.append((step, metrics))
        if self._one_by_one:
            jax.block_until_ready(metrics)
        while len(self._pending) > AHEAD:
            self._read_oldest()

    def require_finite(self) -> None:
        """Wait for the steps under way; NotFinite where a loss is no number, before anything is saved."""
        for step, metrics in self._pending:
            self._check(step, metrics.compute()["loss"])

    @staticmethod
    def _check(step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss}", step)

    def drain(self, extra: dict[str, float]) -> None:
        """Wait for the steps under way and write the line of the last of them, with the numbers in `extra` too.

        Called where a checkpoint is saved, so that no line averages steps from both sides of where a run resumes.
        """
        while len(self._pending) > 1:
            self._read_oldest()
        if self._pending:
            self._take_oldest()
        if self._steps:  # else the last step has its line already
            self._write(self._taken, extra)

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Leave what happens inside, once the steps under way are done, out of the rates."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1])
        begun = self._clock()
        yield
        self._since += self._clock() - begun

    def _read_oldest(self) -> None:
        step = self._take_oldest()
        if step % self._log_every == 0:
            self._write(step, {})

    def _take_oldest(self) -> int:
        """Add the oldest step under way to the sums, waiting for it; return its number."""
        step, metrics = self._pending.popleft()
        read = jax.device_get(metrics)
        self._check(step, read.compute()["loss"])
        self._sums = self._sums.merge(read)
        self._steps, self._taken = self._steps + 1, step
        return step

    def _write(self, step: int, extra: dict[str, float]) -> None:
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        numbers = {
            **self._sums.compute(self._tasks),
            "learning_rate": float(self._rate(step - 1)),
            "samples_per_second": self._steps * self._batch_size / seconds,
            "input_wait": min(self._wait / seconds, 1.0),
            **extra,
        }
        self._log.write(step, numbers)
        self.last = {"step": step, **numbers}
        self._starving.add(numbers["input_wait"])
        self._sums, self._steps, self._wait, self._since = ClipMetrics.empty(len(self._tasks)), 0, 0.0, now
