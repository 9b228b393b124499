"""Lists of videos: UCF-101, HMDB-51, CSV files and class folders become videos with label, group and splits."""

from __future__ import annotations

import csv
import difflib
import itertools
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from input_pipeline.official_lists import read_hmdb51, read_ucf101
from input_pipeline.schema import UserError

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp")
_TRAIN_FOLDER, _TEST_FOLDERS = "train", ("test", "val", "validation")
_SHOWN = 3  # names an error shows


@dataclass(frozen=True)
class Video:
    """One video file: `subsets` maps a split's name to "train" or "test"; a split it has no part in is absent."""

    name: str  # relative posix path without suffix, e.g. "Biking/v_Biking_g01_c04"
    path: Path
    label: int  # 0-based position in VideoList.classes
    group: str  # source of the clip; folds and held-out validation groups never divide one
    subsets: dict[str, str]


@dataclass(frozen=True)
class VideoList:
    """The videos of a data set, sorted by name, names unique."""

    name: str
    kind: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    videos: tuple[Video, ...]


def list_videos(data) -> VideoList:
    """Return the videos that the config section `data` names, those absent on disk refused or, on request, left out.

    `data` has kind, videos, splits, split_file, group_column, classes and allow_missing (see configs/base.py). A video
    that has no part in any split is not listed. With `classes` only these remain, in the data set's own order, and a
    class all of whose videos are absent remains a class.

    Raises UserError, naming key or file, for whatever is missing, unknown, contradictory or outside the videos folder.
    """
    kinds = {"ucf101": _list_official, "hmdb51": _list_official, "csv": _list_csv, "folder": _list_folder}
    if data.kind not in kinds:
        raise UserError(f"data.kind={data.kind!r} is no list of videos: choose one of {', '.join(kinds)}")
    listed = _select_classes(kinds[data.kind](data), tuple(data.classes))
    videos = sorted(listed.videos, key=lambda video: video.name)
    for one, other in itertools.pairwise(videos):
        if one.name == other.name:
            raise UserError(f"{one.path} and {other.path} would share the name {one.name!r}: rename or remove one")
    videos = _present(videos, data)
    return VideoList(listed.name, listed.kind, listed.classes, listed.splits, tuple(videos))


def _list_official(data) -> VideoList:
    """Return UCF-101 or HMDB-51 as the official lists have it, the files in class folders or all in one folder.

    Files are found by their stem whatever its case and container. Names are those of the lists, class/stem, so that
    they do not hang on the folders' layout.
    """
    videos, lists = _folder("data.videos", data.videos), _folder("data.splits", data.splits)
    classes, splits, entries = (read_ucf101 if data.kind == "ucf101" else read_hmdb51)(lists)
    files: dict[str, list[Path]] = {}
    for path in _video_files([videos, *_subfolders(videos)]):
        files.setdefault(path.stem.lower(), []).append(path)
    listed = []
    for entry in entries:
        paths = files.get(PurePath(entry.name).name.lower(), [videos / f"{entry.name}.avi"])
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} would share the name {entry.name!r}: rename or remove one")
        listed.append(Video(entry.name, paths[0], entry.label, entry.group, entry.subsets))
    return VideoList(data.kind, data.kind, classes, splits, tuple(listed))


def _list_csv(data) -> VideoList:
    """Return the rows of data.split_file: columns path, label, split (or split1, split2, ...) and a group column.

    A split's value is train, test or empty (no part in it); a single `split` is split "1". Classes are the labels in
    alphabetical order. Paths are relative to data.videos or, when that is empty, to the CSV's folder; the data set is
    named after the CSV's folder. Without a column `group` each clip is its own group.
    """
    if not data.split_file:
        raise UserError("data.split_file is empty: give the CSV with columns path, label, split")
    file = Path(os.path.abspath(os.path.expanduser(data.split_file)))
    root = _folder("data.videos", data.videos) if data.videos else file.parent
    columns, rows = _read_csv(file)
    splits = _split_columns(columns, file)
    if data.group_column not in columns and data.group_column != "group":
        raise UserError(
            f"data.group_column={data.group_column!r} is no column of {file}, which has {', '.join(columns)}: "
            "name one of them, or 'group' where there is none"
        )
    # A row without any part is not listed, nor is a class that only such rows name.
    rows = [(number, row) for number, row in rows if any(row[column] for column in splits.values())]
    if not rows:
        raise UserError(f"data.split_file={file}: no row has a split: write train or test")
    classes = tuple(sorted({row["label"] for _, row in rows}))
    videos = []
    for number, row in rows:
        where = f"{file} line {number}"
        subsets = {split: row[column] for split, column in splits.items() if row[column]}
        wrong = [value for value in subsets.values() if value not in ("train", "test")]
        if wrong:
            raise UserError(
                f"{where}: split {wrong[0]!r} is not train, test or empty (data.validation_fraction holds out "
                "validation groups)"
            )
        path = _inside(root, row["path"], where)
        name = path.relative_to(root).with_suffix("").as_posix()
        group = row.get(data.group_column, name)
        if not group:
            raise UserError(f"{where}: column {data.group_column!r} (data.group_column) is empty")
        videos.append(Video(name, path, classes.index(row["label"]), group, subsets))
    return VideoList(_clean(file.parent.name), "csv", classes, tuple(splits), tuple(videos))


def _read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the column names and the rows with their line numbers, values without outer blanks."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="", skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            # A row with more values than columns holds the rest under the key None.
            rows = [(reader.line_num, {key: value.strip() for key, value in row.items() if key}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.split_file={file} cannot be read: {error}") from error
    for needed in ("path", "label"):
        if needed not in columns:
            raise UserError(f"data.split_file={file} has no column {needed!r}: it has {', '.join(columns) or 'none'}")
        for number, row in rows:
            if not row[needed]:
                raise UserError(f"{file} line {number}: the column {needed!r} is empty")
    if not rows:
        raise UserError(f"data.split_file={file} lists no videos")
    return columns, rows


def _split_columns(columns: list[str], file: Path) -> dict[str, str]:
    """Return split -> column, in the order of the splits' numbers."""
    numbered = {column[5:]: column for column in columns if re.fullmatch(r"split[1-9]\d*", column)}
    if "split" in columns and numbered:
        raise UserError(f"data.split_file={file} has the column 'split' and {min(numbered.values())!r}: keep one kind")
    if "split" in columns:
        return {"1": "split"}
    if not numbered:
        raise UserError(
            f"data.split_file={file} has no column 'split' (or split1, split2, ...): it has {', '.join(columns)}"
        )
    return {split: numbered[split] for split in sorted(numbered, key=int)}


def _list_folder(data) -> VideoList:
    """Return the videos of data.videos/<class>/*, or of train/<class>/* and test/<class>/* (or val/<class>/*).

    There is one split, "1". Without the train and test folders every video is "train", and data.folds=K makes the test
    sets. Groups are the `_gNN_` of UCF-101's names when every name has one, else each video is its own. A folder
    without any video is no class.
    """
    root = _folder("data.videos", data.videos)
    subset_folders = {"train": [root]}
    below = {folder.name: folder for folder in _subfolders(root)}
    held_out = [below[name] for name in _TEST_FOLDERS if name in below]
    if _TRAIN_FOLDER in below and held_out:
        if len(held_out) > 1:
            raise UserError(
                f"data.videos={root} holds {held_out[0].name}/ and {held_out[1].name}/ beside train/: only one can be "
                "the test set, list the videos in a CSV (data.kind=csv) or move one away"
            )
        subset_folders = {"train": [below[_TRAIN_FOLDER]], "test": held_out}
    found = [
        (subset, path)
        for subset, folders in subset_folders.items()
        for folder in folders
        for path in _video_files(_subfolders(folder))
    ]
    if not found:
        raise UserError(f"data.videos={root} holds no <class>/<video>: put each class's videos into its own folder")
    classes = tuple(sorted({path.parent.name for _, path in found}))
    groups = [re.search(r"_(g\d+)_", path.stem) for _, path in found]
    videos = []
    for (subset, path), group in zip(found, groups, strict=True):
        name = path.relative_to(root).with_suffix("").as_posix()
        label = classes.index(path.parent.name)
        videos.append(Video(name, path, label, group[1] if all(groups) else name, {"1": subset}))
    return VideoList(_clean(root.name), "folder", classes, ("1",), tuple(videos))


def _select_classes(listed: VideoList, wanted: tuple[str, ...]) -> VideoList:
    if not wanted:
        return listed
    for name in wanted:
        if name not in listed.classes:
            near = difflib.get_close_matches(name, listed.classes) or listed.classes[:_SHOWN]
            raise UserError(f"data.classes: {name!r} is none of the {len(listed.classes)} classes: {', '.join(near)}?")
    classes = tuple(name for name in listed.classes if name in wanted)
    videos = tuple(
        Video(video.name, video.path, classes.index(listed.classes[video.label]), video.group, video.subsets)
        for video in listed.videos
        if listed.classes[video.label] in classes
    )
    return VideoList(listed.name, listed.kind, classes, listed.splits, videos)


def _present(videos: list[Video], data) -> list[Video]:
    """Return the videos whose files exist; raise unless all do or data.allow_missing."""
    exists = [video.path.is_file() for video in videos]
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


def _folder(key: str, value: str) -> Path:
    """Return the absolute path of an existing folder, links kept."""
    if not value:
        raise UserError(f"{key} is empty: give a folder")
    folder = Path(os.path.abspath(os.path.expanduser(value)))
    if not folder.is_dir():
        raise UserError(f"{key}={value} is not a folder")
    return folder


def _inside(root: Path, entry: str, where: str) -> Path:
    """Return root/entry, which must lie in `root` by name (a link in there may lead elsewhere)."""
    path = Path(os.path.normpath(root / entry))
    if root not in path.parents:
        raise UserError(f"{where}: {entry} lies outside the videos folder {root}: move it in or set data.videos")
    return path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _video_files(folders: Iterable[Path]) -> list[Path]:
    """Return the files with a video's suffix, whatever its case, that lie in these folders."""
    return [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    ]


def _clean(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "videos"
