"""What a run leaves in writing: metrics.jsonl, tensorboard, and progress on the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tensorboardX import SummaryWriter

from twostream_jax.files import write_text


def read_metrics(workdir: Path) -> list[dict]:
    """Return the lines of a run's metrics.jsonl; a last line that a crash cut short is left out."""
    path = workdir / "metrics.jsonl"
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class MetricsLog:
    """Writes lines of numbers to `metrics.jsonl` and to `tensorboard/`; each step stands there once.

    A run that continues from `start_step` first drops the lines of later steps, which it will write again.
    """

    def __init__(self, workdir: Path, start_step: int):
        kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        write_text(workdir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        self._file = (workdir / "metrics.jsonl").open("a", encoding="utf-8")
        # purge_step hides what an earlier process wrote of the steps that come again.
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Append one line: the step and its numbers."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


class NoLog:
    """Stands in for `MetricsLog` in the processes of a run that do not write."""

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def time_left(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows how far a long piece of work is: one line rewritten on a terminal, one line every half minute elsewhere."""

    def __init__(self, what: str, unit: str, clock: Callable[[], float] = time.monotonic, stream=None):
        self._what, self._unit, self._clock = what, unit, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else 30.0
        self._start = self._last = clock()
        self._first_done: int | None = None
        self._ended = False

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total` units, the rate since the start and the time left."""
        now = self._clock()
        if self._first_done is None:
            self._first_done = done
        ends = done >= total and not self._ended
        if now - self._last < self._interval and not ends:
            return
        self._last, self._ended = now, done >= total
        rate = (done - self._first_done) / max(now - self._start, 1e-9)
        left = f", {time_left((total - done) / rate)} left" if rate > 0 and done < total else ""
        note = f"  {note}" if note else ""
        line = f"{self._what}: {done}/{total} {self._unit}, {rate:.1f} {self._unit}/s{left}{note}"
        # Erase to the end of the line, since a shorter text would leave the tail of a longer one.
        self._stream.write(f"\r{line}\033[K" if self._terminal else line + "\n")
        self._stream.flush()

    def say(self, line: str) -> None:
        """Print a whole line on standard output without tearing the rewritten one."""
        if self._terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()
        print(line, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the rewritten line."""
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()
