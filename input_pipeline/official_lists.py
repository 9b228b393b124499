"""The official lists of UCF-101 and HMDB-51, read without looking at any video file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.schema import UserError, shown

_SUBSET_OF_LIST = {"trainlist": "train", "testlist": "test"}
# The longest line of the official lists has 123 characters. What is longer is no list, and would be matched for minutes.
_LONGEST_LINE = 500
_SUBSET_OF_FLAG = {"0": None, "1": "train", "2": "test"}  # 0: unused in that split


@dataclass(frozen=True)
class ListedVideo:
    """One video of the lists; `name` is class/stem, the stem spelt as in the lists."""

    name: str
    label: int  # 0-based position among the classes
    group: str
    subsets: dict[str, str]  # split -> "train" or "test"


def read_ucf101(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], list[ListedVideo]]:
    """Return classes in the official order, the splits that are there, and the videos of classInd.txt, trainlist0k.txt
    and testlist0k.txt (k = 1..3).

    The group is the `gNN` of the name (25 a class, whose clips share their source). The lists spell one class in two
    ways, HandstandPushups/v_HandStandPushups_g10_c04.avi: classes are matched whatever their case.

    Raises UserError for a missing list, a line that does not fit, a label that is not classInd's (as in 0-based
    copies), a video in both lists of a split, and a training list without labels beside a test list with them: the
    official ones are the other way round, so these were swapped.
    """
    classes = _read_class_index(folder / "classInd.txt")
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    found: dict[str, ListedVideo] = {}
    splits = tuple(str(k) for k in (1, 2, 3) if any((folder / f"{kind}0{k}.txt").exists() for kind in _SUBSET_OF_LIST))
    if not splits:
        raise UserError(f"data.splits={folder} holds no trainlist01.txt and testlist01.txt: give the official lists")
    for split in splits:
        lines = {subset: _lines(folder / f"{kind}0{split}.txt") for kind, subset in _SUBSET_OF_LIST.items()}
        _refuse_swapped(folder, split, lines)
        for kind, subset in _SUBSET_OF_LIST.items():
            file = folder / f"{kind}0{split}.txt"
            for number, line in lines[subset]:
                video = _parse_ucf101_line(line, label_of, f"{file} line {number}")
                video = found.setdefault(video.name, video)
                if video.subsets.setdefault(split, subset) != subset:
                    raise UserError(f"{file} line {number}: {video.name} is also in the training list of split {split}")
    return classes, splits, list(found.values())


def _refuse_swapped(folder: Path, split: str, lines: dict[str, list[tuple[int, str]]]) -> None:
    labelled = {subset: any(len(line.split()) > 1 for _, line in listed) for subset, listed in lines.items()}
    if labelled["test"] and not labelled["train"]:
        raise UserError(
            f"data.splits={folder}: testlist0{split}.txt has labels and trainlist0{split}.txt has none, the official ones "
            "the other way round: they were swapped, take the official lists"
        )


def _read_class_index(file: Path) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for number, line in _lines(file):
        match = re.fullmatch(r"(\d+)\s+(\S+)", line)
        if match is None:
            raise UserError(
                f"{file} line {number}: {shown(line)} is not a class number and name such as '1 ApplyEyeMakeup'"
            )
        if int(match[1]) != len(names) + 1:
            raise UserError(
                f"{file} line {number}: class number {match[1]} where {len(names) + 1} is due: classes count from 1"
            )
        if match[2].lower() in (name.lower() for name in names.values()):
            raise UserError(f"{file} line {number}: the class {match[2]!r} stands there twice: take the official lists")
        names[int(match[1])] = match[2]
    return tuple(names.values())


def _parse_ucf101_line(line: str, label_of: dict[str, int], where: str) -> ListedVideo:
    match = re.fullmatch(r"(\w+)/(v_\w+_(g\d+)_c\d+)\.\w+(?:\s+(\d+))?", line)
    if match is None:
        raise UserError(f"{where}: {shown(line)} is not an entry such as 'Biking/v_Biking_g01_c01.avi 11'")
    label = label_of.get(match[1].lower())
    if label is None:
        raise UserError(f"{where}: class {match[1]!r} is not in classInd.txt")
    if match[4] is not None and int(match[4]) != label + 1:
        raise UserError(
            f"{where}: label {match[4]} where classInd.txt has {label + 1} for {match[1]}: labels count from 1, take "
            "the official lists"
        )
    return ListedVideo(f"{match[1]}/{match[2]}", label, match[3], {})


def read_hmdb51(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], list[ListedVideo]]:
    """Return classes in alphabetical order, the splits that are there, and the videos of the <class>_test_split{k}.txt.

    Lines are `name.avi flag`: 0 unused in the split, 1 train, 2 test; a video unused in every split is left out. The
    group is the part of the name before `_<class>_`, the film or clip it was cut from:
    50_FIRST_DATES_wave_f_cm_np1_fr_med_0 is of 50_FIRST_DATES.

    Raises UserError for missing lists, a class that lacks one of the splits, a line that does not fit, and a split with
    more test than training videos: the official ones have 70 and 30 a class, so the flags were swapped.
    """
    matches = [re.fullmatch(r"(\w+)_test_split([123])\.txt", file.name) for file in folder.iterdir()]
    listed = {(match[1], match[2]) for match in matches if match}
    if not listed:
        raise UserError(f"data.splits={folder} holds no <class>_test_split1.txt: give the official lists")
    classes = tuple(sorted({name for name, _ in listed}))
    splits = tuple(sorted({split for _, split in listed}))
    found: dict[str, ListedVideo] = {}
    for label, name in enumerate(classes):
        for split in splits:
            file = folder / f"{name}_test_split{split}.txt"
            for number, line in _lines(file):
                stem, flag = _parse_hmdb51_line(line, name, f"{file} line {number}")
                group = stem[: stem.rindex(f"_{name}_")]
                video = found.setdefault(f"{name}/{stem}", ListedVideo(f"{name}/{stem}", label, group, {}))
                subset = _SUBSET_OF_FLAG[flag]
                if subset and video.subsets.setdefault(split, subset) != subset:
                    raise UserError(f"{file} line {number}: {stem} is both train (1) and test (2) in split {split}")
    for split in splits:
        train, test = (sum(v.subsets.get(split) == subset for v in found.values()) for subset in ("train", "test"))
        if train < test:
            raise UserError(
                f"data.splits={folder}: split {split} has {train} training and {test} test videos, the official one 3570 "
                "and 1530: flag 1 is train and 2 is test, take the official lists"
            )
    return classes, splits, [video for video in found.values() if video.subsets]


def _parse_hmdb51_line(line: str, name: str, where: str) -> tuple[str, str]:
    match = re.fullmatch(rf"([^/\\]+_{name}_[^/\\]*)\.\w+\s+([012])", line)
    if match is None:
        raise UserError(
            f"{where}: {shown(line)} is not an entry such as '<source>_{name}_<codes>.avi 1' (flag 0, 1 or 2)"
        )
    return match[1], match[2]


def _lines(file: Path) -> list[tuple[int, str]]:
    """Return the numbered lines that are not blank, without outer blanks and line ends (CRLF in UCF-101's)."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.splits: cannot read the list {file}: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        if len(line) > _LONGEST_LINE:
            raise UserError(f"{file} line {number}: {shown(line)} has {len(line)} characters: take the official lists")
    return lines
