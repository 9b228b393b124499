"""The stages of preparing one video, pure but for the last: decode, compute flow, encode, keep the records."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from input_pipeline import codecs, dct, dct_jpeg, dct_record, shards, stored_video
from input_pipeline.jpeg_video import take_over
from input_pipeline.opencv_flow import compute_flow, grey
from input_pipeline.quarantine import SetAside, content_of
from input_pipeline.schema import CODECS, FLOW_METHODS, SCHEMA_VERSION, UserError, quantise_flow
from input_pipeline.stored_video import StoredSource
from input_pipeline.video_list import Video
from input_pipeline.videos import iterate_frames

# Below this a video's own bound says nothing, and a still video would divide by zero.
_SMALLEST_BOUND_PX = 1e-3
# Pairs of frames held at once, with their float flow: at 340x256 px 60 MB, where a whole video may take gigabytes.
_PAIRS_AT_ONCE = 64


@dataclass(frozen=True)
class PrepareSettings:
    """What of the config decides over records: `data.short_side`, `data.codec`, `flow.*`, and how the work is run."""

    short_side: int  # px
    # One of schema.FLOW_METHODS; none stores RGB only, "given" is flow that lies there as JPEGs, made nobody knows how
    method: str
    bound_px: float | str  # px per frame, or "video": each video's own largest component
    backward: bool
    max_bad_fraction: float
    processes: int  # 0: one a core
    given: tuple[str, ...] = ()  # streams that lie there as JPEGs and are taken over (VideoList.given); () decodes
    opencv_version: str = ""  # that made the flow of records that are taken over
    codec: str = "jpeg"  # one of schema.CODECS: how flow is stored
    dct_planes: int = dct.POSITIONS  # positions of a block that DCT records keep; taken over, they keep all

    @property
    def folders(self) -> tuple[str, ...]:
        """The record folders that these settings fill."""
        if self.given:
            return (*self.given, "flow_backward") if self.backward else self.given
        if self.method == "none":
            return ("rgb",)
        return ("rgb", "flow", "flow_backward") if self.backward else ("rgb", "flow")

    def has_dct(self, folder: str) -> bool:
        """Return whether a folder is filled with DCT records; frames are JPEGs always."""
        return folder != "rgb" and self.codec == "dct"

    @property
    def coding(self) -> tuple:
        """What DCT records depend on: ("dct", positions kept); () where JPEGs alone are stored."""
        return ("dct", self.dct_planes) if any(map(self.has_dct, self.folders)) else ()


def check_settings(settings: PrepareSettings) -> None:
    """Raise UserError, naming the key, for settings that make no sense, or that need a package which is not there."""
    if settings.codec not in CODECS:
        raise UserError(f"data.codec: {settings.codec!r} is unknown; choose one of {', '.join(CODECS)}")
    if not 1 <= settings.dct_planes <= dct.POSITIONS:
        raise UserError(f"data.dct_planes: {settings.dct_planes}; give 1 to {dct.POSITIONS}")
    if settings.given:
        if settings.coding:
            dct_jpeg.check_installed()
        if settings.method == "given" and not (np.isfinite(settings.bound_px) and settings.bound_px > 0):
            raise UserError(
                f"data.jpeg_bound_px={settings.bound_px}: flow JPEGs do not say it, so state the px that the extractor "
                "clipped at: 20 in gpu_flow and in the commands that dense_flow and denseflow show, 15 and 32 if these "
                "two were told nothing"
            )
        return
    if settings.short_side < 1:
        raise UserError(f"data.short_side: {settings.short_side} px; give at least 1")
    if settings.method not in FLOW_METHODS:
        raise UserError(f"flow.method: {settings.method!r} is unknown; choose one of {', '.join(FLOW_METHODS)}")
    if settings.method == "none" and settings.backward:
        raise UserError("flow.backward: True, but flow.method is none; turn one of them off")
    bound = settings.bound_px
    if not (bound == "video" if isinstance(bound, str) else np.isfinite(bound) and bound > 0):
        raise UserError(f"flow.bound_px: {bound!r}; give px per frame above 0, or 'video'")


def prepare_video(video: Video, partial: pathlib.Path, settings: PrepareSettings) -> shards.FinishedVideo | SetAside:
    """Keep one video's records in `partial`; return its facts, or why the video must be set aside."""
    # Before decoding: a file that changes meanwhile then counts as another one.
    made_from, source_bytes, state = fingerprint(video, settings), video.size_bytes(), _state(video)
    try:
        encoded = encode_source(video, settings)
    except UserError as error:
        # Of records nothing tells when they are mended: they are tried again.
        content = "" if isinstance(video.source, StoredSource) else content_of(video)
        return SetAside(str(error).removeprefix(f"{video.path}: "), content if _state(video) == state else "")
    except MemoryError:
        return SetAside("too long for this machine's memory", "")
    return shards.write_finished(partial, video.name, made_from, encoded, source_bytes)


def _state(video: Video) -> tuple[int, int]:
    """Return size and time of change of a video's file or folder; zeros where there is none."""
    try:
        status = os.stat(video.path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def encode_source(video: Video, settings: PrepareSettings) -> shards.EncodedVideo:
    """Return a video's records, whatever it comes from. Raises UserError ("<path>: <reason>") where it cannot be used."""
    if isinstance(video.source, StoredSource):
        return stored_video.take_over(video, settings.folders)
    if settings.given:
        return take_over(video, settings.bound_px, dct=bool(settings.coding))
    encoded = encode_video(video.name, iterate_video(video, settings.short_side), settings)
    if settings.method != "none" and encoded.frames < 2:
        raise UserError("one frame; at least 2 are needed for flow")
    return encoded


def iterate_video(video: Video, short_side: int) -> Iterator[np.ndarray]:
    """Yield a video's frames, uint8 RGB [H, W, 3], whatever they come from; see `iterate_frames`."""
    return video.source.frames(short_side) if video.source else iterate_frames(video.path, short_side)


def encode_video(name: str, frames: Iterable[np.ndarray], settings: PrepareSettings) -> shards.EncodedVideo:
    """Return the records of a video's frames, uint8 RGB [H, W, 3] each, of which a few are held at a time.

    Raises UserError when the flow method refuses the frames; DIS does below 12 px.
    """
    records: dict[str, list[bytes]] = {folder: [] for folder in settings.folders}
    fields = _Fields(name, settings)
    last = []
    for chunk in _chunks(frames, _PAIRS_AT_ONCE):
        shape = chunk[0].shape
        first = len(records["rgb"])
        records["rgb"] += [codecs.serialise_frame(name, first + i, codecs.encode_frame(f)) for i, f in enumerate(chunk)]
        if settings.method != "none":
            planes = grey(np.stack(last + chunk))
            last = chunk[-1:]
            fields.add(planes)
    records |= fields.finish()
    return shards.EncodedVideo(len(records["rgb"]), shape[0], shape[1], fields.bound_px, records)


class _Fields:
    """The records of a video's flow, made chunk by chunk.

    The bound `video` is known only at the end: then the float flow of all fields is held until there.
    """

    def __init__(self, name: str, settings: PrepareSettings):
        self._name, self._method, self._settings = name, settings.method, settings
        self._records: dict[str, list[bytes]] = {folder: [] for folder in settings.folders[1:]}
        self._held: dict[str, list[np.ndarray]] = {folder: [] for folder in settings.folders[1:]}
        self._largest = _SMALLEST_BOUND_PX
        self.bound_px: float | None = None
        if self._records and settings.bound_px != "video":
            self.bound_px = float(settings.bound_px)

    def add(self, planes: np.ndarray) -> None:
        """Take the flow between these grey frames [F, H, W], the first of which is the last of the call before."""
        if len(planes) < 2:
            return
        for folder in self._records:
            flow = _compute_flow(planes, self._method, folder)
            if self.bound_px is None:
                self._largest = max(self._largest, float(np.abs(flow).max()))
                self._held[folder].append(flow)
            else:
                self._encode(folder, flow)

    def finish(self) -> dict[str, list[bytes]]:
        """Return {folder: records} of all fields."""
        if self._records and self.bound_px is None:
            self.bound_px = self._largest
        for folder, held in self._held.items():
            for flow in held:
                self._encode(folder, flow)
        return self._records

    def _encode(self, folder: str, flow: np.ndarray) -> None:
        records = self._records[folder]
        for field in flow:
            records.append(_field_record(self._name, len(records), field, self.bound_px, self._settings))


def _field_record(name: str, index: int, flow: np.ndarray, bound_px: float, settings: PrepareSettings) -> bytes:
    if settings.codec == "jpeg":
        x, y = codecs.encode_field(quantise_flow(flow, bound_px).transpose(2, 0, 1))
        return codecs.serialise_field(name, index, x, y, codecs.mean_of_stored(x, y, bound_px))
    coefficients, size = dct.code_field(flow, bound_px, settings.dct_planes), flow.shape[:2]
    mean = dct.mean_of_coded(coefficients, dct.OWN_CODING, bound_px, size)
    return dct_record.serialise_field(name, index, coefficients, dct.OWN_CODING, mean, size)


def fingerprint(video: Video, settings: PrepareSettings) -> str:
    """Return a hash of all that a finished video's records depend on, the size of the video file included."""
    made_by = (SCHEMA_VERSION, codecs.JPEG_QUALITY, cv2.__version__)
    made_how = (settings.short_side, settings.method, settings.bound_px, settings.backward)
    if settings.given:
        made_how = (settings.given, settings.bound_px, video.source.variant)
    what = [*made_by, *made_how, *settings.coding, video.name, video.size_bytes()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _chunks(frames: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    rest = iter(frames)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _compute_flow(planes: np.ndarray, method: str, folder: str) -> np.ndarray:
    try:
        return compute_flow(planes, method, folder == "flow_backward")
    except cv2.error as error:
        size = f"{planes.shape[2]}x{planes.shape[1]}"
        raise UserError(f"flow.method {method} fails on frames of {size} px ({error.err})") from error
