"""Integers only: which video, which frames, which fields, which crop, mirrored or not.

An *anchor* is the frame a sample stands for. A clip of F frames has F - 1 fields; field i moves frame i to frame i + 1,
so a stack of fields lo..hi around anchor t touches frames t + lo .. t + hi + 1. Anchors are the frames for which all of
those exist. Randomness comes as a NumPy Generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VideoTable:
    """The stored videos that may be drawn: their positions in the records and what sampling must know of them, [N] each."""

    position: np.ndarray
    label: np.ndarray
    frames: np.ndarray
    height: np.ndarray
    width: np.ndarray

    @classmethod
    def of(cls, videos, positions) -> VideoTable:
        """Return the table of the `positions` among `videos` (anything with label, frames, height and width)."""
        positions = np.asarray(positions, np.int64)
        columns = [[getattr(videos[i], name) for i in positions] for name in ("label", "frames", "height", "width")]
        return cls(positions, *(np.asarray(column, np.int64) for column in columns))


def anchor_span(
    streams, stack: int, flow_offset: int, bidirectional: bool = False, clip_frames: int = 1
) -> tuple[int, int]:
    """Return (before, after): how many frames a sample needs before and after its anchor.

    Without flow a frame stands for itself: (0, 0). A stack of L fields at offsets o .. o + L - 1 needs frames
    o .. o + L: (max(0, -o), max(0, o + L)). 2014 (eq. 1) has o = 0, so (0, L). Both directions reach L/2 frames each way
    (Sect. 3.1: "between frames t and t + L/2" and "between frames t - L/2 and t"). A clip of T frames begins at its
    anchor and adds T - 1 after it.
    """
    before, after = 0, 0
    if "flow" in streams:
        before, after = max(0, -flow_offset), max(0, flow_offset + stack)
        if bidirectional:
            before = after = stack // 2
    return before, after + clip_frames - 1


def num_anchors(num_frames, before: int, after: int):
    """Return how many frames of a video (or of each of an array of videos) can be anchors; at least 1."""
    return np.maximum(np.asarray(num_frames) - before - after, 1)


def _first_anchor(num_frames, before: int, after: int):
    """Return the first anchor; of a video too short for any, the frame in the middle of what it lacks."""
    short = (before + np.asarray(num_frames) - 1 - after) // 2
    return np.where(np.asarray(num_frames) > before + after, before, np.clip(short, 0, np.asarray(num_frames) - 1))


def eval_positions(num_frames: int, before: int, after: int, count: int = 25) -> np.ndarray:
    """Return `count` anchors spread evenly over a video, first and last included: int64 [count].

    Anchor i is first + floor(i (n - 1) / (count - 1)) of the n anchors there are (2014 Sect. 5: 25 frames "with equal
    temporal spacing"). Positions repeat when n < count; one position is the middle anchor.
    """
    n = int(num_anchors(num_frames, before, after))
    first = int(_first_anchor(num_frames, before, after))
    if count == 1:
        return np.asarray([first + (n - 1) // 2], np.int64)
    return first + np.arange(count, dtype=np.int64) * (n - 1) // (count - 1)


def field_indices(anchor: int, num_frames: int, stack: int, flow_offset: int) -> np.ndarray:
    """Return the fields of one stack, int64 [L]; indices that a short video lacks are clamped to 0 .. F - 2."""
    return np.clip(anchor + flow_offset + np.arange(stack, dtype=np.int64), 0, num_frames - 2)


def backward_indices(anchor: int, num_frames: int, count: int) -> np.ndarray:
    """Return the stored backward fields of frames anchor, anchor - 1, ..., int64 [count], clamped to 0 .. F - 2.

    The field of frame t points to frame t - 1; it is stored as number t - 1.
    """
    return np.clip(anchor - 1 - np.arange(count, dtype=np.int64), 0, num_frames - 2)


def frame_indices(anchor: int, num_frames: int, clip_frames: int) -> np.ndarray:
    """Return the frames of one clip, int64 [T], from the anchor on; those that a short video lacks are its last."""
    return np.clip(anchor + np.arange(clip_frames, dtype=np.int64), 0, num_frames - 1)


def train_indices(
    rng: np.random.Generator, table: VideoTable, batch_size: int, *, before: int, after: int, crop: int, flip: bool
) -> dict[str, np.ndarray]:
    """Return one batch of training draws, arrays of [batch_size] (`lighting` [batch_size, 3] float32).

    Classes are drawn uniformly, then a video of the class, then an anchor, then the top left corner of a `crop` px
    square anywhere in the frame (2014 Sect. 5: "uniformly across the classes", "from the whole frame").

    Every draw is made for every sample whether it is used or not, so that switching one augmentation off leaves the
    others as they were.
    """
    classes, first, count = np.unique(np.sort(table.label), return_index=True, return_counts=True)
    by_class = np.argsort(table.label, kind="stable")
    drawn = rng.integers(len(classes), size=batch_size)
    row = by_class[first[drawn] + rng.integers(count[drawn])]
    frames = table.frames[row]
    anchor = _first_anchor(frames, before, after) + rng.integers(num_anchors(frames, before, after))
    y = rng.integers(table.height[row] - crop + 1)
    x = rng.integers(table.width[row] - crop + 1)
    mirrored = rng.random(batch_size) < 0.5
    lighting = rng.standard_normal((batch_size, 3)).astype(np.float32)
    return {
        "video": table.position[row],
        "label": table.label[row],
        "anchor": anchor,
        "y": y,
        "x": x,
        "crop": np.full(batch_size, crop, np.int64),
        "flip": mirrored & flip,
        "lighting": lighting,
    }


def task_counts(rng: np.random.Generator, batch_size: int, shares: tuple[float, ...]) -> np.ndarray:
    """Return how many of a batch's samples each task has, int64 [tasks], in the ratio of `shares`.

    Each count is its quota `batch_size * share` (shares scaled to a sum of one) rounded up or down, so that the batch is
    full and the quota is met on average: of the running sums of the quotas, all moved on by one draw from [0, 1), the
    whole numbers between two neighbours are counted (systematic sampling).
    """
    bounds = np.cumsum(shares, dtype=np.float64)
    bounds *= batch_size / bounds[-1]
    # The last bound is the batch size itself, whatever the rounding of the sums.
    bounds[-1] = batch_size
    moved = np.floor(bounds + rng.random()).astype(np.int64)
    return np.diff(np.minimum(moved, batch_size), prepend=0)


def mixed_indices(
    rng: np.random.Generator, tables: tuple[VideoTable, ...], shares: tuple[float, ...], batch_size: int, **draw
) -> dict[str, np.ndarray]:
    """Return one batch of draws from several tasks' videos: `train_indices` with `task` int64 [batch_size] beside.

    `video` and `label` count within the sample's own task. The tasks' samples stand in random order, so that every
    device and every part of the batch has its share of each. `draw` are the keywords of `train_indices`.
    """
    if len(tables) == 1:
        return train_indices(rng, tables[0], batch_size, **draw) | {"task": np.zeros(batch_size, np.int64)}
    counts = task_counts(rng, batch_size, shares)
    order = rng.permutation(batch_size)
    parts = [train_indices(rng, table, int(n), **draw) for table, n in zip(tables, counts, strict=True)]
    drawn = {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}
    return drawn | {"task": np.repeat(np.arange(len(tables)), counts)[order]}


def size_bucket(height: int, width: int, multiple: int = 64) -> tuple[int, int]:
    """Return the padded (height, width) that frames of this size are evaluated at.

    Padding costs the copy to the device and, where it is computed once a frame, a share of conv1: 342 px in 384 an eighth of
    it. Each new shape costs a compilation: so the grid is coarse.
    """
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def crops_apart(height: int, width: int, crop: int) -> tuple[int, ...] | None:
    """Return which of the four corner crops and the centre, from 0, a layer of stride 2 must see by themselves, or None.

    They are those at an odd y or x in a frame of this size; the layer's map of the whole frame, as large as its bucket,
    has all others. None where it takes fewer pixels to compute each crop by itself.
    """
    down, right = height - crop, width - crop
    origins = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    odd = tuple(place for place, (y, x) in enumerate(origins) if y % 2 or x % 2)
    return odd if math.prod(size_bucket(height, width)) < (len(origins) - len(odd)) * crop**2 else None


def eval_chunks(
    table: VideoTable,
    batch_size: int,
    *,
    before: int,
    after: int,
    count: int,
    crop: int | None = None,
    multiple: int = 1,
) -> list[dict]:
    """Return the batches of an evaluation: {"bucket": (H, W), "apart", "row": [n], "anchor": [n], "weight": [n]}.

    `row` counts within `table`, `apart` is `crops_apart`, None without a `crop`. Each position of each video stands in
    exactly one batch, a video's next to each other; `weight`, float32, is how many of its `count` positions it is. Batches
    hold one bucket and one `apart`. Those of such are of one size, at most `batch_size` rounded up to a multiple of
    `multiple`, and the last are padded by repeating their first item with weight 0.
    """
    groups: dict[tuple, list[tuple[int, int, int]]] = {}
    for row in range(len(table.position)):
        height, width = int(table.height[row]), int(table.width[row])
        apart = None if crop is None else crops_apart(height, width, crop)
        positions = eval_positions(int(table.frames[row]), before, after, count)
        group = groups.setdefault((size_bucket(height, width), apart), [])
        anchors, times = np.unique(positions, return_counts=True)
        group += zip([row] * len(anchors), anchors.tolist(), times.tolist(), strict=True)
    chunks = []
    for (bucket, apart), items in sorted(groups.items(), key=repr):
        # As many batches as there must be, but no larger than they need be: what is padded is computed like the rest.
        size = -(-len(items) // -(-len(items) // batch_size))
        size = -(-size // multiple) * multiple
        for start in range(0, len(items), size):
            part = items[start : start + size]
            row, anchor, weight = np.asarray(part + [(*part[0][:2], 0)] * (size - len(part)), np.int64).T
            chunk = {"bucket": bucket, "apart": apart, "row": row, "anchor": anchor}
            chunks.append(chunk | {"weight": weight.astype(np.float32)})
    return chunks
