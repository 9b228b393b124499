"""Reads and lays out one uint8 batch: JPEGs are decoded straight into their place, and nothing becomes float here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from input_pipeline import sampling


@dataclass(frozen=True)
class Window:
    """What of a sample is read: the streams, the fields around the anchor, and the window's size in px."""

    streams: tuple[str, ...]
    stack: int
    flow_offset: int
    height: int
    width: int


def _empty_batch(window: Window, n: int) -> dict[str, np.ndarray]:
    batch = {"size": np.zeros((n, 2), np.int32)}
    if "rgb" in window.streams:
        batch["rgb"] = np.zeros((n, 1, window.height, window.width, 3), np.uint8)
    if "flow" in window.streams:
        batch["flow"] = np.zeros((n, 1, window.stack, 2, window.height, window.width), np.uint8)
        batch["mean"] = np.zeros((n, 1, window.stack, 2), np.float32)
        batch["bound"] = np.zeros(n, np.float32)
    return batch


def _place(target: np.ndarray, image: np.ndarray, y: int, x: int) -> tuple[int, int]:
    """Copy the part of `image` from (y, x) on that fits into `target` [h, w, ...]; return its height and width."""
    part = image[y : y + target.shape[0], x : x + target.shape[1]]
    target[: part.shape[0], : part.shape[1]] = part
    return part.shape[:2]


def read_windows(records, videos, anchors, ys, xs, window: Window) -> dict[str, np.ndarray]:
    """Return `rgb`, `flow`, `mean`, `bound` (by the window's streams) and `size` of a batch; see `schema`.

    videos, anchors, ys, xs: integers [B], the position in the records, the anchor frame, and the window's top left
    corner in the stored frame. A frame smaller than the window fills its top left; `size` says how far.
    """
    batch = _empty_batch(window, len(videos))
    for b, (video, anchor, y, x) in enumerate(zip(videos, anchors, ys, xs, strict=True)):
        video, anchor = int(video), int(anchor)
        stored = records.videos[video]
        if "rgb" in window.streams:
            (jpeg,) = records.frame_jpegs(video, [anchor])
            frame = records.frame(jpeg, video, anchor)
            batch["size"][b] = _place(batch["rgb"][b, 0], frame, y, x)
        if "flow" in window.streams:
            indices = sampling.field_indices(anchor, stored.frames, window.stack, window.flow_offset)
            batch["bound"][b] = stored.bound_px
            for k, (*jpegs, mean) in enumerate(records.field_jpegs(video, indices)):
                for plane, jpeg in zip(batch["flow"][b, 0, k], jpegs, strict=True):
                    levels = records.plane(jpeg, video, int(indices[k]))
                    batch["size"][b] = _place(plane, levels, y, x)
                batch["mean"][b, 0, k] = mean
    return batch


def train_batch(records, draws: dict[str, np.ndarray], window: Window) -> dict[str, np.ndarray]:
    """Return the training batch of these draws (`sampling.train_indices`); the window read is the crop itself."""
    batch = read_windows(records, draws["video"], draws["anchor"], draws["y"], draws["x"], window)
    n = len(draws["video"])
    batch["crop"] = np.tile(np.asarray([0, 0, window.height, window.width], np.int32), (n, 1))
    batch["flip"] = draws["flip"]
    if "rgb" in window.streams:
        batch["lighting"] = draws["lighting"]
    batch["label"] = draws["label"].astype(np.int32)
    batch["task"] = np.zeros(n, np.int32)
    batch["weight"] = np.ones(n, np.float32)
    return batch


def eval_batch(records, table: sampling.VideoTable, chunk: dict, window: Window) -> dict[str, np.ndarray]:
    """Return the evaluation batch of a chunk (`sampling.eval_chunks`): whole frames, padded to the chunk's bucket."""
    zeros = np.zeros(len(chunk["row"]), np.int64)
    return read_windows(records, table.position[chunk["row"]], chunk["anchor"], zeros, zeros, window)
