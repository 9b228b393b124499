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

from input_pipeline import codecs, dct, dct_jpeg, shards, stored_video
from input_pipeline.fields import Fields, StartFlow
from input_pipeline.jpeg_video import take_over
from input_pipeline.opencv_flow import grey
from input_pipeline.quarantine import SetAside, content_of
from input_pipeline.schema import CODECS, DEVICE_METHODS, FLOW_METHODS, SCHEMA_VERSION, UserError
from input_pipeline.stored_video import StoredSource
from input_pipeline.video_list import Video
from input_pipeline.videos import iterate_frames

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
    made_by_opencv: str = ""  # version that made the flow of records that are taken over
    codec: str = "jpeg"  # one of schema.CODECS: how flow is stored
    dct_planes: int = dct.POSITIONS  # positions of a block that DCT records keep; taken over, they keep all
    camera_compensation: bool = False  # flow to the next frame as it would be had the camera not moved
    flow_version: str = ""  # of a method that is this program's own, whose values may change

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
    def on_device(self) -> bool:
        """Whether the flow is computed by one of schema.DEVICE_METHODS."""
        return not self.given and self.method in DEVICE_METHODS

    @property
    def opencv(self) -> str:
        """The version of OpenCV that the values of the flow depend on; "" where OpenCV has no part in them."""
        if self.given:
            return self.made_by_opencv
        return "" if self.on_device and not self.camera_compensation else cv2.__version__

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
    if settings.method == "none" and settings.camera_compensation:
        raise UserError("flow.camera_compensation: True, but flow.method is none; turn one of them off")
    bound = settings.bound_px
    if not (bound == "video" if isinstance(bound, str) else np.isfinite(bound) and bound > 0):
        raise UserError(f"flow.bound_px: {bound!r}; give px per frame above 0, or 'video'")


def prepare_video(
    video: Video, partial: pathlib.Path, settings: PrepareSettings, start_flow: StartFlow | None = None
) -> shards.FinishedVideo | SetAside:
    """Keep one video's records in `partial`; return its facts, or why the video must be set aside.

    `start_flow` computes the flow of a device method.
    """
    # Before decoding: a file that changes meanwhile then counts as another one.
    made_from, source_bytes, state = fingerprint(video, settings), video.size_bytes(), _state(video)
    try:
        encoded = encode_source(video, settings, start_flow)
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


def encode_source(video: Video, settings: PrepareSettings, start_flow: StartFlow | None = None) -> shards.EncodedVideo:
    """Return a video's records, whatever it comes from. Raises UserError ("<path>: <reason>") where it cannot be used."""
    if isinstance(video.source, StoredSource):
        return stored_video.take_over(video, settings.folders)
    if settings.given:
        return take_over(video, settings.bound_px, dct=bool(settings.coding))
    encoded = encode_video(video.name, iterate_video(video, settings.short_side), settings, start_flow)
    if settings.method != "none" and encoded.frames < 2:
        raise UserError("one frame; at least 2 are needed for flow")
    return encoded


def iterate_video(video: Video, short_side: int) -> Iterator[np.ndarray]:
    """Yield a video's frames, uint8 RGB [H, W, 3], whatever they come from; see `iterate_frames`."""
    return video.source.frames(short_side) if video.source else iterate_frames(video.path, short_side)


def encode_video(
    name: str, frames: Iterable[np.ndarray], settings: PrepareSettings, start_flow: StartFlow | None = None
) -> shards.EncodedVideo:
    """Return the records of a video's frames, uint8 RGB [H, W, 3] each, of which a few are held at a time.

    `start_flow` computes the flow of a device method. Raises UserError when the flow method refuses the frames; DIS does
    below 12 px.
    """
    records: dict[str, list[bytes]] = {folder: [] for folder in settings.folders}
    fields = Fields(name, settings, start_flow if settings.on_device else None)
    last = []
    try:
        for chunk in _chunks(frames, _PAIRS_AT_ONCE):
            shape, first = chunk[0].shape, len(records["rgb"])
            jpegs = map(codecs.encode_frame, chunk)
            records["rgb"] += [codecs.serialise_frame(name, i, jpeg) for i, jpeg in enumerate(jpegs, first)]
            if settings.method != "none":
                fields.add(grey(np.stack(last + chunk)))
                last = chunk[-1:]
        records |= fields.finish()
    finally:
        fields.drop()
    return shards.EncodedVideo(len(records["rgb"]), shape[0], shape[1], fields.bound_px, records, fields.sums.facts())


def fingerprint(video: Video, settings: PrepareSettings) -> str:
    """Return a hash of all that a finished video's records depend on, the size of the video file included."""
    made_by = (SCHEMA_VERSION, codecs.JPEG_QUALITY, cv2.__version__)
    made_how = (settings.short_side, settings.method, settings.bound_px, settings.backward)
    if settings.given:
        made_how = (settings.given, settings.bound_px, video.source.variant)
    # What was added later stands here only where it is used, so that what was finished before still counts.
    made_how += ("camera",) * settings.camera_compensation + (settings.flow_version,) * settings.on_device
    what = [*made_by, *made_how, *settings.coding, video.name, video.size_bytes()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _chunks(frames: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    rest = iter(frames)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk
