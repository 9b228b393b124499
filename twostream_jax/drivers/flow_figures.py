"""mode=inspect --video --figures: what optical flow and its two stackings are in a user's own video."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from input_pipeline.opencv_flow import grey
from input_pipeline.schema import UserError
from input_pipeline.videos import iterate_frames
from twostream_jax.drivers.device_flow import flow_between_frames, resolve
from twostream_jax.drivers.setup import check_values
from twostream_jax.files import cannot_write
from twostream_jax.preprocess import stack_flow, trajectory_stack
from twostream_jax.report.flow_figures import most_moving_box, moving_points, optical_flow, stackings
from twostream_jax.run_log import Progress

# Fields computed at once, of which an accelerator takes as many together.
_FIELDS_AT_ONCE = 64


def draw_flow(config, video: Path, folder: Path, frame: int | None = None) -> list[Path]:
    """Return the pictures drawn of a video: `folder`/flow.png (2014 paper, Fig. 2) and stacking.png (Fig. 3).

    Frames are decoded at data.short_side and flow is computed by flow.method, as for records, but shown unrounded and
    with its means. Stacks hold input.stack forward fields from `frame` on, counted from 0; without one, from the
    liveliest moment. UserError before any device work for a video that cannot be read or is too short, a frame that has
    no whole stack, and a folder that cannot be made.
    """
    check_values(config)
    _check_places(video, folder)
    stack, side, method = config.input.stack, config.data.short_side, resolve(config.flow.method)
    if method == "none":
        raise UserError("flow.method=none: names no flow; set --config.flow.method=dis, or another method")
    count = _count_frames(video, side)
    if count <= stack:
        raise UserError(
            f"--video={video}: has {count} frames, and a stack of {stack} fields takes {stack + 1}; give a longer video "
            "or lower --config.input.stack"
        )
    if frame is not None and not 0 <= frame < count - stack:
        raise UserError(
            f"--frame={frame}: must be 0 to {count - stack - 1}, where a stack of {stack} fields begins and ends within "
            f"the {count} frames of {video}"
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--figures={cannot_write(folder, error)}") from error
    first = frame if frame is not None else liveliest(_motions(video, side, method, count), stack)
    frames = np.stack(list(islice(iterate_frames(video, side), first, first + stack + 1)))
    fields = flow_between_frames(frames, method)
    seen = motion(frames[:2], fields[0])
    box = most_moving_box(seen)
    of = f"of {count} (counted from 0) of {video.name}, {method} flow"
    flow_png, stacking_png = folder / "flow.png", folder / "stacking.png"
    optical_flow(
        flow_png, f"Optical flow from frame {first} to frame {first + 1} {of}", frames[:2], fields[0], box, first
    )
    fixed, along = np.asarray(stack_flow(fields)), np.asarray(trajectory_stack(fields))
    title = f"L = {stack}: flow from frame {first} to frame {first + stack} {of}"
    stackings(stacking_png, title, frames[0], fixed, along, box, moving_points(seen, box), first)
    return [flow_png, stacking_png]


def motion(pair: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return how much each pixel is seen to move against the frame's mean motion, float32 [H, W].

    It is |d - mean d| in px, times the grey levels by which following d explains the change between the two frames
    better than standing still does. Without that factor bare walls and skies come first, where flow is guesswork.
    """
    height, width = field.shape[:2]
    before, after = grey(pair).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    followed = cv2.remap(after, x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    explained = np.maximum(np.abs(after - before) - np.abs(followed - before), 0)
    return np.linalg.norm(field - field.mean(axis=(0, 1)), axis=-1) * explained


def liveliest(motions: np.ndarray, stack: int) -> int:
    """Return the first field of the liveliest stack, of the mean `motion` of every field, [F-1].

    A stack is as lively as its first field, which Fig. 2 shows, and as its middle one (median), whichever is less: a
    cut between two shots makes one field wild, and should not be what is shown.
    """
    windows = np.lib.stride_tricks.sliding_window_view(motions, stack)
    return int(np.minimum(windows[:, 0], np.median(windows, axis=1)).argmax())


def _motions(video: Path, side: int, method: str, count: int) -> np.ndarray:
    """Return the mean `motion` of each field, [F-1]; few frames are held at a time."""
    motions: list[float] = []
    rest = iterate_frames(video, side)
    held = [next(rest)]
    with Progress("looking for the liveliest moment", "fields") as progress:
        while more := list(islice(rest, _FIELDS_AT_ONCE)):
            frames = np.stack(held + more)
            fields, held = flow_between_frames(frames, method), more[-1:]
            motions += [motion(frames[i : i + 2], field).mean() for i, field in enumerate(fields)]
            progress.update(len(motions), count - 1)
    return np.array(motions)


def _count_frames(video: Path, side: int) -> int:
    try:
        return sum(1 for _ in iterate_frames(video, side))
    except UserError as error:
        raise UserError(f"--video={error}") from error


def _check_places(video: Path, folder: Path) -> None:
    if video.is_dir():
        raise UserError(f"--video={video}: is a folder; give one file")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--figures={folder}: is a file; name a folder for flow.png and stacking.png")
    if not folder.exists() and not folder.parent.is_dir():
        raise UserError(f"--figures={folder}: there is no folder {folder.parent} to make it in")
