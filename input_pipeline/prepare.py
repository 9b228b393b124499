"""Videos become records: the runner of `stages` over a whole data set.

It resumes per finished video, sets unreadable videos aside and gives the same bytes for any number of processes and after
any interruption. Complete records are brought up to date: only new and mended videos are decoded.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial as bind
from pathlib import Path

from input_pipeline import codecs, dataset_file, shards
from input_pipeline import verify as verification
from input_pipeline.changes import Changes, changes_since
from input_pipeline.dataset_file import DATASET_FILE, Dataset, FlowSettings, StoredVideo
from input_pipeline.estimate import check_free
from input_pipeline.fields import DeviceFlow
from input_pipeline.finishing import Finisher, Progress, Say
from input_pipeline.flow_facts import facts_of_all
from input_pipeline.quarantine import QUARANTINE_FILE, SetAside, read_quarantine, write_quarantine
from input_pipeline.records_folder import check_interrupted, clear_leftovers, held_alone, refusals_named
from input_pipeline.safe_files import write_atomically
from input_pipeline.schema import UserError
from input_pipeline.stages import PrepareSettings, check_settings, fingerprint
from input_pipeline.store import Records
from input_pipeline.video_list import VideoList


def prepare(
    video_list: VideoList,
    records: Path,
    settings: PrepareSettings,
    on_progress: Progress,
    say: Say = lambda line: None,
    device_flow: DeviceFlow | None = None,
) -> Dataset:
    """Write the records of all videos into the folder `records`; return what its dataset.json says.

    `on_progress(videos done, videos in all, text)` is called as it goes, and `say` gets whole lines.
    `device_flow(method)` computes the flow of a device method, in this process, for all worker processes. A folder that
    already holds the same videos under the same settings is returned as it is; new videos and those whose files have
    changed are added to it, and other labels, groups or splits only rewrite dataset.json. Videos that cannot be used
    stand in quarantine.jsonl with the reason. Until the last moment finished videos lie in `records/.partial`, so that
    at the end the disk holds all of them twice.

    Raises UserError for settings that make no sense, for a folder of other videos or settings, when another prepare is
    at work in it, when more than `max_bad_fraction` of the videos are set aside, and when the disk refuses; finished
    videos are kept in every case.
    """
    check_settings(settings)
    records = Path(records)
    with refusals_named(records):
        changes = _changes(video_list, records, settings)
        if changes and changes.none:
            total = len(video_list.videos)
            on_progress(total, total, f"nothing to do, {records} is complete")
            clear_leftovers(records)
            return changes.dataset
        with held_alone(records) as partial:
            finish = Finisher(partial, on_progress, say, device_flow)
            # Whoever held the lock before may have completed the folder meanwhile.
            changes = _changes(video_list, records, settings)
            if changes is None:
                check_interrupted(partial, video_list, settings)
                return _prepare(video_list, records, settings, finish)
            return _bring_up_to_date(changes, video_list, records, settings, finish)


def _bring_up_to_date(
    changes: Changes, video_list: VideoList, records: Path, settings: PrepareSettings, finish: Finisher
) -> Dataset:
    """Return the data set after adding what is new; the records stay complete until all of it is prepared."""
    if changes.videos:
        new, mended = len(changes.new), len(changes.mended)
        finish.say(f"{new} videos are new and {mended} have changed or failed: these are prepared, the others kept")
        wanted = [video for video in video_list.videos if video.name in changes.videos]
        results = finish(wanted, settings)
        usable = {name for name, result in results.items() if not isinstance(result, SetAside)}
        stored = {video.name for video in changes.dataset.videos}
        if usable or stored & changes.videos:
            check_free(records, changes.dataset.counts["bytes"] / 1e9)
            finish.say("all record files are written anew")
            _reopen(records, changes, video_list, settings, finish.partial)
            return _prepare(video_list, records, settings, finish)
        aside = read_quarantine(records) | results
    else:
        aside = read_quarantine(records)
    write_quarantine(records, video_list.videos, aside)
    if changes.relabelled:
        count = len(changes.relabelled)
        finish.say(f"{count} videos have another label, group or split than before: {DATASET_FILE} is written anew")
    quarantined = sum(video.name in aside for video in video_list.videos)
    dataset = replace(changes.dataset, counts=changes.dataset.counts | {"quarantined": quarantined})
    write_atomically(records / DATASET_FILE, dataset_file.format_dataset(dataset))
    return dataset


def verify(
    records: Path,
    find_videos: Callable[[], tuple[VideoList, PrepareSettings]],
    on_progress: Progress,
    say: Say,
    device_flow: DeviceFlow | None = None,
) -> None:
    """Name every damaged record of the folder `records` through `say`, and repair it from the videos.

    `find_videos` is called where something must be made anew, `device_flow` then as in `prepare`.
    Raises UserError when damage remains.
    """
    with refusals_named(records):
        damages = verification.find_damage(records, on_progress)
        dataset = dataset_file.read_dataset(records)
        for line in itertools.chain.from_iterable(damage.lines(dataset) for damage in damages):
            say(line)
        if damages:
            with held_alone(records) as partial:
                finish = Finisher(partial, on_progress, say, device_flow)
                verification.repair(damages, records, partial, find_videos, finish)
            say(f"{records}: {len(damages)} record files repaired, byte for byte as they were written")
        else:
            say(f"{records}: all {sum(map(len, dataset.files.values()))} record files are as they were written")
        mended = verification.mend_metadata(records)
        for file in mended:
            say(f"{file}: written anew")


def _changes(video_list: VideoList, records: Path, settings: PrepareSettings) -> Changes | None:
    """Return what has changed since the records were completed, or None where they are not complete."""
    if not (records / DATASET_FILE).is_file():
        return None
    return changes_since(dataset_file.read_dataset(records), video_list, records, settings)


def _reopen(records: Path, changes: Changes, video_list: VideoList, settings: PrepareSettings, partial: Path) -> None:
    """Make of complete records an interrupted run that has finished every video that has not changed."""
    listed, stored = {video.name: video for video in video_list.videos}, Records(records)
    for position, video in enumerate(stored.videos):
        made_from = fingerprint(listed[video.name], settings)
        if video.name in changes.videos or shards.read_finished(partial, video.name, made_from):
            continue
        content = {folder: stored.raw(folder, position) for folder in settings.folders}
        encoded = shards.EncodedVideo(
            video.frames, video.height, video.width, video.bound_px, content, video.flow_facts
        )
        shards.write_finished(partial, video.name, made_from, encoded, video.source_bytes)
    check_interrupted(partial, video_list, settings)
    # Only now: until here an interruption leaves the records complete.
    (records / DATASET_FILE).unlink()


def _prepare(video_list: VideoList, records: Path, settings: PrepareSettings, finish: Finisher) -> Dataset:
    videos = sorted(video_list.videos, key=lambda video: video.name)
    total = len(videos)
    assert len({video.name for video in videos}) == total, "names of videos must be unique"
    limit = settings.max_bad_fraction * total
    results = finish(videos, settings, limit)
    aside = {name: result for name, result in results.items() if isinstance(result, SetAside)}
    write_quarantine(records, videos, aside)
    if len(aside) > limit or len(aside) == total:
        _refuse(aside, len(results), total, records, settings)
    finished = {video.name: results[video.name] for video in videos if video.name not in aside}
    files, places, size = {}, {}, 0
    for folder in settings.folders:
        tell = bind(_tell_merging, finish.on_progress, total, folder)
        files[folder], places[folder], folder_size = shards.merge(
            records, folder, finish.partial, finished, tell, dct=settings.has_dct(folder)
        )
        size += folder_size
    stored = []
    for i, video in enumerate(video for video in videos if video.name in finished):
        facts = finished[video.name]
        size_px, where = (facts.height, facts.width), {folder: places[folder][i] for folder in settings.folders}
        who = (video.name, video.label, video.group, dict(video.subsets))
        made = (facts.bound_px, facts.source_bytes, facts.flow_facts)
        stored.append(StoredVideo(*who, facts.frames, *size_px, *made, **where))
    dataset = _describe(video_list, settings, tuple(stored), files, size, len(aside))
    write_atomically(records / DATASET_FILE, dataset_file.format_dataset(dataset))
    return dataset


def _refuse(aside: dict[str, SetAside], seen: int, total: int, records: Path, settings: PrepareSettings) -> None:
    """Raise UserError for too many videos set aside, or all, with the commonest reason."""
    # Reasons that differ in their numbers only are one cause: "40 frames and 40 fields" and "61 frames and 61 fields".
    causes = {name: re.sub(r"\d+", "", why.reason) for name, why in aside.items()}
    cause, times = Counter(causes.values()).most_common(1)[0] if causes else ("", 0)
    name = next((name for name, own in causes.items() if own == cause), "-")
    reason = aside[name].reason if aside else "there is no video"
    where = f" after {seen} of them" if seen < total else ""
    over, remedy = f", more than {settings.max_bad_fraction}", "mend the videos or raise the fraction"
    if len(aside) == total:
        over, remedy = "", "mend the videos"
    raise UserError(
        f"data.max_bad_fraction: {len(aside)} of {total} videos were set aside{where}{over}; {times} as {name}: "
        f"{reason}; see {records / QUARANTINE_FILE}, {remedy}, and run again: finished videos are kept"
    )


def _describe(
    video_list: VideoList, settings: PrepareSettings, stored: tuple, files: dict, size: int, quarantined: int
) -> Dataset:
    flow = None
    if "flow" in settings.folders:
        flow = _describe_flow(settings)
    counts = {
        "videos": len(stored),
        "frames": sum(video.frames for video in stored),
        "pairs": sum(video.pairs for video in stored),
        "quarantined": quarantined,
        "bytes": size,
    }
    smallest = Counter(min(video.height, video.width) for video in stored)
    return Dataset(
        name=video_list.name,
        kind=video_list.kind,
        classes=tuple(video_list.classes),
        splits=tuple(video_list.splits),
        streams=tuple(folder for folder in settings.folders if folder != "flow_backward"),
        # What was taken over has the sizes that it has.
        short_side=smallest.most_common(1)[0][0] if settings.given else settings.short_side,
        jpeg_quality=0 if settings.given else codecs.JPEG_QUALITY,
        flow=flow,
        counts=counts,
        checksum=dataset_file.checksum(files, stored),
        files=files,
        videos=stored,
        flow_facts=facts_of_all((video.flow_facts, video.pairs * video.height * video.width) for video in stored),
    )


def _describe_flow(settings: PrepareSettings) -> FlowSettings:
    how = (settings.method, settings.bound_px, settings.backward, settings.opencv)
    added = {"camera_compensation": settings.camera_compensation, "version": settings.flow_version}
    return FlowSettings(*how, *settings.coding, **added)


def _tell_merging(on_progress: Progress, total: int, folder: str, name: str) -> None:
    on_progress(total, total, f"merging {folder}: {name}")
