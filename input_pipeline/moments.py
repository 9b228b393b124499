"""Frames with their times, one after another, and the hops that a sliding window moves on by."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.videos import iterate_frames, probe_video

# Where a container does not state its frame rate.
ASSUMED_RATE = 25.0  # frames per second
# Rates beyond these are no rates: some containers state their clock's ticks, and cameras 0 or -1.
_RATES = (0.1, 1000.0)


@dataclass(frozen=True)
class Moment:
    """One frame and when it was seen, in seconds since the first one."""

    start_s: float
    end_s: float
    frames: dict[int, np.ndarray]  # uint8 RGB [H, W, 3] by its smallest side in px
    follows: bool = True  # False where frames are missing before it


@dataclass(frozen=True)
class Hop:
    """Neighbouring frames, of which the last `new` have not been in a hop before; it is the `Source` of a `Video`."""

    moments: tuple[Moment, ...]
    new: int
    lost: int = 0  # frames before it that came too few for a hop between two gaps

    @property
    def end_s(self) -> float:
        """When its last frame ends."""
        return self.moments[-1].end_s

    @property
    def start_s(self) -> float:
        """When the first of its new frames begins."""
        return self.moments[-self.new].start_s

    @property
    def begins(self) -> bool:
        """Whether nothing went before: at the beginning, and where frames are missing."""
        return self.new == len(self.moments)

    def with_lead(self, frames: int) -> Hop:
        """Return the hop with at most so many frames before the new ones; one that begins is returned as it is."""
        return self if self.begins else Hop(self.moments[-self.new - frames :], self.new)

    def exists(self) -> bool:
        """Return True: it is in memory."""
        return True

    def size_bytes(self) -> int:
        """Return the bytes of its frames."""
        return sum(frame.nbytes for moment in self.moments for frame in moment.frames.values())

    def count_frames(self) -> int:
        """Return how many frames it has."""
        return len(self.moments)

    def frames(self, short_side: int) -> Iterator[np.ndarray]:
        """Yield its frames of that smallest side, uint8 RGB [H, W, 3]."""
        return (moment.frames[short_side] for moment in self.moments)


def cut_hops(moments: Iterable[Moment], hop_s: float, lead: int) -> Iterator[Hop]:
    """Yield hops of `hop_s` seconds each, at least one frame, the last one shorter; at most two hops' frames are held.

    A hop has the `lead` frames before its new ones too, which stacks of flow that end in the new ones begin with. The
    first one has `lead` frames more that are new, so that all hops have as many frames. Where frames are missing the
    next hop begins anew in that way. At the end what is too short for a single whole stack is left out, unless there has
    been nothing else.
    """
    gathered: list[Moment] = []
    new, lost, due_s, any_hop = 0, 0, None, False
    for moment in moments:
        if not moment.follows:
            lost += new
            gathered, new, due_s = [], 0, None
        gathered.append(moment)
        new += 1
        if due_s is None and new > lead:
            due_s = moment.start_s + hop_s
        # Rates such as 29.97 make hops end within the rounding of a frame's end.
        if due_s is None or moment.end_s < due_s - 1e-6:
            continue
        yield Hop(tuple(gathered), new, lost)
        gathered, new, lost, any_hop = gathered[len(gathered) - lead :], 0, 0, True
        while due_s <= moment.end_s + 1e-6:
            due_s += hop_s
    if new and (len(gathered) > lead or not any_hop):
        yield Hop(tuple(gathered), new, lost)


class VideoFile:
    """The moments of a video file, whose frames are decoded once a smallest side, usually once."""

    dropped = 0  # frames: a file waits

    def __init__(self, path: str | os.PathLike, short_sides: Sequence[int]):
        """Raises UserError ("<path>: <reason>") for a file that cannot be opened."""
        self._path, self._sides = Path(path), tuple(short_sides)
        frames, rate, _, _ = probe_video(path)
        self.rate = usable_rate(rate)  # frames per second
        self.total = frames or None  # as the container states it

    def moments(self) -> Iterator[Moment]:
        """Yield its frames, at equal distances in time. Raises UserError as `iterate_frames` does."""
        sizes = [iterate_frames(self._path, side) for side in self._sides]
        for number, frames in zip(itertools.count(), zip(*sizes, strict=True), strict=False):
            yield Moment(number / self.rate, (number + 1) / self.rate, dict(zip(self._sides, frames, strict=True)))


def usable_rate(stated: float) -> float:
    """Return frames per second: those that a container or camera states, or `ASSUMED_RATE` where that is none."""
    return stated if _RATES[0] <= stated <= _RATES[1] else ASSUMED_RATE
