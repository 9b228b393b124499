"""Lists of videos: every kind of data set becomes videos with label, group and splits."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import replace
from pathlib import Path, PurePath

from input_pipeline import jpeg_folders
from input_pipeline.class_folders import list_class_folders, list_class_folders_of_pictures
from input_pipeline.csv_lists import csv_root, list_csv
from input_pipeline.official_lists import read_hmdb51, read_ucf101
from input_pipeline.schema import UserError, shown_name
from input_pipeline.stored_video import list_records
from input_pipeline.tfds_folders import list_tfds
from input_pipeline.video_list import (
    FILES,
    Entries,
    Video,
    VideoList,
    clean_name,
    existing_folder,
    one_spelling,
    subfolders,
    such_as,
    unfit,
)

_SHOWN = 3  # names an error shows


def list_videos(data) -> VideoList:
    """Return the videos that the config section `data` names, those absent on disk refused or, on request, left out.

    `data` is the config's section: its kind, and the keys that say where videos and lists of that kind lie. A video that
    has no part in any split is not listed. With `classes` only these remain, in the data set's own order, and a class all
    of whose videos are absent remains a class.

    Raises UserError, naming key or file, for whatever is missing, unknown, contradictory or outside the videos folder.
    """
    kinds = {
        "ucf101": _list_official_files,
        "hmdb51": _list_official_files,
        "csv": list_csv,
        "folder": list_class_folders,
        "jpeg_folders": _list_jpeg_folders,
        "tfds": list_tfds,
        "records": list_records,
    }
    if data.kind not in kinds:
        raise UserError(f"data.kind={data.kind!r} is no list of videos: choose one of {', '.join(kinds)}")
    listed = _select_classes(kinds[data.kind](data), tuple(data.classes))
    listed = replace(listed, videos=tuple(sorted(listed.videos, key=lambda video: video.name)))
    _check_names(listed.videos)
    if listed.kind not in ("ucf101", "hmdb51"):
        listed = replace(listed, notes=(*listed.notes, *_part_notes(listed)))
    return _present(listed, data)


def _list_official_files(data) -> VideoList:
    return _list_official(data.kind, existing_folder("data.videos", data.videos), data.splits, FILES)


def _list_jpeg_folders(data) -> VideoList:
    """Return the folders of JPEGs by the official lists (data.splits), a CSV (data.split_file) or their class folders."""
    root = existing_folder("data.videos", data.videos) if data.videos or not data.split_file else csv_root(data)
    layout = jpeg_folders.find_layout(root, existing_folder("data.frames", data.frames) if data.frames else None)
    if data.splits:
        kind = "ucf101" if (Path(data.splits).expanduser() / "classInd.txt").is_file() else "hmdb51"
        listed = _list_official(kind, layout.root, data.splits, layout.entries)
    elif data.split_file:
        listed = list_csv(data, layout.root, layout.entries)
    else:
        layout.check_classes()
        listed = replace(list_class_folders_of_pictures(layout.root, layout.entries), name=clean_name(root.name))
    return jpeg_folders.with_sources(listed, layout, data.spare_field)


def _list_official(kind: str, videos: Path, splits: str, entries: Entries) -> VideoList:
    """Return UCF-101 or HMDB-51 as the official lists have it, the videos in class folders or all in one folder.

    Videos are found by their stem whatever its case and container. Names are those of the lists, class/stem, so that
    they do not hang on the folders' layout.
    """
    lists = existing_folder("data.splits", splits)
    classes, numbers, listed_videos = (read_ucf101 if kind == "ucf101" else read_hmdb51)(lists)
    found: dict[str, list[Path]] = {}
    for path in entries.find([videos, *subfolders(videos)]):
        found.setdefault(one_spelling(entries.bare(path).name).lower(), []).append(path)
    listed = []
    for entry in listed_videos:
        absent = videos / (f"{entry.name}.avi" if entries is FILES else entry.name)
        paths = found.get(one_spelling(PurePath(entry.name).name).lower(), [absent])
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} would share the name {entry.name!r}: rename or remove one")
        listed.append(Video(entry.name, paths[0], entry.label, entry.group, entry.subsets))
    return VideoList(kind, kind, classes, numbers, tuple(listed))


def _select_classes(listed: VideoList, wanted: tuple[str, ...]) -> VideoList:
    if not wanted:
        return listed
    for name in wanted:
        if name not in listed.classes:
            near = difflib.get_close_matches(name, listed.classes) or listed.classes[:_SHOWN]
            raise UserError(f"data.classes: {name!r} is none of the {len(listed.classes)} classes: {', '.join(near)}?")
    classes = tuple(name for name in listed.classes if name in wanted)
    # Old label -> new label.
    kept = {listed.classes.index(name): label for label, name in enumerate(classes)}
    videos = tuple(replace(video, label=kept[video.label]) for video in listed.videos if video.label in kept)
    return replace(listed, classes=classes, videos=videos)


def _check_names(videos: list[Video]) -> None:
    """Raise UserError where a name is no text for one line, or two videos (sorted by name) share one."""
    for video in videos:
        if unfit(video.name):
            raise UserError(
                f"data.videos: {shown_name(video.name)} has a control character or no UTF-8 in its name: rename it"
            )
    for one, other in itertools.pairwise(videos):
        if one.name == other.name:
            raise UserError(f"{one.path} and {other.path} would share the name {one.name!r}: rename or remove one")


def _part_notes(listed: VideoList) -> list[str]:
    """Return lines on classes and groups whose parts in a split look like a mistake.

    Raises UserError for class folders that have test videos only: a misspelt or misplaced folder.
    """
    notes = []
    for split in listed.splits:
        labels, groups = _parts(listed, split)
        untrained = [listed.classes[label] for label in sorted(labels["test"] - labels["train"])]
        untested = [listed.classes[label] for label in sorted(labels["train"] - labels["test"])]
        shared = sorted(groups["train"] & groups["test"])
        if untrained and listed.kind == "folder":
            raise UserError(
                f"data.videos: the class {shown_name(untrained[0])} has test but no train videos: add some, or choose among "
                "the others by data.classes"
            )
        if untrained:
            notes.append(
                f"split {split}: classes with test but no train videos: {len(untrained)}, {such_as(untrained)}"
            )
        if untested and labels["test"]:
            notes.append(f"split {split}: classes with train but no test videos: {len(untested)}, {such_as(untested)}")
        counts = {part: sum(video.subsets.get(split) == part for video in listed.videos) for part in ("train", "test")}
        if counts["test"] > counts["train"] > 0:
            notes.append(f"split {split}: {counts['train']} train and {counts['test']} test videos: are they swapped?")
        if shared:
            notes.append(
                f"split {split}: groups both in train and test: {len(shared)}, {such_as(shared)}; the test videos are "
                "not all from sources of their own"
            )
    return notes


def _parts(listed: VideoList, split: str) -> tuple[dict[str, set[int]], dict[str, set[str]]]:
    """Return {subset: labels} and {subset: groups} of one split."""
    labels: dict[str, set[int]] = {"train": set(), "test": set()}
    groups: dict[str, set[str]] = {"train": set(), "test": set()}
    for video in listed.videos:
        if split in video.subsets:
            labels[video.subsets[split]].add(video.label)
            groups[video.subsets[split]].add(video.group)
    return labels, groups


def _present(listed: VideoList, data) -> VideoList:
    """Return the list of the videos whose files exist; raise unless all do or data.allow_missing."""
    exists = [video.exists() for video in listed.videos]
    present = tuple(itertools.compress(listed.videos, exists))
    absent = [video.name for video, there in zip(listed.videos, exists, strict=True) if not there]
    counts = f"{len(absent)} of {len(exists)} listed videos are absent"
    where = f"data.videos={data.videos}" if data.videos else f"data.split_file={data.split_file}"
    if not present:
        raise UserError(f"{where}: {counts}: give the folder that holds them")
    if absent and not data.allow_missing:
        raise UserError(
            f"{where}: {_absent_folders(listed, data)}{counts}, {such_as(absent)}: complete them, or set "
            "data.allow_missing=True to go on without"
        )
    notes = (f"{where}: {_absent_folders(listed, data)}{counts} and left out",) if absent else ()
    return replace(listed, videos=present, notes=listed.notes + notes)


def _absent_folders(listed: VideoList, data) -> str:
    """Return words on class folders of an official list that are not there at all; none where all files lie in one."""
    if listed.kind not in ("ucf101", "hmdb51"):
        return ""
    there = {folder.name.lower() for folder in subfolders(existing_folder("data.videos", data.videos))}
    absent = [name for name in listed.classes if name.lower() not in there]
    if not absent or len(absent) == len(listed.classes):
        return ""
    return f"{len(absent)} of {len(listed.classes)} class folders are absent, {such_as(absent)}; in all "
