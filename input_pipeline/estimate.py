"""What preparing will take, and whether the disk has room for it."""

from __future__ import annotations

import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.fields import DeviceFlow, FlowEngine, StartFlow, failures_named
from input_pipeline.opencv_flow import grey
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings, check_settings, encode_source, encode_video, iterate_video
from input_pipeline.video_list import Video, VideoList
from input_pipeline.videos import probe_video
from input_pipeline.workers import usable_cores

# What is looked at: containers, videos of which one pair is timed, and frames decoded of each of these.
_PROBED_VIDEOS, _TIMED_VIDEOS, _TIMED_FRAMES = 200, 3, 16

# Finished videos lie beside the record files that they are merged into until the last moment.
_COPIES = 2


@dataclass(frozen=True)
class Estimate:
    """The size of the work: `frames` by the containers' word; `hours` on this machine; `gigabytes` (1e9) of records."""

    videos: int
    frames: int
    pairs: int  # fields to store, those of both directions
    hours: float
    gigabytes: float


def estimate(video_list: VideoList, settings: PrepareSettings, device_flow: DeviceFlow | None = None) -> Estimate:
    """Return what preparing these videos will take, from at most 200 containers and a timed pair of 3 videos.

    `device_flow(method)` computes the flow of a device method, beside what the worker processes do.
    Raises UserError when none of the containers looked at can be read.
    """
    check_settings(settings)
    total = len(video_list.videos)
    step = max(1.0, total / _PROBED_VIDEOS)
    sample = [video_list.videos[int(i * step)] for i in range(min(total, _PROBED_VIDEOS))]
    counts, readable, reason = [], [], "there is no video"
    for video in sample:
        try:
            counts.append(video.source.count_frames() if video.source else probe_video(video.path)[0])
            readable.append(video)
        except UserError as error:
            reason = str(error)
    engine = device_flow(settings.method) if settings.on_device else None
    timings, why = _time_videos(readable, settings, engine)
    reason = why or reason
    if not timings:
        raise UserError(f"data.videos: none of {len(sample)} videos can be read; one of them: {reason}")
    scale = total / len(sample)
    directions = sum(folder != "rgb" for folder in settings.folders)
    frames = round(scale * sum(counts))
    moves = 0 if not directions else round(scale * sum(max(0, count - 1) for count in counts))
    frame_s, pair_s, device_s, frame_bytes, pair_bytes = np.mean(timings, axis=0)
    workers_s, devices_s = (frames * frame_s + moves * pair_s) / processes(settings), moves * device_s
    # Beside an accelerator the worker processes go on; with a CPU they share its cores.
    shared = engine is not None and engine.takes_cores()
    hours = (workers_s + devices_s if shared else max(workers_s, devices_s)) / 3600
    gigabytes = float(frames * frame_bytes + moves * pair_bytes) / 1e9
    return Estimate(total, frames, moves * directions, float(hours), gigabytes)


def _time_videos(readable: list[Video], settings: PrepareSettings, engine: FlowEngine | None) -> tuple[list, str]:
    """Return what `_time_video` says of some of these videos, and why the last one that failed did."""
    timings, reason = [], ""
    with failures_named(settings.method):
        # Spread over the list first, since neighbours are of one class and often of one source.
        for video in [*readable[:: max(1, len(readable) // _TIMED_VIDEOS)], *readable]:
            try:
                timings += [_time_video(video, settings, engine)] if len(timings) < _TIMED_VIDEOS else []
            except UserError as error:
                reason = str(error)
    return timings, reason


def check_room(records: Path, cost: Estimate) -> None:
    """Raise UserError where the disk of the folder `records` has no room for what is still to be written there."""
    here = next(folder for folder in (records.absolute(), *records.absolute().parents) if folder.is_dir())
    there = sum(file.stat().st_size for file in records.rglob("*") if file.is_file()) if records.is_dir() else 0
    needed, free = _COPIES * cost.gigabytes, shutil.disk_usage(here).free / 1e9
    if needed - there / 1e9 > free:
        raise UserError(
            f"data.records={records}: needs about {size_words(needed)} while it is prepared (records lie there twice "
            f"until they are merged), {size_words(free)} are free; make room or name a folder on another disk"
        )


def check_free(records: Path, gigabytes: float) -> None:
    """Raise UserError where the disk of `records` has not this much room."""
    free = shutil.disk_usage(records).free / 1e9
    if gigabytes > free:
        raise UserError(
            f"data.records={records}: needs {size_words(gigabytes)} to write its files anew, {size_words(free)} are free; "
            "make room"
        )


def size_words(gigabytes: float) -> str:
    """Return a size as people say it: 3.2 GB, 45 MB."""
    return f"{gigabytes:.2g} GB" if gigabytes >= 1 else f"{max(1, round(1000 * gigabytes))} MB"


def processes(settings: PrepareSettings) -> int:
    """Return how many worker processes there will be: `settings.processes`, or one a core."""
    return settings.processes or usable_cores()


def _time_video(video: Video, settings: PrepareSettings, engine: FlowEngine | None) -> tuple[float, ...]:
    """Return (seconds a frame, a pair, a pair on the device, bytes a frame, a pair) from the first frames and pair."""
    if settings.given:
        return _time_source(video, settings)
    start = time.perf_counter()
    frames = np.stack(list(itertools.islice(iterate_video(video, settings.short_side), _TIMED_FRAMES)))
    frame_s = (time.perf_counter() - start) / len(frames)
    if len(frames) < 2 and settings.method != "none":
        raise UserError(f"{video.path}: one frame")
    device_s, known = _time_device(grey(frames[:2]), settings, engine) if engine else (0.0, None)
    start = time.perf_counter()
    encoded = encode_video(video.name, frames[:2], settings, known).records
    pair_s = time.perf_counter() - start
    pair_bytes = sum(len(record) for folder in settings.folders[1:] for record in encoded[folder])
    return frame_s, pair_s, device_s, sum(map(len, encoded["rgb"])) / len(frames[:2]), pair_bytes


def _time_device(planes: np.ndarray, settings: PrepareSettings, engine: FlowEngine) -> tuple[float, StartFlow]:
    """Return seconds a pair where the device has as many as it takes at once, and what returns the flow found at once."""
    at_once = engine.pairs_at_once(*planes.shape[1:3])
    pairs = [np.repeat(frame[None], at_once, axis=0) for frame in planes]
    both = settings.backward and not settings.camera_compensation
    engine(*pairs, both)()  # compiles
    start = time.perf_counter()
    flow = engine(*pairs, both)()
    seconds = time.perf_counter() - start
    found = [fields[:1] for fields in (*flow, *flow)]
    # Of warped flow the directions are computed one after the other.
    turns = 2 if settings.backward and settings.camera_compensation else 1
    return turns * seconds / at_once, lambda sources, targets, both: lambda: tuple(found[: 2 if both else 1])


def _time_source(video: Video, settings: PrepareSettings) -> tuple[float, ...]:
    """Return the same from the whole of a video whose streams are taken over, all of it counted with the frames."""
    start = time.perf_counter()
    encoded = encode_source(video, settings)
    frame_s = (time.perf_counter() - start) / encoded.frames
    stored = sum(len(record) for content in encoded.records.values() for record in content)
    return frame_s, 0.0, 0.0, stored / encoded.frames, 0.0
