"""Videos become records: the runner of `stages` over a whole data set, and what it will take.

It resumes per finished video, sets unreadable videos aside and gives the same bytes for any number of processes and after
any interruption.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import cv2
import numpy as np

from input_pipeline import codecs, shards, store, workers
from input_pipeline.schema import UserError
from input_pipeline.stages import (
    PrepareSettings,
    check_settings,
    encode_source,
    encode_video,
    fingerprint,
    prepare_video,
)
from input_pipeline.store import DATASET_FILE, Dataset, FlowSettings, StoredVideo
from input_pipeline.video_list import Video, VideoList
from input_pipeline.videos import iterate_frames, probe_video

QUARANTINE_FILE = "quarantine.jsonl"
PARTIAL_FOLDER = ".partial"

# What `estimate` looks at: containers, videos of which one pair is timed, and frames decoded of each of these.
_PROBED_VIDEOS, _TIMED_VIDEOS, _TIMED_FRAMES = 200, 3, 16

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Estimate:
    """The size of the work: `frames` by the containers' word; `hours` on this machine; `gigabytes` (1e9) of records."""

    videos: int
    frames: int
    pairs: int
    hours: float
    gigabytes: float


def estimate(video_list: VideoList, settings: PrepareSettings) -> Estimate:
    """Return what preparing these videos will take, from at most 200 containers and a timed pair of 3 videos.

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
    timings = []
    # Spread over the list first, since neighbours are of one class and often of one source.
    for video in [*readable[:: max(1, len(readable) // _TIMED_VIDEOS)], *readable]:
        try:
            timings += [_time_video(video, settings)] if len(timings) < _TIMED_VIDEOS else []
        except UserError as error:
            reason = str(error)
    if not timings:
        raise UserError(f"data.videos: none of {len(sample)} videos can be read; one of them: {reason}")
    scale = total / len(sample)
    frames = round(scale * sum(counts))
    pairs = 0 if settings.method == "none" else round(scale * sum(max(0, count - 1) for count in counts))
    frame_s, pair_s, frame_bytes, pair_bytes = np.mean(timings, axis=0)
    hours = (frames * frame_s + pairs * pair_s) / _processes(settings) / 3600
    return Estimate(total, frames, pairs, float(hours), float(frames * frame_bytes + pairs * pair_bytes) / 1e9)


def prepare(video_list: VideoList, records: Path, settings: PrepareSettings, on_progress: Progress) -> Dataset:
    """Write the records of all videos into the folder `records`; return what its dataset.json says.

    `on_progress(videos done, videos in all, text)` is told first how many an interrupted run left finished. A folder
    that already holds the same videos under the same settings is returned as it is. Videos that cannot be used stand in
    quarantine.jsonl with the reason. Until the last moment finished videos lie in `records/.partial`, so that at the
    end the disk holds all of them twice.

    Raises UserError for settings that make no sense, for a folder of other videos or settings, when more than
    `max_bad_fraction` of the videos are set aside, and when the disk refuses; finished videos are kept in every case.
    """
    check_settings(settings)
    records = Path(records)
    try:
        if (records / DATASET_FILE).is_file():
            dataset = _check_same(store.read_dataset(records), video_list, records, settings)
            total = len(video_list.videos)
            on_progress(total, total, f"nothing to do, {records} is complete")
        else:
            with _terminate_cleanly():
                dataset = _prepare(video_list, records, settings, on_progress)
        shutil.rmtree(records / PARTIAL_FOLDER, ignore_errors=True)
        return dataset
    except OSError as error:
        remedy = "finished videos are kept: make room or mend the folder, and run again"
        raise UserError(f"data.records: cannot write {records} ({error}); {remedy}") from error


def _prepare(video_list: VideoList, records: Path, settings: PrepareSettings, on_progress: Progress) -> Dataset:
    videos = sorted(video_list.videos, key=lambda video: video.name)
    total = len(videos)
    assert len({video.name for video in videos}) == total, "names of videos must be unique"
    partial = records / PARTIAL_FOLDER
    partial.mkdir(parents=True, exist_ok=True)
    results = _prepare_videos(videos, partial, settings, on_progress)
    reasons = {video.name: results[video.name] for video in videos if isinstance(results[video.name], str)}
    lines = [{"name": v.name, "path": str(v.path), "reason": reasons[v.name]} for v in videos if v.name in reasons]
    shards.write_atomically(records / QUARANTINE_FILE, "".join(f"{json.dumps(line)}\n" for line in lines))
    _check_reasons(reasons, total, records, settings)

    kept = [video for video in videos if video.name not in reasons]
    finished = {video.name: results[video.name] for video in kept}
    files, places, size = {}, {}, 0
    for folder in settings.folders:
        say = bind(_say_merging, on_progress, total, folder)
        files[folder], places[folder], folder_size = shards.merge(records, folder, partial, finished, say)
        size += folder_size
    stored = []
    for i, video in enumerate(kept):
        facts = finished[video.name]
        size_px, where = (facts.height, facts.width), {folder: places[folder][i] for folder in settings.folders}
        who = (video.name, video.label, video.group, dict(video.subsets))
        stored.append(StoredVideo(*who, facts.frames, *size_px, facts.bound_px, facts.source_bytes, **where))
    dataset = _describe(video_list, settings, tuple(stored), files, size, len(reasons))
    shards.write_atomically(records / DATASET_FILE, store.format_dataset(dataset))
    return dataset


def _prepare_videos(
    videos: list[Video], partial: Path, settings: PrepareSettings, on_progress: Progress
) -> dict[str, shards.FinishedVideo | str]:
    """Finish every video that is not; return by name what is known of it, or the reason why it is set aside."""
    known = {v.name: shards.read_finished(partial, v.name, fingerprint(v, settings)) for v in videos}
    results = {name: finished for name, finished in known.items() if finished is not None}
    on_progress(len(results), len(videos), f"{len(results)} videos were finished before")
    left = [video for video in videos if video.name not in results]
    job = bind(prepare_video, partial=partial, settings=settings)
    with contextlib.closing(workers.run(left, job, _processes(settings))) as finishing:
        for video, result in finishing:
            results[video.name] = result
            text = f"{video.name} set aside: {result}" if isinstance(result, str) else video.name
            on_progress(len(results), len(videos), text)
    return results


def _check_reasons(reasons: dict[str, str], total: int, records: Path, settings: PrepareSettings) -> None:
    """Raise UserError when too many videos were set aside, or all."""
    if len(reasons) <= settings.max_bad_fraction * total and len(reasons) < total:
        return
    name, reason = next(iter(reasons.items()), ("-", "there is no video"))
    raise UserError(
        f"data.max_bad_fraction: {len(reasons)} of {total} videos were set aside, more than {settings.max_bad_fraction}; "
        f"the first is {name}: {reason}; see {records / QUARANTINE_FILE}, mend the videos or raise the fraction, "
        "and run again: finished videos are kept"
    )


def _describe(
    video_list: VideoList, settings: PrepareSettings, stored: tuple, files: dict, size: int, quarantined: int
) -> Dataset:
    with_flow = settings.method != "none"
    opencv_version = "" if settings.given else cv2.__version__
    flow = FlowSettings(settings.method, settings.bound_px, settings.backward, opencv_version) if with_flow else None
    sides = Counter(min(video.height, video.width) for video in stored)
    counts = {
        "videos": len(stored),
        "frames": sum(video.frames for video in stored),
        "pairs": sum(video.pairs for video in stored),
        "quarantined": quarantined,
        "bytes": size,
    }
    return Dataset(
        name=video_list.name,
        kind=video_list.kind,
        classes=tuple(video_list.classes),
        splits=tuple(video_list.splits),
        streams=settings.given or (("rgb", "flow") if with_flow else ("rgb",)),
        short_side=sides.most_common(1)[0][0] if settings.given else settings.short_side,
        jpeg_quality=0 if settings.given else codecs.JPEG_QUALITY,  # 0: the files' own, whatever it was
        flow=flow,
        counts=counts,
        checksum=store.checksum(files, stored),
        files=files,
        videos=stored,
    )


def _check_same(dataset: Dataset, video_list: VideoList, records: Path, settings: PrepareSettings) -> Dataset:
    """Return `dataset` when it is what these videos and settings give; else raise UserError naming what differs."""
    wanted = {"data.short_side": settings.short_side, "flow.method": settings.method}
    found = {"data.short_side": dataset.short_side, "flow.method": dataset.flow.method if dataset.flow else "none"}
    if dataset.flow and settings.method != "none":
        wanted |= {"flow.bound_px": settings.bound_px, "flow.backward": settings.backward}
        found |= {"flow.bound_px": dataset.flow.bound_px, "flow.backward": dataset.flow.backward}
    if settings.given:
        # Nothing is resized, and the bound has a key of its own.
        own = {"data.short_side": None, "flow.bound_px": None}
        wanted |= own | {"its streams": settings.given, "data.jpeg_bound_px": wanted.get("flow.bound_px")}
        found |= own | {"its streams": dataset.streams, "data.jpeg_bound_px": found.get("flow.bound_px")}
    wanted |= {"its classes": tuple(video_list.classes), "its splits": tuple(video_list.splits)}
    found |= {"its classes": dataset.classes, "its splits": dataset.splits}
    wanted |= {video.name: (video.label, video.group, video.subsets) for video in video_list.videos}
    found |= {video.name: (video.label, video.group, video.subsets) for video in dataset.videos}
    # Of a video set aside only its name is stored.
    quarantine = records / QUARANTINE_FILE
    lines = quarantine.read_text(encoding="utf-8").splitlines() if quarantine.is_file() else []
    found |= {name: wanted.get(name) for name in (json.loads(line)["name"] for line in lines)}
    differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
        raise UserError(
            f"data.records: {records} was prepared otherwise: {key} is {found.get(key)!r} there and "
            f"{wanted.get(key)!r} now{more}; choose another data.records or delete the folder"
        )
    return dataset


def _time_video(video: Video, settings: PrepareSettings) -> tuple[float, float, float, float]:
    """Return (seconds a frame, seconds a pair, bytes a frame, bytes a pair) from the video's first frames and pair."""
    start = time.perf_counter()
    if settings.given:
        encoded = encode_source(video, settings)
        sizes = {folder: sum(map(len, content)) for folder, content in encoded.records.items()}
        pair_bytes = sizes.get("flow", 0) / max(1, encoded.frames - 1)
        return (time.perf_counter() - start) / encoded.frames, 0.0, sizes.get("rgb", 0) / encoded.frames, pair_bytes
    frames = np.stack(list(itertools.islice(iterate_frames(video.path, settings.short_side), _TIMED_FRAMES)))
    frame_s = (time.perf_counter() - start) / len(frames)
    if len(frames) < 2:
        raise UserError(f"{video.path}: one frame")
    start = time.perf_counter()
    records = encode_video(video.name, frames[:2], settings).records
    pair_s = time.perf_counter() - start
    pair_bytes = sum(len(record) for folder in settings.folders[1:] for record in records[folder])
    return frame_s, pair_s, sum(map(len, records["rgb"])) / 2, pair_bytes


def _processes(settings: PrepareSettings) -> int:
    # Of the cores this process may use; macOS cannot tell them from the others.
    return settings.processes or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def _say_merging(on_progress: Progress, total: int, folder: str, name: str) -> None:
    on_progress(total, total, f"merging {folder}: {name}")


@contextlib.contextmanager
def _terminate_cleanly() -> Iterator[None]:
    """Let SIGTERM leave through every `finally`, exit status 128 + 15, so that worker processes are stopped too."""

    def leave(signum, frame):
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
