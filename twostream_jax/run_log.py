"""What a run leaves in writing: metrics.jsonl, tensorboard, and progress on the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from input_pipeline.schema import UserError
from twostream_jax.files import cannot_write, write_text


def read_metrics(workdir: Path) -> list[dict]:
    """Return the lines of a run's metrics.jsonl; a last line that a crash cut short is left out.

    UserError naming a line before it that is no object with a `step`.
    """
    path = workdir / "metrics.jsonl"
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        elif number < len(texts):
            raise UserError(f"{path}: line {number} is not one that training writes ({text[:40]!r}); delete that line")
    return lines


class MetricsLog:
    """Writes lines of numbers to `metrics.jsonl` and to `tensorboard/`; each step stands there once.

    A run that continues from `start_step` first drops the lines of later steps, which it will write again. UserError
    naming the file where one cannot be written.
    """

    def __init__(self, workdir: Path, start_step: int, clock: Callable[[], float] = time.time):
        self._path, self._clock = workdir / "metrics.jsonl", clock
        kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        with self._naming(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        self._folder = workdir / "tensorboard"
        with self._naming(self._folder):
            self._board = _new_events(self._folder, kept, clock())

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Append one line: the step and its numbers."""
        line = {"step": step, **numbers}
        with self._naming(self._path, self._file):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        with self._naming(self._folder, self._board):
            self._board.write(_event(line, self._clock()))
            self._board.flush()

    def close(self) -> None:
        """Close both."""
        for path, file in ((self._path, self._file), (self._folder, self._board)):
            with self._naming(path, file):
                file.close()

    @contextlib.contextmanager
    def _naming(self, path: Path, file: IO | None = None) -> Iterator[None]:
        """Turn an OSError inside into a line that names the path; the file is given up."""
        try:
            yield
        except OSError as error:
            # Closing writes what is still buffered, which fails as it did before; a second close does nothing.
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()
            raise cannot_write(path, error) from error


def _new_events(folder: Path, lines: list[dict], now: float) -> BinaryIO:
    """Return the folder's only event file, holding `lines`, open at its end.

    It takes the place of those of earlier starts, so that nothing stands there twice. (tensorboardX's own writer appends
    a file a start and leaves it to the viewer to hide repeated steps; its thread dies on a full disk.)
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = list(folder.glob("*tfevents*"))
    # A viewer that is open meanwhile takes START as the word to forget what it has read.
    start = SessionLog(status=SessionLog.START)
    heads = (Event(wall_time=now, file_version="brain.Event:2"), Event(wall_time=now, session_log=start))
    aside = folder / "new.part"
    aside.write_bytes(b"".join([*map(_framed, heads), *(_event(line, now) for line in lines)]))
    # Viewers read files in the order of their names, so a later one must sort behind.
    path = folder / f"events.out.tfevents.{now:017.6f}"
    os.replace(aside, path)
    for old in earlier:
        if old != path:
            old.unlink()
    return path.open("ab")


def _event(line: dict, now: float) -> bytes:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in line.items() if name != "step"]
    return _framed(Event(step=line["step"], wall_time=now, summary=Summary(value=values)))


def _framed(event: Event) -> bytes:
    """Return a record of an event file: length, its checksum, that many bytes, their checksum (TFRecord's format)."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))])


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

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Show `done` of `total` units (None: nobody knows how many), the rate since the start and the time left."""
        now = self._clock()
        if self._first_done is None:
            self._first_done = done
        at_end = total is not None and done >= total
        ends = at_end and not self._ended
        if now - self._last < self._interval and not ends:
            return
        self._last, self._ended = now, at_end
        rate = (done - self._first_done) / self.seconds
        left = f", {time_left((total - done) / rate)} left" if rate > 0 and total is not None and not at_end else ""
        note = f"  {note}" if note else ""
        of = "" if total is None else f"/{total}"
        line = f"{self._what}: {done}{of} {self._unit}, {rate:.1f} {self._unit}/s{left}{note}"
        # Erase to the end of the line, since a shorter text would leave the tail of a longer one.
        self._stream.write(f"\r{line}\033[K" if self._terminal else line + "\n")
        self._stream.flush()

    @property
    def seconds(self) -> float:
        """Seconds since the start, above 0."""
        return max(self._clock() - self._start, 1e-9)

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
