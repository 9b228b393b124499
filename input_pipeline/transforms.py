"""Reads and lays out one uint8 batch: JPEGs are decoded straight into their place, and nothing becomes float here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline import sampling


@dataclass(frozen=True)
class Window:
    """What of a sample is read: the streams, the frames and fields around the anchor, and the window's size in px."""

    streams: tuple[str, ...]
    stack: int
    flow_offset: int
    height: int
    width: int
    bidirectional: bool = False  # half of the stack's fields are forward ones from the anchor, half backward ones
    clip_frames: int = 1
    whole: bool = False  # training: whole frames are read, as for testing, and the crop box lies within


def _empty_batch(window: Window, n: int) -> dict[str, np.ndarray]:
    batch = {"size": np.zeros((n, 2), np.int32)}
    time, stack = window.clip_frames, window.stack
    if "rgb" in window.streams:
        batch["rgb"] = np.zeros((n, time, window.height, window.width, 3), np.uint8)
    if "flow" in window.streams:
        batch["flow"] = np.zeros((n, time, stack, 2, window.height, window.width), np.uint8)
        batch["mean"] = np.zeros((n, time, stack, 2), np.float32)
        batch["bound"] = np.zeros(n, np.float32)
    return batch


def _place(target: np.ndarray, image: np.ndarray, y: int, x: int) -> tuple[int, int]:
    """Copy the part of `image` from (y, x) on that fits into `target` [h, w, ...]; return its height and width."""
    part = image[y : y + target.shape[0], x : x + target.shape[1]]
    target[: part.shape[0], : part.shape[1]] = part
    return part.shape[:2]


def read_windows(sources, videos, anchors, ys, xs, window: Window) -> dict[str, np.ndarray]:
    """Return `rgb`, `flow`, `mean`, `bound` (by the window's streams) and `size` of a batch; see `schema`.

    sources: the records of each sample, [B]; videos, anchors, ys, xs: integers [B], the position in these records, the
    anchor frame, and the window's top left corner in the stored frame. A frame smaller than the window fills its top
    left; `size` says how far.
    """
    batch = _empty_batch(window, len(videos))
    for b, (records, video, anchor, y, x) in enumerate(zip(sources, videos, anchors, ys, xs, strict=True)):
        video, corner = int(video), (y, x)
        stored = records.videos[video]
        indices = sampling.frame_indices(int(anchor), stored.frames, window.clip_frames)
        if "rgb" in window.streams:
            for jpeg, i, target in zip(records.frame_jpegs(video, indices), indices, batch["rgb"][b], strict=True):
                batch["size"][b] = _place(target, records.frame(jpeg, video, int(i)), *corner)
        if "flow" in window.streams:
            batch["bound"][b] = stored.bound_px
            for i, levels, means in zip(indices, batch["flow"][b], batch["mean"][b], strict=True):
                batch["size"][b] = _read_stack(records, video, int(i), corner, window, levels, means)
    return batch


def _read_stack(records, video: int, anchor: int, corner, window: Window, levels, means) -> tuple[int, int]:
    """Fill in levels [L, 2, h, w] and means [L, 2] of one stack; return the height and width that were there."""
    frames = records.videos[video].frames
    if not window.bidirectional:
        indices = sampling.field_indices(anchor, frames, window.stack, window.flow_offset)
        return _read_fields(records, video, indices, False, corner, levels, means)
    half = window.stack // 2
    forward = sampling.field_indices(anchor, frames, half, 0)
    backward = sampling.backward_indices(anchor, frames, half)
    _read_fields(records, video, forward, False, corner, levels[:half], means[:half])
    return _read_fields(records, video, backward, True, corner, levels[half:], means[half:])


def _read_fields(records, video: int, indices, backward: bool, corner, levels, means) -> tuple[int, int]:
    folder = "flow_backward" if backward else "flow"
    size = (0, 0)
    for k, (*jpegs, mean) in enumerate(records.field_jpegs(video, indices, backward)):
        for target, jpeg in zip(levels[k], jpegs, strict=True):
            size = _place(target, records.plane(jpeg, video, int(indices[k]), folder), *corner)
        means[k] = mean
    return size


def train_batch(records: Sequence, draws: dict[str, np.ndarray], window: Window) -> dict[str, np.ndarray]:
    """Return the training batch of these draws (`sampling.mixed_indices`), from the `records` of each task.

    The window is the crop, or the whole frame.
    """
    corners = np.stack([draws["y"], draws["x"]], axis=1)
    origins = np.zeros_like(corners) if window.whole else corners
    sources = [records[task] for task in draws["task"]]
    batch = read_windows(sources, draws["video"], draws["anchor"], origins[:, 0], origins[:, 1], window)
    n, side = len(corners), draws["crop"][:, None]
    batch["crop"] = np.concatenate([corners - origins, side, side], axis=1).astype(np.int32)
    batch["flip"] = draws["flip"]
    if "rgb" in window.streams:
        batch["lighting"] = draws["lighting"]
    batch["label"] = draws["label"].astype(np.int32)
    batch["task"] = draws["task"].astype(np.int32)
    batch["weight"] = np.ones(n, np.float32)
    return batch


def eval_batch(records, table: sampling.VideoTable, chunk: dict, window: Window) -> dict[str, np.ndarray]:
    """Return the evaluation batch of a chunk (`sampling.eval_chunks`): whole frames, padded to the chunk's bucket."""
    n = len(chunk["row"])
    zeros = np.zeros(n, np.int64)
    return read_windows([records] * n, table.position[chunk["row"]], chunk["anchor"], zeros, zeros, window)
