"""Data sets that tensorflow-datasets prepared, read from their version folder without it and without tensorflow."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.example_files import FORMATS, ExampleFrames, list_records
from input_pipeline.schema import UserError, shown_name
from input_pipeline.video_list import Video, VideoList, clean_name, existing_folder, such_as, unfit

_INFO, _FEATURES = "dataset_info.json", "features.json"

# tfds' defaults where dataset_info.json says nothing (core/naming.py, core/dataset_info.py).
_DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_DEFAULT_FORMAT = "tfrecord"
_SHARD_DIGITS = 5

# Text features that may hold a video's file name, and so UCF-101's group.
_FILE_NAMES = ("file_name", "filename", "video_name")

_UNLABELLED = -1

# A number beyond it is damage, and would fill the memory with names.
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class _Version:
    """What the JSON files of a version folder say."""

    folder: Path
    name: str
    format: str
    splits: dict[str, list[tuple[Path, int]]]  # split -> (shard, its examples)
    pictures: str  # name of the feature with the image or the frames
    still: bool
    label: str  # name of the label's feature
    classes: tuple[str, ...]
    file_name: str  # name of the text feature with file names; "" where there is none


@dataclass(frozen=True)
class _Example:
    name: str
    label: int
    file_name: str
    source: ExampleFrames


def list_tfds(data) -> VideoList:
    """Return the examples of a data set that tensorflow-datasets prepared as videos named such as train/00000017.

    data.videos is the version folder, or one above it that holds one version. It has one Image or Video feature (a
    Sequence of Images is a video too) and one ClassLabel; of several those called image, video or label are taken. The
    one split, "1", is tfds' train and test; validation is the test set where test is absent or unlabelled. Groups are
    the `_gNN_` of UCF-101's names where a text feature holds such names, else each example is its own.

    Raises UserError, naming folder and file, for what is absent, damaged, or of a format or feature not read here.
    """
    version = _read_version(existing_folder("data.videos", data.videos))
    notes: list[str] = []
    parts = {"train": _examples(version, "train", data.allow_missing, notes)}
    if not parts["train"]:
        has = ", ".join(version.splits) or "none"
        raise UserError(
            f"data.videos={version.folder}: no example of a split train is there and has a label; its splits are {has}"
        )
    for split in ("test", "validation"):
        if split in version.splits and "test" not in parts:
            examples = _examples(version, split, data.allow_missing, notes)
            parts |= {"test": examples} if examples else {}
            used = split
    unused = [name for name in version.splits if name not in ("train", used if "test" in parts else "")]
    if unused:
        notes.append(f"data.videos={version.folder}: {', '.join(unused)} of its splits have no part")
    everything = [(subset, example) for subset, examples in parts.items() for example in examples]
    groups = [re.search(r"_(g\d+)_", example.file_name) for _, example in everything]
    grouped = all(groups)
    subsets = {subset: {"1": subset} for subset in parts}
    videos = []
    for (subset, example), group in zip(everything, groups, strict=True):
        which = group[1] if grouped else example.name
        videos.append(Video(example.name, example.source.shard, example.label, which, subsets[subset], example.source))
    name = clean_name(version.name)
    return VideoList(name, "tfds", version.classes, ("1",), tuple(videos), still=version.still, notes=tuple(notes))


def _examples(version: _Version, split: str, allow_missing: bool, notes: list[str]) -> list[_Example]:
    """Return the labelled examples of a split; their numbers count all."""
    shards = version.splits.get(split, [])
    absent = [shard.name for shard, _ in shards if not shard.is_file()]
    if absent and not allow_missing:
        raise UserError(
            f"data.videos={version.folder}: {len(absent)} of {len(shards)} files of {split} are absent, "
            f"{such_as(absent)}: complete them, or set data.allow_missing=True to go on without"
        )
    if absent:
        notes.append(
            f"data.videos={version.folder}: {len(absent)} of {len(shards)} files of {split} are absent and left out"
        )
    found, unlabelled, number = [], 0, 0
    for shard, count in shards:
        labelled = _shard_examples(version, shard, count, f"{split}/", number) if shard.is_file() else []
        found += [example for example in labelled if example.label != _UNLABELLED]
        unlabelled += sum(example.label == _UNLABELLED for example in labelled)
        number += count
    if unlabelled:
        notes.append(f"data.videos={version.folder}: examples of {split} without a label, left out: {unlabelled}")
    return found


def _shard_examples(version: _Version, shard: Path, count: int, prefix: str, first: int) -> list[_Example]:
    examples = []
    for position, size, features in list_records(shard, version.format):
        values = features[version.label].int64_list.value if version.label in features else ()
        if len(values) != 1 or not _UNLABELLED <= values[0] < len(version.classes):
            raise UserError(
                f"{shard}: record {position} has the label {list(values)} where one below {len(version.classes)} is due"
            )
        texts = features[version.file_name].bytes_list.value if version.file_name in features else ()
        source = ExampleFrames(shard, version.format, position, size, version.pictures)
        text = texts[0].decode(errors="replace") if texts else ""
        examples.append(_Example(f"{prefix}{first + len(examples):08d}", values[0], text, source))
    if len(examples) != count:
        raise UserError(
            f"{shard}: holds {len(examples)} records where {_INFO} says {count}: copy it again or prepare the set again"
        )
    return examples


def _read_version(root: Path) -> _Version:
    """Return what the version folder says that `root` is or holds."""
    folder = _version_folder(root)
    info, features = _read_json(folder / _INFO), _read_json(folder / _FEATURES)
    file_format = info.get("fileFormat") or _DEFAULT_FORMAT
    if file_format not in FORMATS:
        raise UserError(
            f"data.videos={folder}: its files are of format {shown_name(str(file_format))}, read are "
            f"{' and '.join(FORMATS)}; prepare the set again with file_format='array_record'"
        )
    splits = _parsed(folder / _INFO, lambda: {entry["name"]: _shards(folder, info, entry) for entry in info["splits"]})
    kinds = _parsed(folder / _FEATURES, lambda: _feature_kinds(features))
    pictures = _only(kinds, ("image", "video"), folder)
    label = _only(kinds, ("label",), folder)
    classes = _class_names(folder, label, features["featuresDict"]["features"][label])
    file_names = [name for name in _FILE_NAMES if kinds.get(name) == "text"]
    name = _parsed(folder / _INFO, lambda: clean_name(info["name"]))
    file_name = file_names[0] if len(file_names) == 1 else ""
    return _Version(folder, name, file_format, splits, pictures, kinds[pictures] == "image", label, classes, file_name)


def _version_folder(root: Path) -> Path:
    if (root / _INFO).is_file():
        return root
    found = sorted(file.parent for pattern in ("*", "*/*") for file in root.glob(f"{pattern}/{_INFO}"))
    if not found:
        raise UserError(
            f"data.videos={root} holds no {_INFO}: give the version folder, such as "
            "tensorflow_datasets/ucf101/ucf101_1/2.0.0"
        )
    if len(found) > 1:
        names = [str(folder.relative_to(root)) for folder in found]
        raise UserError(f"data.videos={root} holds {len(found)} versions, {such_as(names)}: give one of these folders")
    return found[0]


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data.videos: {file} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"data.videos: {file} is not as tensorflow-datasets writes it: no object")
    return content


def _parsed(file: Path, parse):
    try:
        return parse()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"data.videos: {file} is not as tensorflow-datasets 4.5 or newer writes it ({type(error).__name__}: "
            f"{shown_name(str(error))}): prepare the set again"
        ) from error


def _shards(folder: Path, info: dict, entry: dict) -> list[tuple[Path, int]]:
    """Return (file, examples) of a split's shards; numbers are strings in the JSON of protobufs."""
    lengths = [int(length) for length in entry.get("shardLengths", ())]
    digits = max(_SHARD_DIGITS, len(str(len(lengths))))
    count = f"{len(lengths):0{digits}d}"
    shards = []
    for index, length in enumerate(lengths):
        number = f"{index:0{digits}d}"
        words = {
            "DATASET": info["name"],
            "SPLIT": entry["name"],
            "FILEFORMAT": info.get("fileFormat") or _DEFAULT_FORMAT,
            "SHARD_INDEX": number,
            "NUM_SHARDS": count,
            "SHARD_X_OF_Y": f"{number}-of-{count}",
        }
        file = entry.get("filepathTemplate") or _DEFAULT_TEMPLATE
        for word, value in words.items():
            file = file.replace(f"{{{word}}}", value)
        shards.append((folder / file, length))
    return shards


def _feature_kinds(features: dict) -> dict[str, str]:
    """Return {feature: "image", "video", "label", "text" or ""} of the features at the top level."""
    return {name: _kind(feature) for name, feature in features["featuresDict"]["features"].items()}


def _kind(feature: dict) -> str:
    if "sequence" in feature:
        return "video" if _kind(feature["sequence"]["feature"]) == "image" else ""
    # A float picture is kept as the bytes of its floats, four to a pixel of a PNG.
    for key, kind in (("image", "image"), ("video", "video"), ("classLabel", "label"), ("text", "text")):
        if key in feature:
            return "" if feature[key].get("dtype") == "float32" else kind
    return ""


def _only(kinds: dict[str, str], wanted: tuple[str, ...], folder: Path) -> str:
    """Return the one feature of these kinds, or of several the one called so."""
    words = {"image": "Image", "video": "Video", "label": "ClassLabel"}
    what = " or ".join(words[kind] for kind in wanted)
    found = [name for name, kind in kinds.items() if kind in wanted]
    named = [name for name in found if name in wanted]
    if not found:
        has = f"{', '.join(map(shown_name, kinds)) or 'none'}"
        raise UserError(f"data.videos={folder}: has no {what} among the features at its top level, which are {has}")
    if len(found) > 1 and len(named) != 1:
        raise UserError(
            f"data.videos={folder}: has {len(found)} features that are {what}, {such_as(found)}, and not one called "
            f"{' or '.join(wanted)}: which to take cannot be told"
        )
    return found[0] if len(found) == 1 else named[0]


def _class_names(folder: Path, label: str, feature: dict) -> tuple[str, ...]:
    """Return the names in <label>.labels.txt; without that file the numbers 0, 1, ... as names, as tfds does."""
    file = folder / f"{label.replace('/', '.')}.labels.txt"
    if not file.is_file():
        count = _parsed(folder / _FEATURES, lambda: int(feature["classLabel"]["numClasses"]))
        if count > _MOST_CLASSES:
            raise UserError(f"data.videos: {folder / _FEATURES} has {count} classes, more than {_MOST_CLASSES}")
        return tuple(str(number) for number in range(count))
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.videos: {file} cannot be read ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    unfit_names = [name for name in names if unfit(name)]
    if unfit_names:
        raise UserError(f"data.videos: {file}: {shown_name(unfit_names[0])} holds a control character")
    if len(set(names)) != len(names):
        raise UserError(f"data.videos: {file} names a class twice")
    return names
