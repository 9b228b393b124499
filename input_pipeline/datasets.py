"""Lists of videos: every kind of data set becomes videos with label, group and splits."""

from __future__ import annotations

import difflib
import itertools
import logging
from dataclasses import replace
from pathlib import Path, PurePath

from input_pipeline import jpeg_folders
from input_pipeline.class_folders import list_class_folders
from input_pipeline.csv_lists import csv_root, list_csv
from input_pipeline.official_lists import read_hmdb51, read_ucf101
from input_pipeline.schema import UserError
from input_pipeline.video_list import FILES, Entries, Video, VideoList, clean_name, existing_folder, subfolders

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
        "folder": _list_folders_of_files,
        "jpeg_folders": _list_jpeg_folders,
    }
    if data.kind not in kinds:
        raise UserError(f"data.kind={data.kind!r} is no list of videos: choose one of {', '.join(kinds)}")
    listed = _select_classes(kinds[data.kind](data), tuple(data.classes))
    videos = sorted(listed.videos, key=lambda video: video.name)
    for one, other in itertools.pairwise(videos):
        if one.name == other.name:
            raise UserError(f"{one.path} and {other.path} would share the name {one.name!r}: rename or remove one")
    videos = _present(videos, data)
    return replace(listed, videos=tuple(videos))


def _list_official_files(data) -> VideoList:
    return _list_official(data.kind, existing_folder("data.videos", data.videos), data.splits, FILES)


def _list_folders_of_files(data) -> VideoList:
    return list_class_folders(existing_folder("data.videos", data.videos))


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
        listed = replace(list_class_folders(layout.root, layout.entries), name=clean_name(root.name))
    return jpeg_folders.with_sources(listed, layout, data.spare_field)


def _list_official(kind: str, videos: Path, splits: str, entries: Entries) -> VideoList:
    """Return UCF-101 or HMDB-51 as the official lists have it, the videos in class folders or all in one folder.

    Videos are found by their stem whatever its case and container. Names are those of the lists, class/stem, so that
    they do not hang on the folders' layout.
    """
    classes, lists, listed_videos = (read_ucf101 if kind == "ucf101" else read_hmdb51)(
        existing_folder("data.splits", splits)
    )
    found: dict[str, list[Path]] = {}
    for path in entries.find([videos, *subfolders(videos)]):
        found.setdefault(entries.bare(path).name.lower(), []).append(path)
    listed = []
    for entry in listed_videos:
        paths = found.get(PurePath(entry.name).name.lower(), [videos / entry.name])
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} would share the name {entry.name!r}: rename or remove one")
        listed.append(Video(entry.name, paths[0], entry.label, entry.group, entry.subsets))
    return VideoList(kind, kind, classes, lists, tuple(listed))


def _select_classes(listed: VideoList, wanted: tuple[str, ...]) -> VideoList:
    if not wanted:
        return listed
    for name in wanted:
        if name not in listed.classes:
            near = difflib.get_close_matches(name, listed.classes) or listed.classes[:_SHOWN]
            raise UserError(f"data.classes: {name!r} is none of the {len(listed.classes)} classes: {', '.join(near)}?")
    classes = tuple(name for name in listed.classes if name in wanted)
    videos = tuple(
        replace(video, label=classes.index(listed.classes[video.label]))
        for video in listed.videos
        if listed.classes[video.label] in classes
    )
    return replace(listed, classes=classes, videos=videos)


def _present(videos: list[Video], data) -> list[Video]:
    """Return the videos whose files exist; raise unless all do or data.allow_missing."""
    exists = [video.exists() for video in videos]
    present = list(itertools.compress(videos, exists))
    absent = [video.name for video, there in zip(videos, exists, strict=True) if not there]
    counts = f"{len(absent)} of {len(videos)} listed videos are absent"
    where = f"data.videos={data.videos}" if data.videos else f"data.split_file={data.split_file}"
    if not present:
        raise UserError(f"{where}: {counts}: give the folder that holds them")
    if absent and not data.allow_missing:
        raise UserError(
            f"{where}: {counts}, such as {', '.join(absent[:_SHOWN])}: complete them, or set data.allow_missing=True "
            "to go on without"
        )
    if absent:
        logging.getLogger(__name__).warning("%s: %s and left out", where, counts)
    return present
