"""The stages of preparing one video, pure but for the last: decode, compute flow, encode, keep the records."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from input_pipeline import codecs, shards
from input_pipeline.datasets import Video
from input_pipeline.opencv_flow import compute_flow, grey
from input_pipeline.schema import FLOW_METHODS, SCHEMA_VERSION, UserError, quantise_flow
from input_pipeline.videos import read_video

# Below this a video's own bound says nothing, and a still video would divide by zero.
_SMALLEST_BOUND_PX = 1e-3
# Pairs whose float flow is held at once: at 340x256 px 45 MB, where a whole video may take gigabytes.
_PAIRS_AT_ONCE = 64


@dataclass(frozen=True)
class PrepareSettings:
    """What of the config decides over records: `data.short_side`, `flow.*`, and how the work is run."""

    short_side: int  # px
    method: str  # one of schema.FLOW_METHODS; none stores RGB only
    bound_px: float | str  # px per frame, or "video": each video's own largest component
    backward: bool
    max_bad_fraction: float
    processes: int  # 0: one a core

    @property
    def folders(self) -> tuple[str, ...]:
        """The record folders that these settings fill."""
        if self.method == "none":
            return ("rgb",)
        return ("rgb", "flow", "flow_backward") if self.backward else ("rgb", "flow")


def check_settings(settings: PrepareSettings) -> None:
    """Raise UserError, naming the key, for settings that make no sense."""
    if settings.short_side < 1:
        raise UserError(f"data.short_side: {settings.short_side} px; give at least 1")
    if settings.method not in FLOW_METHODS:
        raise UserError(f"flow.method: {settings.method!r} is unknown; choose one of {', '.join(FLOW_METHODS)}")
    if settings.method == "none" and settings.backward:
        raise UserError("flow.backward: True, but flow.method is none; turn one of them off")
    bound = settings.bound_px
    if not (bound == "video" if isinstance(bound, str) else np.isfinite(bound) and bound > 0):
        raise UserError(f"flow.bound_px: {bound!r}; give px per frame above 0, or 'video'")


def prepare_video(video: Video, partial: pathlib.Path, settings: PrepareSettings) -> shards.FinishedVideo | str:
    """Keep one video's records in `partial`; return its facts, or the reason why the video must be set aside."""
    try:
        frames = read_video(video.path, settings.short_side)
        if settings.method != "none" and len(frames) < 2:
            return "one frame; at least 2 are needed for flow"
        records, bound_px = encode_video(video.name, frames, settings)
    except UserError as error:
        return str(error).removeprefix(f"{video.path}: ")
    except MemoryError:
        return "too long for this machine's memory"
    sizes = {folder: sum(map(len, content)) for folder, content in records.items()}
    counts = {folder: len(content) for folder, content in records.items()}
    finished = shards.FinishedVideo(*frames.shape[:3], bound_px, counts, sizes)
    shards.write_finished(partial, video.name, fingerprint(video, settings), finished, records)
    return finished


def encode_video(
    name: str, frames: np.ndarray, settings: PrepareSettings
) -> tuple[dict[str, list[bytes]], float | None]:
    """Return ({folder: records}, bound px or None) of a video's frames, uint8 RGB [F, H, W, 3].

    Raises UserError when the flow method refuses the frames; DIS does below 12 px.
    """
    records = {"rgb": [codecs.serialise_frame(name, i, codecs.encode_frame(frame)) for i, frame in enumerate(frames)]}
    if settings.method == "none":
        return records, None
    planes = grey(frames)
    flows = {folder: _flow_chunks(planes, settings.method, folder) for folder in settings.folders[1:]}
    bound_px = settings.bound_px
    if bound_px == "video":
        flows = {folder: list(chunks) for folder, chunks in flows.items()}
        largest = max(float(np.abs(chunk).max()) for chunks in flows.values() for chunk in chunks)
        bound_px = max(_SMALLEST_BOUND_PX, largest)
    for folder, chunks in flows.items():
        fields = itertools.chain.from_iterable(chunks)
        records[folder] = [_encode_field(name, i, field, bound_px) for i, field in enumerate(fields)]
    return records, float(bound_px)


def fingerprint(video: Video, settings: PrepareSettings) -> str:
    """Return a hash of all that a finished video's records depend on, the size of the video file included."""
    made_by = (SCHEMA_VERSION, codecs.JPEG_QUALITY, cv2.__version__)
    made_how = (settings.short_side, settings.method, settings.bound_px, settings.backward)
    size = video.path.stat().st_size if video.path.is_file() else 0
    return hashlib.sha256(json.dumps([*made_by, *made_how, video.name, size]).encode()).hexdigest()


def _flow_chunks(planes: np.ndarray, method: str, folder: str) -> Iterator[np.ndarray]:
    for first in range(0, len(planes) - 1, _PAIRS_AT_ONCE):
        try:
            yield compute_flow(planes[first : first + _PAIRS_AT_ONCE + 1], method, folder == "flow_backward")
        except cv2.error as error:
            size = f"{planes.shape[2]}x{planes.shape[1]}"
            raise UserError(f"flow.method {method} fails on frames of {size} px ({error.err})") from error


def _encode_field(name: str, index: int, flow: np.ndarray, bound_px: float) -> bytes:
    x, y = codecs.encode_field(quantise_flow(flow, bound_px).transpose(2, 0, 1))
    return codecs.serialise_field(name, index, x, y, codecs.mean_of_stored(x, y, bound_px))
