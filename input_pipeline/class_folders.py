"""Folders of videos, one a class, with or without a train and a test folder above them."""

from __future__ import annotations

import re
from pathlib import Path

from input_pipeline.schema import UserError
from input_pipeline.video_list import FILES, Entries, Video, VideoList, clean_name, subfolders

_TRAIN_FOLDER, _TEST_FOLDERS = "train", ("test", "val", "validation")


def list_class_folders(root: Path, entries: Entries = FILES) -> VideoList:
    """Return the videos of root/<class>/*, or of train/<class>/* and test/<class>/* (or val/<class>/*).

    There is one split, "1". Without the train and test folders every video is "train", and data.folds=K makes the test
    sets. Groups are the `_gNN_` of UCF-101's names when every name has one, else each video is its own. A folder
    without any video is no class.
    """
    subset_folders = {"train": [root]}
    below = {folder.name: folder for folder in subfolders(root)}
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
        for path in entries.find(subfolders(folder))
    ]
    if not found:
        raise UserError(f"data.videos={root} holds no <class>/<video>: put each class's videos into its own folder")
    classes = tuple(sorted({path.parent.name for _, path in found}))
    groups = [re.search(r"_(g\d+)_", entries.bare(path).name) for _, path in found]
    videos = []
    for (subset, path), group in zip(found, groups, strict=True):
        name = entries.bare(path).relative_to(root).as_posix()
        label = classes.index(path.parent.name)
        videos.append(Video(name, path, label, group[1] if all(groups) else name, {"1": subset}))
    return VideoList(clean_name(root.name), "folder", classes, ("1",), tuple(videos))
