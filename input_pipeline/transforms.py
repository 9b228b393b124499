"""Reads and lays out one batch: JPEGs are decoded, and DCT coefficients unpacked, straight into their place.

Nothing becomes float here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from input_pipeline import dct, sampling
from input_pipeline.batch_memory import BatchMemory
from input_pipeline.filling import Filling


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
    planes: tuple[int, ...] = ()  # of DCT records, those that are read (`Records.planes`); () reads JPEGs


def _unfilled_batch(window: Window, n: int, memory: BatchMemory) -> dict[str, np.ndarray]:
    """Return the arrays of a batch of n; `rgb` and `flow` hold anything yet, the others zeros."""
    batch = {"size": memory.zeros((n, 2), np.int32)}
    time, stack = window.clip_frames, window.stack
    if "rgb" in window.streams:
        batch["rgb"] = memory.array((n, time, window.height, window.width, 3), np.uint8)
    if "flow" in window.streams:
        if window.planes:
            shape = (len(window.planes), window.height // dct.BLOCK, window.width // dct.BLOCK)
            batch["flow"] = memory.array((n, time, stack, 2, *shape), np.int8)
            batch["steps"] = memory.zeros((n, len(window.planes)), np.float32)
            batch["zero"] = memory.zeros((n,), np.float32)
        else:
            batch["flow"] = memory.array((n, time, stack, 2, window.height, window.width), np.uint8)
        batch["mean"] = memory.zeros((n, time, stack, 2), np.float32)
        batch["bound"] = memory.zeros((n,), np.float32)
    return batch


def _place(target: np.ndarray, image: np.ndarray, y: int, x: int) -> tuple[int, int]:
    """Copy the part of `image` from (y, x) on that fits into `target` [h, w, ...]; return its height and width.

    What is left of the target becomes 0.
    """
    part = image[y : y + target.shape[0], x : x + target.shape[1]]
    height, width = part.shape[:2]
    target[:height, :width] = part
    target[height:] = 0
    target[:height, width:] = 0
    return height, width


def read_windows(
    records: Sequence, sources, videos, anchors, ys, xs, window: Window, filling: Filling
) -> dict[str, np.ndarray]:
    """Return `rgb`, `flow` and what goes with it (by the window's streams) and `size` of a batch; see `schema`.

    sources, videos, anchors, ys, xs: integers [B], which of the `records` it is, the position in these, the anchor frame,
    and the window's top left corner in the stored frame, of DCT records at multiples of 8. A frame smaller than the window
    fills its top left; `size` says how far.
    """
    batch = _unfilled_batch(window, len(videos), filling.memory)
    columns = (np.asarray(column).tolist() for column in (sources, videos, anchors, ys, xs))
    filling(_fill_row, records, batch, list(zip(range(len(videos)), *columns, strict=True)), window)
    return batch


def _fill_row(records: Sequence, batch: dict[str, np.ndarray], sample: tuple[int, ...], window: Window) -> None:
    """Fill in one sample: its row, and what `read_windows` has of it."""
    b, source, video, anchor, *corner = sample
    own = records[source]
    row = {key: value[b, ...] for key, value in batch.items()}  # scalars as arrays of no axis
    stored = own.videos[video]
    indices = sampling.frame_indices(anchor, stored.frames, window.clip_frames)
    if "rgb" in window.streams:
        for jpeg, i, target in zip(own.frame_jpegs(video, indices), indices, row["rgb"], strict=True):
            row["size"][:] = _place(target, own.frame(jpeg, video, int(i)), *corner)
    if "flow" not in window.streams:
        return
    row["bound"][...] = stored.bound_px
    for i, levels, means in zip(indices, row["flow"], row["mean"], strict=True):
        row["size"][:], coding = _read_stack(own, video, int(i), corner, window, levels, means)
    if coding:
        row["steps"][:] = dct.px_steps(coding, window.planes, stored.bound_px)
        row["zero"][...] = dct.px_zero(coding, stored.bound_px)


def _read_stack(
    records, video: int, anchor: int, corner, window: Window, levels, means
) -> tuple[tuple[int, int], dct.Coding | None]:
    """Fill in levels [L, 2, h, w], or planes [L, 2, P, n, m], and means [L, 2] of one stack.

    Return the height and width that were there, and the coding of DCT records.
    """
    frames = records.videos[video].frames
    read = partial(_read_planes, window=window) if window.planes else _read_fields
    if not window.bidirectional:
        indices = sampling.field_indices(anchor, frames, window.stack, window.flow_offset)
        return read(records, video, indices, False, corner, levels, means)
    half = window.stack // 2
    forward = sampling.field_indices(anchor, frames, half, 0)
    backward = sampling.backward_indices(anchor, frames, half)
    read(records, video, forward, False, corner, levels[:half], means[:half])
    return read(records, video, backward, True, corner, levels[half:], means[half:])


def _read_planes(records, video: int, indices, backward: bool, corner, planes, means, *, window: Window):
    blocks = corner[0] // dct.BLOCK, corner[1] // dct.BLOCK
    planes[:] = 0
    stack = records.read_planes(video, indices, window.planes, blocks, planes, backward)
    means[:] = stack.means
    return (min(window.height, stack.size[0] - corner[0]), min(window.width, stack.size[1] - corner[1])), stack.coding


def _read_fields(records, video: int, indices, backward: bool, corner, levels, means):
    folder = "flow_backward" if backward else "flow"
    size = (0, 0)
    for k, (*jpegs, mean) in enumerate(records.field_jpegs(video, indices, backward)):
        for target, jpeg in zip(levels[k], jpegs, strict=True):
            size = _place(target, records.plane(jpeg, video, int(indices[k]), folder), *corner)
        means[k] = mean
    return size, None


def train_batch(
    records: Sequence, draws: dict[str, np.ndarray], window: Window, filling: Filling
) -> dict[str, np.ndarray]:
    """Return the training batch of these draws (`sampling.mixed_indices`), from the `records` of each task.

    The window is the crop, the blocks that hold it, or the whole frame.
    """
    corners = np.stack([draws["y"], draws["x"]], axis=1)
    origins = np.zeros_like(corners) if window.whole else corners
    if window.planes and not window.whole:
        sources = [records[task] for task in draws["task"]]
        origins = _block_origins(sources, draws["video"], corners, window)
    where = (draws["task"], draws["video"], draws["anchor"], origins[:, 0], origins[:, 1])
    batch = read_windows(records, *where, window, filling)
    n, side = len(corners), draws["crop"][:, None]
    batch["crop"] = np.concatenate([corners - origins, side, side], axis=1).astype(np.int32)
    batch["flip"] = draws["flip"]
    if "rgb" in window.streams:
        batch["lighting"] = draws["lighting"]
    batch["label"] = draws["label"].astype(np.int32)
    batch["task"] = draws["task"].astype(np.int32)
    batch["weight"] = np.ones(n, np.float32)
    return batch


def _block_origins(sources, videos, corners: np.ndarray, window: Window) -> np.ndarray:
    """Return where windows of whole blocks begin that hold the crops at `corners`, int [B, 2] px (y, x)."""
    origins = np.zeros_like(corners)
    for origin, records, video, corner in zip(origins, sources, videos, corners, strict=True):
        stored = records.videos[int(video)]
        for axis, (side, shown) in enumerate(((stored.height, window.height), (stored.width, window.width))):
            blocks = -(-side // dct.BLOCK)
            origin[axis] = dct.BLOCK * dct.first_block(int(corner[axis]), blocks, shown // dct.BLOCK)
    return origins


def eval_batch(
    records, table: sampling.VideoTable, chunk: dict, window: Window, filling: Filling
) -> dict[str, np.ndarray]:
    """Return the evaluation batch of a chunk (`sampling.eval_chunks`): whole frames, padded to the chunk's bucket.

    A field or frame that several of its stacks share is read and decoded once.
    """
    videos = [int(video) for video in table.position[chunk["row"]]]
    batch = _unfilled_batch(window, len(videos), filling.memory)
    for b, video in enumerate(videos):
        stored = records.videos[video]
        batch["size"][b] = stored.height, stored.width
        if "flow" in window.streams:
            batch["bound"][b] = stored.bound_px
    runs = _runs(_users(records, videos, chunk["anchor"], window), max(window.stack, window.clip_frames))
    filling(_fill_run, (records,), batch, runs, window)
    return batch


# Who of a batch shows an image of a video: (row, frame of the clip, field of the stack) each, by the image's index.
Users = dict[int, list[tuple[int, ...]]]


def _users(records, videos: Sequence[int], anchors, window: Window) -> dict[tuple[int, str], Users]:
    """Return the users of each of the batch's images, by (video, "rgb" or "flow" or "flow_backward")."""
    users: dict[tuple[int, str], Users] = {}
    for b, (video, anchor) in enumerate(zip(videos, anchors, strict=True)):
        frames = records.videos[video].frames
        for t, i in enumerate(sampling.frame_indices(int(anchor), frames, window.clip_frames)):
            if "rgb" in window.streams:
                users.setdefault((video, "rgb"), {}).setdefault(int(i), []).append((b, t))
            fields = _fields_of(int(i), frames, window) if "flow" in window.streams else []
            for k, (folder, field_index) in enumerate(fields):
                users.setdefault((video, folder), {}).setdefault(field_index, []).append((b, t, k))
    return users


def _fields_of(anchor: int, frames: int, window: Window) -> list[tuple[str, int]]:
    """Return (folder, index) of each field of one stack."""
    if not window.bidirectional:
        indices = sampling.field_indices(anchor, frames, window.stack, window.flow_offset)
        return [("flow", int(i)) for i in indices]
    half = window.stack // 2
    forward = sampling.field_indices(anchor, frames, half, 0)
    backward = sampling.backward_indices(anchor, frames, half)
    return [("flow", int(i)) for i in forward] + [("flow_backward", int(i)) for i in backward]


def _runs(users: dict[tuple[int, str], Users], length: int) -> list[tuple[int, str, Users]]:
    """Return the images in runs of at most `length` neighbours, each one read."""
    runs = []
    for (video, folder), own in users.items():
        indices = sorted(own)
        for start in range(0, len(indices), length):
            runs.append((video, folder, {i: own[i] for i in indices[start : start + length]}))
    return runs


def _fill_run(sources: Sequence, batch: dict[str, np.ndarray], run: tuple[int, str, Users], window: Window) -> None:
    """Read and decode one run of images and copy each to all of its users."""
    (records,), (video, folder, users) = sources, run
    indices = list(users)
    if folder == "rgb":
        for jpeg, (i, places) in zip(records.frame_jpegs(video, indices), users.items(), strict=True):
            image = records.frame(jpeg, video, i)
            for place in places:
                _place(batch["rgb"][place], image, 0, 0)
        return
    means = np.empty((len(indices), 2), np.float32)
    if window.planes:
        fields = np.empty((len(indices), *batch["flow"].shape[3:]), np.int8)
        _, coding = _read_planes(records, video, indices, folder != "flow", (0, 0), fields, means, window=window)
        bound_px = records.videos[video].bound_px
        rows = [place[0] for places in users.values() for place in places]
        batch["steps"][rows] = dct.px_steps(coding, window.planes, bound_px)
        batch["zero"][rows] = dct.px_zero(coding, bound_px)
    else:
        # Straight into the place of the first who uses it.
        fields = [batch["flow"][places[0]] for places in users.values()]
        _read_fields(records, video, indices, folder != "flow", (0, 0), fields, means)
    for levels, mean, places in zip(fields, means, users.values(), strict=True):
        for place in places:
            if window.planes or place != places[0]:
                batch["flow"][place] = levels
            batch["mean"][place] = mean
