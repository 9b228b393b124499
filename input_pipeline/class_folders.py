"""Folders of videos or images, one a class, with or without a train and a test folder above them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.schema import UserError, shown_name
from input_pipeline.still_images import IMAGE_SUFFIXES, StillImage
from input_pipeline.video_list import (
    VIDEO_SUFFIXES,
    Entries,
    Video,
    VideoList,
    check_spellings,
    clean_name,
    existing_folder,
    is_folder,
    one_spelling,
    subfolders,
    such_as,
    unreadable,
)

_TRAIN_FOLDER, _TEST_FOLDERS = "train", ("test", "val", "validation")

# What is left out, as (one, many) of a kind.
_OUTSIDE = ("video or image outside of class folders", "videos or images outside of class folders")
_EMPTY = ("class folder without any", "class folders without any")
_BESIDE = ("folder beside train and test", "folders beside train and test")
_UNREADABLE = ("folder that cannot be read", "folders that cannot be read")
_HIDDEN = ("hidden file or folder", "hidden files or folders")
_OTHER = ("other file", "other files")

_LeftOut = dict[tuple[str, str], list[str]]


@dataclass(frozen=True, slots=True)
class _Found:
    """A video or image: where it lies, and what its folders say."""

    path: str
    subset: str
    label: str  # the class folder's name
    stem: str
    name: str  # path from the root, without suffix


def list_class_folders(data) -> VideoList:
    """Return the videos of data.videos/<class>/*, or of train/<class>/* and test/<class>/* (or val/<class>/*).

    There is one split, "1". Without the train and test folders every video is "train", and data.folds=K makes the test
    sets. Groups are the `_gNN_` of UCF-101's names when every name has one, else each video is its own. A folder
    without any video is no class. Images are videos of one frame; a set holds either. Links are followed, but for those
    to folders inside class folders. What is left out stands in the notes.

    Raises UserError for two test folders, no video, videos beside images, class folders that are one folder by a link
    or differ in case alone.
    """
    root = existing_folder("data.videos", data.videos)
    left: _LeftOut = defaultdict(list)
    found: list[_Found] = []
    real_paths = {os.path.realpath(root): root}
    for subset, folder in _subset_folders(root, left):
        _check_links([folder] if folder != root else [], real_paths)
        class_folders = _readable(subfolders(folder), root, left)
        _check_links(class_folders, real_paths)
        prefix = "" if folder == root else f"{folder.name}/"
        left[_OUTSIDE] += [f"{prefix}{name}" for name in _files(folder, prefix, left)]
        for class_folder in class_folders:
            found += _find(class_folder, subset, f"{prefix}{class_folder.name}/", left)
    if not found:
        raise UserError(f"data.videos={root} holds no <class>/<video>: {_remedy(root, left)}")
    still = _is_still(found)
    classes = sorted({item.label for item in found})
    check_spellings(classes, f"data.videos={root}")
    return VideoList(
        name=clean_name(root.name),
        kind="folder",
        classes=tuple(classes),
        splits=("1",),
        videos=_videos(found, classes, still),
        still=still,
        notes=_left_out_note(root, left),
    )


def list_class_folders_of_pictures(root: Path, entries: Entries) -> VideoList:
    """Return the videos of such class folders where each video is a folder of pictures; `entries` knows which are."""
    left: _LeftOut = defaultdict(list)
    found = [
        (subset, path)
        for subset, folder in _subset_folders(root, left)
        for path in entries.find(_readable(subfolders(folder), root, left))
    ]
    if not found:
        raise UserError(f"data.videos={root} holds no <class>/<video>: put each class's videos into its own folder")
    classes = tuple(sorted({one_spelling(path.parent.name) for _, path in found}))
    check_spellings(classes, f"data.videos={root}")
    groups = [re.search(r"_(g\d+)_", entries.bare(path).name) for _, path in found]
    videos = []
    for (subset, path), group in zip(found, groups, strict=True):
        name = one_spelling(entries.bare(path).relative_to(root).as_posix())
        label = classes.index(one_spelling(path.parent.name))
        videos.append(Video(name, path, label, group[1] if all(groups) else name, {"1": subset}))
    notes = _left_out_note(root, {_UNREADABLE: left[_UNREADABLE]})
    return VideoList(clean_name(root.name), "folder", classes, ("1",), tuple(videos), notes=notes)


def _videos(found: list[_Found], classes: list[str], still: bool) -> tuple[Video, ...]:
    label_of = {name: label for label, name in enumerate(classes)}
    groups = [re.search(r"_(g\d+)_", item.stem) for item in found]
    grouped = all(groups)
    # One of each: a million videos would otherwise hold a million equal ones.
    subsets = {subset: {"1": subset} for subset in ("train", "test")}
    videos = []
    for item, group in zip(found, groups, strict=True):
        path = Path(item.path)
        source = StillImage(path) if still else None
        which = group[1] if grouped else item.name
        videos.append(Video(item.name, path, label_of[item.label], which, subsets[item.subset], source))
    return tuple(videos)


def _subset_folders(root: Path, left: _LeftOut) -> list[tuple[str, Path]]:
    """Return (subset, folder of class folders), filling `left` with what lies beside them."""
    below = {folder.name: folder for folder in subfolders(root)}
    held_out = [below[name] for name in _TEST_FOLDERS if name in below]
    if _TRAIN_FOLDER not in below or not held_out:
        return [("train", root)]
    if len(held_out) > 1:
        raise UserError(
            f"data.videos={root} holds {held_out[0].name}/ and {held_out[1].name}/ beside train/: only one can be "
            "the test set, list the videos in a CSV (data.kind=csv) or move one away"
        )
    for folder in (below[_TRAIN_FOLDER], held_out[0]):
        existing_folder("data.videos", str(folder))
    left[_BESIDE] += [name for name in below if name not in (_TRAIN_FOLDER, held_out[0].name)]
    left[_OUTSIDE] += _files(root, "", left)
    return [("train", below[_TRAIN_FOLDER]), ("test", held_out[0])]


def _readable(folders: list[Path], root: Path, left: _LeftOut) -> list[Path]:
    """Return the folders that the disk lists; the others go into `left`."""
    refused = [folder for folder in folders if unreadable(folder)]
    left[_UNREADABLE] += [f"{folder.relative_to(root)}/" for folder in refused]
    return [folder for folder in folders if folder not in refused]


def _check_links(folders: list[Path], real_paths: dict[str, Path]) -> None:
    """Raise UserError where two of the folders are one, through a link; `real_paths` keeps those seen."""
    for folder in folders:
        real = os.path.realpath(folder)
        other = real_paths.setdefault(real, folder)
        if other != folder:
            raise UserError(
                f"data.videos: {shown_name(str(folder))} and {shown_name(str(other))} are one folder: remove the link"
            )


def _files(folder: Path, prefix: str, left: _LeftOut) -> Iterator[str]:
    """Yield the names of a folder's files that could be videos or images; the rest goes into `left`.

    `prefix`: the folder's path below the root, with a slash at its end.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            left[_HIDDEN].append(f"{prefix}{entry.name}")
        elif not is_folder(entry) and not _is_media(entry.name):
            left[_OTHER].append(f"{prefix}{entry.name}")
        elif not is_folder(entry):
            yield entry.name


def _find(class_folder: Path, subset: str, prefix: str, left: _LeftOut) -> list[_Found]:
    """Return the videos or images of one class folder; what lies deeper goes into `left`."""
    label = one_spelling(class_folder.name)
    found = []
    for file in _files(class_folder, prefix, left):
        stem = os.path.splitext(file)[0]
        found.append(_Found(os.path.join(class_folder, file), subset, label, stem, one_spelling(f"{prefix}{stem}")))
    nested = []
    # A link to a folder is not followed here: one back up would make an endless walk.
    for folder in (each for each in subfolders(class_folder) if not each.is_symlink()):
        for place, _, files in os.walk(folder):
            below = os.path.relpath(place, class_folder)
            nested += [f"{prefix}{below}/{file}" for file in files if _is_media(file)]
    left[_OUTSIDE] += sorted(nested)
    if not found:
        left[_EMPTY].append(prefix)
    return found


def _is_media(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES


def _is_still(found: list[_Found]) -> bool:
    """Return whether they are images; raise UserError when some are and some are not."""
    first: dict[bool, str] = {}
    for item in found:
        first.setdefault(os.path.splitext(item.path)[1].lower() in IMAGE_SUFFIXES, item.path)
    if len(first) == 2:
        raise UserError(
            f"data.videos: {shown_name(first[False])} is a video and {shown_name(first[True])} an image: keep one kind, or "
            "list those you mean in a CSV (data.kind=csv)"
        )
    return True in first


def _remedy(root: Path, left: _LeftOut) -> str:
    below = [folder.name for folder in subfolders(root)]
    if _TRAIN_FOLDER in below and not set(below) & set(_TEST_FOLDERS):
        return f"{_TRAIN_FOLDER}/ wants test/ or val/ beside it; without one, set data.videos={root / _TRAIN_FOLDER}"
    deeper = [name for name in left[_OUTSIDE] if name.count("/") > 1]
    if deeper and os.path.splitext(deeper[0])[1].lower() in IMAGE_SUFFIXES:
        return f"its images lie deeper, {such_as(deeper[:1])}; a folder of frames a video is data.kind=jpeg_folders"
    return "put each class's videos into its own folder"


def _left_out_note(root: Path, left: _LeftOut) -> tuple[str, ...]:
    kinds = (_OUTSIDE, _EMPTY, _BESIDE, _UNREADABLE, _HIDDEN, _OTHER)
    lists = [(kind, left[kind]) for kind in kinds if left.get(kind)]
    parts = [f"{len(names)} {kind[len(names) > 1]} ({such_as(names)})" for kind, names in lists]
    return (f"data.videos={root}: left out {', '.join(parts)}",) if parts else ()
